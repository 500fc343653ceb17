"""Whatever is wrong with a platform file: it is said in time, with file, key, value and cure, and never a secret."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

import upkeep.platforms.backup
import upkeep.platforms.conduct
import upkeep.platforms.growth
import upkeep.platforms.protection
import upkeep.platforms.services  # noqa: F401  (all sections, so that Section knows its subclasses)
from upkeep.errors import SettingsError
from upkeep.platforms import load_file, platform, platforms, read_all
from upkeep.platforms.base import Section, format_duration, parse_duration
from upkeep.platforms.schema import schema
from upkeep.settings import settings

ROOT = Path(__file__).resolve().parent.parent
STUDYSPOT = yaml.safe_load((ROOT / "include/platforms/studyspot.yaml").read_text())
ADAPTIVE = yaml.safe_load((ROOT / "include/platforms/adaptive_learning.yaml").read_text())
DIGEST = "registry.example.com/trivy@sha256:" + "0123456789abcdef" * 4


def _full() -> dict[str, Any]:
    made = copy.deepcopy(STUDYSPOT)
    made["severity"]["checks"] = {"redis_hit_rate": "P4"}
    made["alerts"] |= {"webhook_conn_id": "upkeep_slack_webhook", "email": ["oncall@example.com"]}
    made["alertmanager"] = {"severities": {"critical": "P0"}, "least": "P2", "respond": True}
    made["kafka"] = copy.deepcopy(ADAPTIVE["kafka"])
    made["certificates"]["managed"] = copy.deepcopy(ADAPTIVE["certificates"]["managed"])
    made["scaling"] = copy.deepcopy(ADAPTIVE["scaling"])
    made["scaling"]["horizontal"] = {"least": 1, "most": 20, "cpu": 0.7, "memory": 0.8}
    made["capacity"]["limits"] = {"cpu_cores": 24, "memory": "96GiB", "storage": "1TB"}
    made["security"] |= {"scanner_image": DIGEST, "images": ["studyspot/cron"]}
    made["security"]["waivers"] = [
        {"id": "CVE-2026-12345", "object": "web", "reason": "the parser is off", "owner": "jo", "until": "2027-01-31"}
    ]
    made["backup"]["object_lock"] = "20d"
    cluster = {"prefix": "cluster/", "keep": "21d", "full_every": "7d", "checkpoint": "fast"}
    made["backup"]["cluster"] = {**cluster, "log_every": "5m", "slot": "upkeep"}
    made["recovery"]["drill"]["cluster"] = "studyspot"
    made["hosts"]["logs"][0]["holds"] = ["case-7*"]
    made["approvers"] |= {"people": ["jane", "joe"], "preapproved": {"restart": "P0"}}
    pod = {"image": DIGEST, "namespace": "airflow", "service_account": "upkeep", "cpu": 2, "memory": "1GiB"}
    made["execution"] |= {"executor": "KubernetesExecutor", "queue": "heavy", "pod": {**pod, "scratch": "2GiB"}}
    made["postgres"]["deletion"]["archive_bucket"] = "studyspot-archive"
    made["postgres"]["advice"]["accepted"] = {"public.bookings_by_year": "the yearly report"}
    bookings, users = made["postgres"]["tables"][:2]
    made["postgres"]["tables"][:2] = [users, bookings]
    web = made["http"]["endpoints"].pop(1)
    made["http"]["endpoints"][0] |= {"expect_text": web["expect_text"]}
    return made


FULL = json.dumps(_full())


def full() -> dict[str, Any]:
    """A platform in which every key of the model occurs; one's own to spoil."""
    return dict(json.loads(FULL))


def write(directory: Path, content: Any, name: str = "studyspot.yaml") -> Path:
    """JSON is YAML, and quick to write; only NaN and infinity are spelt otherwise."""
    text = content if isinstance(content, str) else json.dumps(content)
    file = directory / name
    if isinstance(content, str):
        file.write_text(text)
    else:
        file.write_text(re.sub(r"-?\bInfinity\b", ".inf", re.sub(r"\bNaN\b", ".nan", text)))
    return file


def refused(file: Path) -> str:
    """What is said about it, never after more than a second of work (of this process: the machine may be busy)."""
    began = time.process_time()
    with pytest.raises(SettingsError) as caught:
        load_file(file)
    assert time.process_time() - began < 1
    said = str(caught.value)
    assert said.startswith(f"{file.name}"), said
    assert "\nHINT: " in said
    assert len(said) < 5000
    return said


# -- every field, from the model ----------------------------------------------------------------------------------

SCHEMA = schema()
SIZE = r"\d*\.?\d+"
"""Part of the pattern of sizes, ``512MiB``; a size may also be a number, of bytes."""

At = tuple[str | int, ...]


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return {**SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]], **{k: v for k, v in node.items() if k != "$ref"}}
    return node


def branches(node: dict[str, Any]) -> list[dict[str, Any]]:
    node = resolve(node)
    return [option for branch in node["anyOf"] for option in branches(branch)] if "anyOf" in node else [node]


def walk(node: dict[str, Any], value: Any, at: At = ()) -> Iterator[tuple[At, list[dict[str, Any]], Any]]:
    """Each place of ``value`` with what the schema allows there; of a list only the first entry."""
    options = branches(node)
    yield at, options, value
    for option in options:
        if isinstance(value, dict) and option.get("type") == "object":
            for key, inner in option.get("properties", {}).items():
                assert key in value, f"{'.'.join(map(str, at))}.{key} is not in the full platform; add it to full()"
                yield from walk(inner, value[key], (*at, key))
            if isinstance(option.get("additionalProperties"), dict) and value:
                key = next(iter(value))
                yield from walk(option["additionalProperties"], value[key], (*at, key))
        if isinstance(value, list) and option.get("type") == "array" and value:
            yield from walk(option.get("items") or option["prefixItems"][0], value[0], (*at, 0))


def outside(options: list[dict[str, Any]], value: Any) -> Iterator[Any]:
    """Values that none of ``options`` allows."""
    kinds = {option.get("type") for option in options} | ({"string"} if any("enum" in o for o in options) else set())
    if kinds == {None}:
        return  # anything goes, as in expect_json
    if "string" not in kinds:
        yield "some text"
    if not kinds & {"integer", "number"}:
        yield 7
    if "boolean" not in kinds:
        yield True
    if "array" not in kinds:
        yield [["a"], "b"]
    if "object" not in kinds:
        yield {"a": {"b": 1}}
    if "null" not in kinds:
        yield None
    size = any(SIZE in option.get("pattern", "") for option in options)
    for option in options:
        yield from (wrong for wrong in beyond(option) if not (size and wrong in ("3", 1.5)))
    if size:
        yield from (float("nan"), float("inf"))


def beyond(option: dict[str, Any]) -> Iterator[Any]:
    kind = option.get("type")
    if "enum" in option or "const" in option:
        yield "no-such-word"
    elif kind == "string":
        if "maxLength" in option:
            yield "a" * (option["maxLength"] + 1)
        if option.get("minLength"):
            yield ""
        if "x-least" in option:
            yield format_duration(parse_duration(option["x-least"]) / 2)
            yield f"{parse_duration(option['x-most']).total_seconds() + 1:.0f}s"
        pattern = option.get("pattern", "")
        if "(ms|s|m|h|d|w|y)" in pattern:
            yield from ("5", "five minutes", "-1m", "1e3s", "0s", "101y", "9" * 400 + "d")
        elif SIZE in pattern:
            yield from ("much", "5 parsecs", "-1MB", "1e400GB", "999999999PB", "nan")
        elif pattern:
            yield from (text for text in ("", " ", "a b;c", "\x00", "../x", "ä" * 300) if not re.search(pattern, text))
        if option.get("format") == "date":
            yield from ("yesterday", "2027-02-30")
    elif kind == "integer":
        yield from (1.5, "3", 10**30)
    elif kind == "number":
        yield from ("0.5", float("nan"), float("inf"))
    if kind in ("integer", "number"):
        if "minimum" in option:
            yield option["minimum"] - 1
        if "exclusiveMinimum" in option:
            yield option["exclusiveMinimum"]
        if "maximum" in option:
            yield option["maximum"] * 1.5 if kind == "number" else option["maximum"] + 1
    if kind == "array" and (option.get("minItems") or option.get("prefixItems")):
        yield []
    if "propertyNames" in option:
        yield {"no such key!": "P1"}
    if kind == "object" and "properties" in option:
        yield {"nobody_knows_this": 1}


def part(at: At) -> dict[str, Any]:
    """The full platform without the sections that ``at`` has nothing to do with: quicker to read."""
    return {key: value for key, value in full().items() if key in ("name", "title", "severity", *at[:1])}


def put(content: Any, at: At, value: Any) -> Any:
    if not at:
        return value
    changed = content[at[0]]
    content[at[0]] = put(changed, at[1:], value)
    return content


PLACES = [(at, options, value) for at, options, value in walk(SCHEMA, full()) if at]
LEAVES = {".".join(map(str, at)): (at, options, value) for at, options, value in PLACES}


def test_the_full_platform_is_good_and_has_every_key_of_the_model(tmp_path):
    assert load_file(write(tmp_path, full())).name == "studyspot"
    reached = {str(key) for at, _, _ in PLACES for key in at}
    known = {key for model in sections() for key in model.model_fields}
    assert known <= reached
    assert len(PLACES) > 300


@pytest.mark.parametrize("key", LEAVES)
def test_a_wrong_value_is_named_with_file_key_value_and_cure(key, tmp_path):
    at, options, value = LEAVES[key]
    bad = list(outside(options, value))
    for number, wrong in enumerate(bad):
        file = write(tmp_path, put(part(at), at, wrong))
        os.utime(file, ns=(number, number))  # it is read again, although it may be as long as before
        said = refused(file)
        assert f"studyspot.yaml: `{key}" in said, (wrong, said)
        assert "every key is described in" in said
        assert shown(wrong) in said, (wrong, said)
    assert bad or options == [{}] or "expect_json" in key


def shown(wrong: Any) -> str:
    if isinstance(wrong, dict):
        # An object may be one in kind and wrong inside: then the inner key and value are named.
        return "got"
    if isinstance(wrong, list):
        return f"a list of {len(wrong)}" if wrong else "is "
    return f"got {wrong!r}"[:60]


OBJECTS = [
    (at, option, value)
    for at, options, value in walk(SCHEMA, full())
    for option in options
    if "properties" in option and isinstance(value, dict)
]


@pytest.mark.parametrize("place", OBJECTS, ids=lambda place: ".".join(map(str, place[0])) or "top")
def test_an_unknown_key_is_refused_at_every_level(place, tmp_path):
    at, option, value = place
    value = {key: inner for key, inner in value.items() if at or key in part(at)}
    near = next(iter(option["properties"]))
    content = put(part(at), at, {**value, f"{near}x": 5, "gibberish": "some value"})
    said = refused(write(tmp_path, content))
    for key in (f"{near}x", "gibberish"):
        assert f"`{'.'.join(map(str, (*at, key)))}` is wrong: no such key" in said
    assert f"did you mean '{near}'?, got 5" in said
    assert "got 'some value'" in said


REQUIRED = [
    (*at, key)
    for at, option, value in OBJECTS
    for key in option.get("required", ())
]  # fmt: skip


@pytest.mark.parametrize("at", REQUIRED, ids=lambda at: ".".join(map(str, at)))
def test_a_required_key_that_is_left_out_is_named(at, tmp_path):
    content = part(at)
    without(*at)(content)
    assert f"studyspot.yaml: `{'.'.join(map(str, at))}` is missing" in refused(write(tmp_path, content))


def test_many_mistakes_are_told_at_once_and_no_more_than_twenty(tmp_path):
    content = full()
    content["severity"]["checks"] = {f"check_{n}": "P9" for n in range(100)}
    said = refused(write(tmp_path, content))
    assert said.count("\n") == 21
    assert "… and 80 more" in said


# -- every validator ----------------------------------------------------------------------------------------------


def sections() -> list[type[BaseModel]]:
    def below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for sub in model.__subclasses__():
            if sub.__module__.startswith("upkeep."):
                yield sub
                yield from below(sub)

    return list(below(Section))


def change(*at: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        put(content, at, to)

    return apply


def twice(*at: str | int) -> Callable[[dict[str, Any]], None]:
    """The first entry of the list a second time."""

    def apply(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in at:
            inner = inner[key]
        inner.append(copy.deepcopy(inner[0]))

    return apply


def without(*at: str | int) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in at[:-1]:
            inner = inner[key]
        del inner[at[-1]]

    return apply


VALIDATORS: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    # (class.validator, how to break it, what is said)
    ("Threshold._worse", change("metrics", "disk", "critical_severity", to="P4"), "`metrics.disk` is wrong: critical"),
    ("_rising", change("postgres", "replication_lag", "warn", to=100), "`postgres.replication_lag` is wrong: warn"),
    ("_falling", change("redis", "hit_rate", "critical", to=0.9), "`redis.hit_rate` is wrong: warn (0.8) is below"),
    ("_shares", change("metrics", "disk", "critical", to=90), "shares of a whole are at most 1: write 0.8 for 80 %"),
    ("_not_nothing", change("backup", "fresh", to="0h"), "`backup.fresh` is wrong: a duration is longer than nothing"),
    ("parse_duration", change("backup", "fresh", to="300y"), "`backup.fresh` is wrong: a duration is at most 100y"),
    ("Between", change("backup", "fresh", to="1m"), "`backup.fresh` is wrong: between 1h and 90d, got '1m'"),
    ("Level._in_order", change("severity", "levels", "P0", "respond", to="9h"), "respond is longer than resolve"),
    ("Severities._all", without("severity", "levels", "P2"), "`severity.levels` is wrong: no level for P2"),
    ("Severities._all", change("severity", "levels", "P1", "respond", to="5m"), "more time to respond than a lesser"),
    ("Severities._all", change("severity", "levels", "P1", "name", to="p1 critical"), "two levels with the same name"),
    ("Severities._order", change("severity", "notify", to="P0"), "paging (P1) reaches further than notify (P0)"),
    ("_cron", change("windows", "daily", "start", to="61 2 * * *"), "`windows.daily.start` is wrong: a cron"),
    ("_cron", change("windows", "daily", "start", to="@daily"), "a cron expression has five fields"),
    ("_cron", change("windows", "daily", "start", to="0 2 * * * *"), "a cron expression has five fields"),
    ("_cron", change("windows", "daily", "start", to="0 0 30 2 *"), "it never comes: that month"),
    ("_plain_url", change("metrics", "prometheus", to="file:///etc/passwd"), "a URL starts with https:// or http://"),
    ("_plain_url", change("metrics", "prometheus", to="https://"), "names a host"),
    ("_plain_url", change("metrics", "prometheus", to="http://h:99999"), "the port of a URL is a number up to 65535"),
    ("_plain_url", change("metrics", "prometheus", to="http://h/a b"), "a URL has no blanks"),
    ("_plain_url", change("metrics", "prometheus", to="http://jo@h"), "a URL carries no user or password"),
    ("Endpoint._reachable", change("http", "endpoints", 0, "slow", to="4s"), "slow is longer than timeout"),
    ("Http._distinct", twice("http", "endpoints"), "`http.endpoints` is wrong: two entries with the same name: 'api'"),
    ("_condition", change("postgres", "tables", 0, "retention", "only", to="1=1; drop table x"), "one SQL condition"),
    ("_condition", change("postgres", "tables", 0, "retention", "hold", to="true) or (true) -- "), "one SQL condition"),
    ("Query._reads_only", change("postgres", "queries", 0, "sql", to="delete from users"), "one SELECT"),
    ("Query._reads_only", change("postgres", "queries", 0, "sql", to="select 1; drop table users"), "one SELECT"),
    ("Postgres._distinct", twice("postgres", "tables"), "`postgres.tables` is wrong: two entries with the same name"),
    ("Postgres._distinct", twice("postgres", "queries"), "`postgres.queries` is wrong: two entries with the same name"),
    ("Deletion._rows", change("postgres", "deletion", "most_rows", to=10), "least_rows (500) is more than most_rows"),
    ("Kafka._distinct", twice("kafka", "groups"), "`kafka.groups` is wrong: two entries with the same group"),
    ("Deployment._bounds", change("kubernetes", "deployments", 0, "least", to=9), "least (9) is more than most (5)"),
    ("Kubernetes._low_high", change("kubernetes", "image_gc", to=[0.9, 0.8]), "low (0.9) is not below high (0.8)"),
    ("Kubernetes._distinct", twice("kubernetes", "deployments"), "`kubernetes.deployments` is wrong: two entries"),
    ("_absolute", change("hosts", "logs", 0, "path", to="var/log"), "`hosts.logs.0.path` is wrong: a path starts"),
    ("_absolute", change("hosts", "logs", 0, "path", to="/var/log/../../etc"), "a path does not climb (..)"),
    ("_absolute", change("hosts", "logs", 0, "path", to="/var/\0log"), "a path has no NUL"),
    ("_absolute", change("backup", "configuration", "paths", to=["/etc/../root"]), "`backup.configuration.paths.0`"),
    ("LogClass._below", change("hosts", "logs", 0, "classes", 0, "pattern", to="../*"), "stays below its tree"),
    ("LogClass._below", change("hosts", "logs", 0, "classes", 0, "pattern", to="/etc/*"), "stays below its tree"),
    ("LogTree._distinct", twice("hosts", "logs", 0, "classes"), "`hosts.logs.0.classes` is wrong: two entries"),
    ("TemporaryTree._ours", change("hosts", "temporary", 0, "pattern", to="*"), "a pattern names our own files"),
    ("TemporaryTree._ours", change("hosts", "temporary", 0, "pattern", to="../*"), "a pattern names our own files"),
    ("Security._all", without("security", "grades", "LOW"), "`security.grades` is wrong: no grade for LOW"),
    ("Security._all", change("security", "grades", "HIGH", "fix_within", to="1d"), "a worse vulnerability may not"),
    ("Security._distinct", twice("security", "projects"), "`security.projects` is wrong: two entries"),
    ("Security._pinned", change("security", "scanner_image", to="aquasec/trivy"), "the scanner's image is named by"),
    ("Certificates._distinct", twice("certificates", "managed"), "`certificates.managed` is wrong: two entries"),
    (
        "Certificates._one_owner",
        lambda content: content["certificates"]["managed"].append(
            {"name": "other", "secret_name": "other", "hosts": ["api.adaptivelearning.com"]}
        ),
        "api.adaptivelearning.com belongs to two certificates",
    ),
    ("_folder", change("backup", "database", "prefix", to="database"), "a prefix ends with /"),
    ("_folder", change("backup", "database", "prefix", to="a/../b/"), "no . and no .."),
    ("ConfigurationBackup._something", change("backup", "configuration", to={"kubernetes": False}), "nothing to keep"),
    ("Backup._sensible", change("backup", to={"bucket": "some-bucket"}), "neither database, cluster"),
    ("Backup._sensible", change("backup", "files", "prefix", to="database/files/"), "overlap"),
    ("Backup._sensible", change("backup", "files", "bucket", to="studyspot-backups"), "that is no second copy"),
    ("Backup._sensible", change("backup", "least_size", to=0.9), "is inside size_band"),
    ("Backup._sensible", change("backup", "database", "keep", to="1d"), "every backup would be old or gone"),
    ("Backup._sensible", change("backup", "object_lock", to="60d"), "object_lock is longer than database.keep"),
    ("ClusterBackup._whole_minutes", change("backup", "cluster", "log_every", to="7m"), "divides an hour into whole"),
    ("Drill._cluster", change("recovery", "drill", to={"failover": "patroni"}), "failover by patroni needs the name"),
    ("Drill._cluster", change("recovery", "drill", to={"gap": "1h", "most": "10m"}), "gap is longer than the whole"),
    ("Recovery._measurable", change("recovery", "rpo", to="30s"), "heartbeat is longer than rpo"),
    ("Capacity._distinct", twice("capacity", "growth"), "`capacity.growth` is wrong: two entries"),
    ("Capacity._order", change("capacity", "critical_left", to="30d"), "critical_left is not shorter than warn_left"),
    ("Capacity._order", change("capacity", "horizon", to="10d"), "warn_left is beyond the horizon"),
    ("Step._apart", change("scaling", "cpu", "down", to=0.7), "`scaling.cpu` is wrong: down (0.7) is not below"),
    ("Horizontal._bounds", change("scaling", "horizontal", "least", to=30), "least (30) is more than most (20)"),
    ("Horizontal._bounds", change("scaling", "horizontal", to={"cpu": None, "memory": None}), "nothing to go by"),
    ("Nodes._bounds", change("scaling", "nodes", "most", to=2), "least (3) is more than most (2)"),
    ("Nodes._bounds", change("scaling", "nodes", "down", to=0.9), "down (0.9) is not below up (0.7)"),
    ("Scaling._no_clash", change("scaling", "vertical", to="recreate"), "pull at the same pods"),
    ("Scaling._no_clash", change("scaling", "storage_alert", to=0.95), "storage_alert is not below storage_expand"),
    ("Brake._order", change("brake", "longest_wait", to="10s"), "first_wait is longer than longest_wait"),
    ("Approvers._once", change("approvers", "people", to=["jane", "Jane"]), "`approvers.people` is wrong: the same"),
    ("Approvers._two", change("approvers", "people", to=["jane"]), "second_for asks two people and only one is named"),
    ("Pod._pinned", change("execution", "pod", "image", to="upkeep/upkeep"), "the image is named by digest"),
    ("Execution._complete", change("execution", to={"heavy": "pod"}), "heavy: pod needs a pod section"),
    ("Execution._complete", change("execution", to={"heavy": "executor"}), "heavy: executor needs the name"),
    ("Platform._sections_agree", without("postgres"), "needs a postgres section"),
    ("Platform._sections_agree", without("kubernetes"), "needs a kubernetes section"),
    ("Platform._sections_agree", without("backup"), "recovery needs a backup section"),
    ("Platform._sections_agree", change("postgres", "standbys", to=0), "streaming needs a standby"),
    ("Platform._sections_agree", change("scaling", "horizontal", "most", to=4), "studyspot-api (3–5) is outside"),
    ("Platform._sections_agree", change("name", to="shop_backup"), "a platform's name does not end in _backup"),
    ("load", change("name", to="shop"), "`name` is wrong: it equals the file name, got 'shop'"),
]  # fmt: skip


@pytest.mark.parametrize("case", VALIDATORS, ids=[f"{n}-{case[0]}" for n, case in enumerate(VALIDATORS)])
def test_what_clashes_is_named_with_what_it_clashes_with(case, tmp_path):
    _, break_it, told = case
    content = full()
    break_it(content)
    said = refused(write(tmp_path, content))
    assert told in said, said


def test_every_validator_has_its_case():
    wanted = set()
    for model in sections():
        decorators = model.__pydantic_decorators__
        for name in (*decorators.field_validators, *decorators.model_validators):
            wanted.add(f"{model.__name__}.{name}")
    assert wanted <= {case[0] for case in VALIDATORS}


# -- secrets ------------------------------------------------------------------------------------------------------

PASSWORD = "Hunter2-Wd9xK3qLm0ZpT7"
LEAKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "password of a section": change("redis", to={"password": PASSWORD}),
    "token at the top": lambda content: content.update(slack_token=PASSWORD),
    "under a list": lambda content: content["http"]["endpoints"][0].update(api_key=PASSWORD),
    "a mapping of secrets": lambda content: content["redis"].update(credentials={"user": "jo", "value": PASSWORD}),
    "a list of secrets": lambda content: content["redis"].update(passwords=[PASSWORD]),
    "in a URL": change("metrics", "prometheus", to=f"https://jo:{PASSWORD}@prometheus:9090"),
    "in a URL, with a slash": change("metrics", "prometheus", to=f"https://jo:x/{PASSWORD}@prometheus:9090"),
    "as the user of a URL": change("metrics", "prometheus", to=f"https://{PASSWORD}@prometheus:9090"),
    "in a connection string under an unknown key": lambda content: content["postgres"].update(
        url=f"postgresql://upkeep:{PASSWORD}@db/studyspot"
    ),
    "in keywords": lambda content: content["postgres"].update(connect=f"host=db password={PASSWORD}"),
    "while its parent is wrong": lambda content: content["http"]["endpoints"][0].update(
        url=f"https://jo:{PASSWORD}@api", slow="4s", timeout="1s"
    ),
    "while its parent is of the wrong kind": change("redis", to=[{"password": PASSWORD}]),
    "while it is of the wrong kind": change("redis", "severity", to={"password": PASSWORD}),
    "beside another mistake": lambda content: content["kubernetes"].update(least=3, token=PASSWORD),
    "where the parent's validator complains": lambda content: content.update(
        brake={"first_wait": "10m", "longest_wait": "1m"}, title=f"https://jo:{PASSWORD}@x"
    ),
    "in a key": lambda content: content.update({f"https://jo:{PASSWORD}@db": 1}),
    "as a key that is written twice": lambda content: None,
    "as text where a number belongs": change("kafka", "brokers", to=PASSWORD),
    "a bot token as title": change("title", to=f"xoxb-1234567890-{PASSWORD}"),
    "a private key": change("postgres", "queries", 0, "sql", to=f"-----BEGIN PRIVATE KEY-----\n{PASSWORD}\n"),
    "a web hook": change("http", "endpoints", 0, "url", to=f"https://hooks.slack.com/services/T0/B0/{PASSWORD}"),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_in_the_file_is_refused_and_not_repeated(leak, tmp_path):
    content = full()
    LEAKS[leak](content)
    text = json.dumps(content)
    if "twice" in leak:
        text = f"https://jo:{PASSWORD}@db: 1\nhttps://jo:{PASSWORD}@db: 2\n"
    said = refused(write(tmp_path, text))
    for piece in (PASSWORD, PASSWORD[:8], PASSWORD[-8:]):
        assert piece not in said
    assert "hidden" in said or "secret" in said or "***" in said or "got a " in said, said


def test_a_secret_is_refused_with_the_advice_to_change_it(tmp_path):
    content = full()
    content["redis"]["password"] = PASSWORD
    said = refused(write(tmp_path, content))
    assert "`redis.password` is a secret; secrets live in Airflow connections" in said
    assert "HINT: put it into an Airflow connection, and change it" in said
    content = full()
    content["title"] = f"https://jo:{PASSWORD}@x/"
    assert "`title` holds a secret" in refused(write(tmp_path, content, "studyspot2.yaml"))


# -- files that are hardly files ----------------------------------------------------------------------------------

ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k0: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join(['*a'] * 200)}]}}\n" for n in range(200))
VALID = (ROOT / "include/platforms/studyspot.yaml").read_text()

NASTY: dict[str, tuple[bytes | str, str]] = {
    "empty": ("", "a platform is a mapping, got NoneType"),
    "only a comment": ("# nothing yet\n", "a platform is a mapping, got NoneType"),
    "a list": ("- name: studyspot\n", "a platform is a mapping, got list"),
    "a word": ("studyspot\n", "a platform is a mapping, got str"),
    "a number": ("42\n", "a platform is a mapping, got int"),
    "two documents": ("name: studyspot\n---\nname: shop\n", "not readable as YAML"),
    "tabs": ("name: studyspot\nhttp:\n\tendpoints: []\n", "line 3: not readable as YAML"),
    "unbalanced": ("name: {studyspot\n", "not readable as YAML"),
    "a key written twice": (VALID + "\ntitle: Again\n", "'title' is written twice"),
    "an inner key written twice": (VALID.replace("  bucket: ", "  severity: P2\n  bucket: "), "is written twice"),
    "a truth value as key": ("on: 1\n", "a key is a plain word, got on (quote it if you mean it)"),
    "a number as key": ("7: 1\n", "a key is a plain word, got 7"),
    "a list as key": ("[a, b]: 1\n", "a key is a plain word, got a list"),
    "aliases in aliases": (ALIASES, "more than 20000 values or 50 levels"),
    "merges of merges": (MERGES, "more than 20000 values or 50 levels"),
    "a list that contains itself": ("name: &a [*a]\n", "unconstructable recursive node"),
    "a mapping that contains itself": ("name: &a {b: *a}\n", "unconstructable recursive node"),
    "an alias of nothing": ("name: *nobody\n", "undefined alias"),
    "deep brackets": ("[" * 200_000, "more than 20000 values or 50 levels"),
    "deep braces": ("{a: " * 60_000, "more than 20000 values or 50 levels"),
    "deep dashes": ("- " * 100_000, "more than 20000 values or 50 levels"),
    "deep question marks": ("? " * 100_000, "more than 20000 values or 50 levels"),
    "very many values": ("[" + "1," * 100_000 + "1]", "more than 20000 values or 50 levels"),
    "a python object": ("name: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
    "a python name": ("name: !!python/name:os.system\n", "could not determine a constructor"),
    "an unknown tag": ("name: !secret db\n", "could not determine a constructor"),
    "bytes": ("name: !!binary aGVsbG8=\n", "a platform file has no place for a bytes"),
    "a set": ("name: !!set {a, b}\n", "a platform file has no place for a set"),
    "NUL": ("name: study\0spot\n", "not readable as YAML"),
    "an escaped NUL": ('name: "study\\0spot"\n', "`name` is wrong"),
    "half a character": ('title: "\\ud800"\n', "not readable as YAML"),
    "not UTF-8": (b"title: Caf\xe9\n", "not UTF-8 text: byte 10 is 0xe9"),
    "UTF-16": ("name: studyspot\n".encode("utf-16"), "not UTF-8 text"),
    "gzip": (b"\x1f\x8b\x08\x00" + os.urandom(2000), "not"),
    "1 MB of random bytes": (os.urandom(1 << 20), "1048576 bytes; at most 262144 are read"),
    "1 MB of text": ("lorem ipsum dolor\n" * 60_000, "at most 262144 are read"),
    "1 MB in one line": ("a" * (1 << 20), "at most 262144 are read"),
    "200 KB of text": ("lorem ipsum dolor\n" * 11_000, "a value of"),
    "200 KB in one line": ("name: " + "a" * 200_000, "line 1: a value of 200000 characters"),
    "200 KB of random bytes": (os.urandom(200_000), "not"),
    "200 KB of colons": ("a: " * 66_000, "not readable as YAML"),
    "200 KB of a number in base 60": ("n: 1" + ":59" * 60_000, "a value of 180001 characters"),
    "200 KB of digits": ("n: " + "9" * 200_000, "a value of 200000 characters"),
    "5,000 digits": ("n: " + "9" * 5_000, "not readable as YAML"),
    "4,000 digits": (VALID.replace("standbys: 1", "standbys: " + "9" * 4_000), "`postgres.standbys` is wrong"),
    "a number beyond floats": (VALID.replace("full: 0.9", "full: 1.0e+999"), "`capacity.full` is wrong"),
    "not a number": (VALID.replace("full: 0.9", "full: .nan"), "`capacity.full` is wrong"),
    "a date that does not exist": ("name: 2026-02-30\n", "not readable as YAML"),
    "a date as name": ("name: 2026-02-03\n", "`name` is wrong"),
    "200 KB of anchors": ("".join(f"k{n}: &a{n} x\n" for n in range(15_000)), "more than 20000 values"),
    "200 KB of comments": (VALID + "# x\n" * 50_000 + "title: Again\n", "'title' is written twice"),
    "200 KB of exclamation marks": ("!" * 200_000, "not readable as YAML"),
    "200 KB of quotes": ('"' * 200_000, "not readable as YAML"),
    "200 KB of secrets": ("name: '" + "https://a:b@c/ " * 500 + "'", "holds a secret"),
    "200 KB of beginnings of secrets": ("\n".join(f"k{n}: {'a://' * 1900}" for n in range(25)), "no such key"),
    "200 KB of beginnings of tokens": ("\n".join(f"k{n}: {'eyJ-' * 1900}" for n in range(25)), "no such key"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NASTY)
def test_a_file_that_is_hardly_one_is_refused_within_a_second(kind, tmp_path):
    raw, told = NASTY[kind]
    file = tmp_path / "studyspot.yaml"
    file.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    assert told in refused(file)


def test_no_file_takes_more_than_100_megabytes(tmp_path):
    for number, (raw, _) in enumerate(NASTY.values()):
        (tmp_path / f"p{number}.yaml").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    script = (
        "import resource\n"
        "from upkeep.platforms import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "good, broken = read_all()\n"
        "print(len(good), len(broken), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    environment = {**os.environ, "UPKEEP_PLATFORMS": str(tmp_path), "PYTHONPATH": str(ROOT / "plugins")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    good, broken, kilobytes = map(int, done.stdout.split())
    assert (good, broken) == (0, len(NASTY))
    assert kilobytes < 100 * 1024


def test_a_directory_a_pipe_a_device_and_links_to_nowhere_are_refused(tmp_path):
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    (tmp_path / "round.yaml").symlink_to(tmp_path / "about.yaml")
    (tmp_path / "about.yaml").symlink_to(tmp_path / "round.yaml")
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nothing")
    told = {file.name: refused(file) for file in tmp_path.iterdir()}
    assert "not a regular file" in told["directory.yaml"]
    assert "not a regular file" in told["pipe.yaml"]
    assert "not a regular file" in told["device.yaml"]
    assert "Too many levels of symbolic links" in told["loop.yaml"]
    assert "Too many levels of symbolic links" in told["round.yaml"]
    assert "No such file" in told["dangling.yaml"]


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    file = write(tmp_path, full())
    file.chmod(0)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    reader, writer = os.pipe()
    if not (child := os.fork()):  # root may read everything, so somebody else tries
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            load_file(file)
            os.write(writer, b"was read")
        except SettingsError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        said = answers.read()
    os.waitpid(child, 0)
    assert said == (
        "studyspot.yaml: cannot be read: Permission denied\nHINT: look at its mode and owner, and at where it points."
    )


# -- several files ------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An own directory of platform files."""
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def test_broken_files_leave_the_healthy_platforms_alone(directory):
    write(directory, full())
    write(directory, {**ADAPTIVE, "name": "adaptive_learning"}, "adaptive_learning.yaml")
    write(directory, full() | {"name": "shop", "windows": "always"}, "shop.yaml")
    write(directory, "{{{", "junk.yaml")
    (directory / "bomb.yaml").write_text(ALIASES)
    (directory / "directory.yaml").mkdir()
    write(directory, full() | {"name": "late"}, "late.yml")
    write(directory, "half written", ".#studyspot.yaml")
    assert [p.name for p in platforms()] == ["adaptive_learning", "studyspot"]
    good, broken = read_all()
    assert [p.name for p in good] == ["adaptive_learning", "studyspot"]
    told = {b.file.name: str(b.error) for b in broken}
    assert set(told) == {"shop.yaml", "junk.yaml", "bomb.yaml", "directory.yaml", "late.yml"}
    assert (
        "late.yml: platform files end in .yaml, this one is not read\nHINT: rename it to late.yaml." in told["late.yml"]
    )


def test_two_files_for_one_name_are_never_both_read(directory):
    write(directory, full())
    write(directory, full(), "StudySpot.yaml")
    write(directory, full(), "studyspot_copy.yaml")
    good, broken = read_all()
    assert [p.name for p in good] == ["studyspot"]
    told = {b.file.name: str(b.error) for b in broken}
    assert "`name` is wrong: it equals the file name, got 'studyspot'" in told["StudySpot.yaml"]
    assert "HINT: write `name: studyspot_copy`, or rename the file to studyspot.yaml." in told["studyspot_copy.yaml"]


def test_a_directory_that_is_not_there_is_said(directory, monkeypatch):
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(directory / "nowhere"))
    settings.cache_clear()
    good, (broken,) = read_all()
    assert good == []
    assert "no directory with platform files: No such file or directory\nHINT: set `platforms`" in str(broken.error)


@pytest.mark.parametrize(
    "name", ["shop", "../../etc/passwd", "studyspot.yaml", "", "x" * 1_000_000, "'; drop table", "\0"]
)
def test_a_platform_that_is_not_there_is_said_with_those_that_are(directory, name):
    write(directory, full())
    with pytest.raises(SettingsError, match=r"no platform .*; there are: studyspot\nHINT: ") as caught:
        platform(name)
    assert len(str(caught.value)) < 500


def test_a_file_is_read_again_once_it_has_changed(directory):
    file = write(directory, full())
    first = load_file(file)
    assert load_file(file) is first
    write(directory, full() | {"title": "StudySpot again"})
    assert load_file(file).title == "StudySpot again"


def test_a_file_that_was_mended_is_read(directory):
    file = write(directory, "{{{")
    refused(file)
    write(directory, full())
    assert load_file(file).name == "studyspot"


def test_the_whole_of_these_tests_stays_small():
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1024 * 1024
