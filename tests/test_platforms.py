"""The platform files that ship, their schema, and what is promised about them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from upkeep.findings import Severity
from upkeep.platforms import Platform, load_file, platform, platforms, read_all
from upkeep.platforms import schema as editors
from upkeep.platforms.base import Section, Threshold, format_duration, parse_duration
from upkeep.settings import settings

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "include" / "platforms").glob("*.yaml"))


def test_both_platforms_ship():
    assert [file.stem for file in FILES] == ["adaptive_learning", "studyspot"]
    assert [p.name for p in platforms()] == ["adaptive_learning", "studyspot"]
    assert read_all()[1] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_platform_file_names_its_schema_and_keeps_it(file):
    text = file.read_text()
    assert text.startswith("# yaml-language-server: $schema=./platform.schema.json\n")
    jsonschema.Draft202012Validator(editors.schema()).validate(yaml.safe_load(text))


def test_the_schema_file_is_up_to_date():
    assert (ROOT / "include/platforms" / editors.FILE).read_text() == editors.text(), "run `python -m upkeep schema`"
    jsonschema.Draft202012Validator.check_schema(editors.schema())


def sections() -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []

    def add(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found.append(annotation)
            for field in annotation.model_fields.values():
                add(field.annotation)
        for part in get_args(annotation):
            add(part)

    add(Platform)
    return found


def test_every_key_is_described_and_every_section_closed_and_frozen():
    assert len(sections()) > 40
    made = editors.schema()
    for section in sections():
        assert issubclass(section, Section)
        assert section.__doc__, section
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["frozen"] is True
        node = made if section is Platform else made["$defs"][section.__name__]
        silent = [key for key in section.model_fields if not node["properties"][key].get("description")]
        assert not silent, f"{section.__name__}: {silent} say nothing about themselves"


def test_studyspot_shows_every_key_or_says_where_it_is():
    """The hint of every error sends people there."""
    text = "\n".join(file.read_text() for file in FILES)
    missing = {
        f"{section.__name__}.{key}" for section in sections() for key in section.model_fields if f"{key}:" not in text
    }
    assert not missing


def test_a_model_can_be_written_and_read_again():
    for file in FILES:
        made = load_file(file)
        assert Platform.model_validate_json(made.model_dump_json(), strict=True) == made


def test_nothing_can_be_changed_in_a_model():
    with pytest.raises(Exception, match="frozen"):
        platform("studyspot").title = "Other"  # type: ignore[misc]


STUDYSPOT: dict[str, Any] = {
    # what the handbook says, and where it stands in the model
    "severity.levels.P0.name": "P1 Critical",
    "severity.levels.P1.name": "P2 High",
    "severity.levels.P2.name": "P3 Medium",
    "severity.levels.P3.name": "P4 Low",
    "severity.levels.P0.respond": timedelta(minutes=15),
    "severity.levels.P0.resolve": timedelta(hours=2),
    "severity.levels.P1.respond": timedelta(hours=1),
    "severity.levels.P1.resolve": timedelta(hours=8),
    "severity.levels.P2.respond": timedelta(hours=4),
    "severity.levels.P2.resolve": timedelta(hours=24),
    "severity.levels.P3.respond": timedelta(hours=24),
    "severity.levels.P3.resolve": timedelta(weeks=1),
    "alerts.channel": "#alerts",
    "http.endpoints.0.url": "https://api.studyspot.com/health",
    "http.endpoints.0.slow": timedelta(seconds=1),
    "postgres.connections.warn": 0.8,
    "postgres.long_query": timedelta(minutes=5),
    "postgres.advice.slow_query": timedelta(seconds=1),
    "postgres.tables.0.name": "bookings",
    "postgres.tables.0.retention.keep": timedelta(days=3 * 366),
    "postgres.tables.1.name": "users",
    "postgres.tables.1.retention.keep": timedelta(days=7 * 366),
    "metrics.disk.critical": 0.9,
    "metrics.memory.critical": 0.9,
    "kubernetes.namespace": "studyspot",
    "kubernetes.staging_namespace": "studyspot-staging",
    "kubernetes.deployments.0.name": "studyspot-api",
    "kubernetes.deployments.0.container": "api",
    "kubernetes.deployments.0.image": "studyspot/api",
    "kubernetes.deployments.0.least": 3,
    "kubernetes.deployments.0.most": 5,
    "kubernetes.deployments.1.name": "studyspot-web",
    "kubernetes.deployments.1.image": "studyspot/web",
    "kubernetes.deployments.1.least": 2,
    "kubernetes.deployments.1.most": 3,
    "hosts.logs.0.path": "/var/log/studyspot",
    "hosts.logs.0.classes.4.keep": timedelta(days=7),
    "hosts.logs.0.classes.0.keep": "forever",
    "hosts.temporary.0.path": "/tmp",
    "hosts.temporary.0.pattern": "studyspot-*",
    "hosts.temporary.0.older_than": timedelta(days=1),
    "security.least": "HIGH",
    "security.key_directories.0": "/etc",
    "backup.bucket": "studyspot-backups",
    "backup.database.prefix": "database/",
    "backup.database.keep": timedelta(days=30),
    "backup.files.bucket": "studyspot-files",
    "backup.files.storage_class": "STANDARD_IA",
    "backup.configuration.keep": timedelta(days=90),
    "backup.configuration.paths.0": "/etc/studyspot",
    "backup.configuration.paths.1": "/opt/studyspot/config",
    "cdn.provider": "cloudflare",
}
ADAPTIVE: dict[str, Any] = {
    "severity.levels.P0.name": "P0 Critical",
    "severity.levels.P3.name": "P3 Low",
    "severity.levels.P0.respond": timedelta(minutes=15),
    "severity.levels.P1.respond": timedelta(hours=1),
    "severity.levels.P2.respond": timedelta(hours=4),
    "severity.levels.P3.respond": timedelta(hours=24),
    "kubernetes.namespace": "adaptive-learning-production",
    "kubernetes.deployments.0.name": "auth-service",
    "kubernetes.deployments.1.name": "user-service",
    "kubernetes.deployments.2.name": "scheduler-service",
    "kubernetes.deployments.2.image": "adaptive-learning/scheduler-service",
    "kubernetes.finished_ttl": timedelta(hours=72),
    "postgres.tables.0.name": "attempts",
    "postgres.tables.0.retention.keep": timedelta(days=366),
    "postgres.tables.1.name": "user_sessions",
    "postgres.tables.1.retention.column": "expires_at",
    "postgres.tables.1.retention.keep": timedelta(days=30),
    "postgres.advice.slow_query": timedelta(seconds=1),
    "postgres.advice.top": 10,
    "kafka.topics.0.size": 10**9,
    "hosts.logs.0.path": "/var/log/adaptive-learning",
    "hosts.logs.0.classes.2.keep": timedelta(days=30),
    "security.least": "HIGH",
    "certificates.managed.0.name": "adaptive-learning-tls",
    "certificates.managed.0.secret_name": "adaptive-learning-tls",
    "certificates.managed.0.ingress": "adaptive-learning-ingress",
    "certificates.managed.0.hosts": ("api.adaptivelearning.com", "app.adaptivelearning.com"),
    "backup.bucket": "adaptive-learning-backups",
    "capacity.limits.cpu_cores": 24,
    "capacity.limits.memory": 96 * 10**9,
    "capacity.limits.storage": 1000 * 10**9,
    "scaling.cpu.up": 0.7,
    "scaling.cpu.up_after": timedelta(minutes=5),
    "scaling.cpu.down": 0.3,
    "scaling.cpu.down_after": timedelta(minutes=15),
    "scaling.memory.up": 0.8,
    "scaling.memory.down": 0.4,
    "scaling.connections": 0.8,
    "scaling.replica_reads": 0.6,
    "scaling.storage_alert": 0.8,
    "scaling.storage_expand": 0.9,
    "scaling.horizontal.least": 2,
    "scaling.horizontal.most": 20,
    "scaling.horizontal.cpu": 0.7,
    "scaling.horizontal.memory": 0.8,
    "scaling.nodes.least": 3,
    "scaling.nodes.most": 50,
    "scaling.nodes.up": 0.7,
    "scaling.nodes.down": 0.5,
}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("studyspot", *fact) for fact in STUDYSPOT.items()] + [("adaptive_learning", *fact) for fact in ADAPTIVE.items()],
)
def test_a_fact_of_the_handbook_stands_in_the_file(name, key, value):
    here: Any = platform(name)
    for part in key.split("."):
        if isinstance(here, tuple):
            here = here[int(part)]
        elif isinstance(here, dict):
            here = here[Severity(part)]
        else:
            here = getattr(here, part)
    assert here == value


def test_connections_are_named_after_the_platform():
    studyspot = platform("studyspot")
    assert studyspot.conn("backup_s3") == "studyspot_backup_s3"
    assert studyspot.severity_of("redis_hit_rate", Severity.P3) is Severity.P3


def test_thresholds_say_how_bad_a_value_is():
    high = Threshold(warn=0.8, critical=0.9)
    assert [high.severity(value) for value in (0.79, 0.8, 0.89, 0.9)] == [None, Severity.P3, Severity.P3, Severity.P1]
    low = Threshold(warn=0.8, critical=0.5)
    assert [low.severity(value) for value in (0.81, 0.8, 0.5, 0)] == [None, Severity.P3, Severity.P1, Severity.P1]


@given(st.integers(min_value=1, max_value=100 * 366 * 86400 * 1000))
def test_a_duration_is_read_as_it_was_written(milliseconds):
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


def test_reading_a_hundred_platforms_takes_less_than_ten_seconds_of_work(tmp_path):
    text = FILES[1].read_text()
    for number in range(100):
        (tmp_path / f"p{number}.yaml").write_text(text.replace("name: studyspot\n", f"name: p{number}\n", 1))
    began = time.process_time()
    names = {load_file(file).name for file in tmp_path.iterdir()}
    assert len(names) == 100
    assert time.process_time() - began < 10


def test_the_models_import_nothing_heavy():
    script = "import sys, upkeep.platforms; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"
    heavy = {"airflow", "kubernetes", "boto3", "psycopg", "pandas", "sqlalchemy", "redis", "requests"}
    done = subprocess.run(
        [sys.executable, "-c", script.format(heavy=heavy)],
        env={"PYTHONPATH": str(ROOT / "plugins"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.replace("'", '"')) == []


@pytest.fixture
def shops(tmp_path, monkeypatch):
    """A directory with shop, shop_eu and a broken bazaar."""
    text = FILES[1].read_text()
    for name in ("shop", "shop_eu"):
        (tmp_path / f"{name}.yaml").write_text(text.replace("name: studyspot\n", f"name: {name}\n", 1))
    (tmp_path / "bazaar.yaml").write_text("{{{")
    monkeypatch.setenv("UPKEEP_PLATFORMS", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.mark.parametrize(
    ("dag_id", "names"),
    [
        ("shop_daily_maintenance", ["shop"]),
        ("shop_eu_daily_maintenance", ["shop_eu"]),
        ("bazaar_daily_maintenance", []),
        ("alert_delivery", ["shop", "shop_eu"]),
        ("", ["shop", "shop_eu"]),
    ],
)
def test_the_process_of_a_task_reads_its_own_platform_only(shops, monkeypatch, dag_id, names):
    if dag_id:
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
    assert [p.name for p in platforms()] == names
