"""``python -m upkeep setup | check | plan | silence | acknowledge | backups | keep | schema``: what people type."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from upkeep.doctor import channels, hosts, kafka, kubernetes, ledger, needs, postgres, redis, s3
from upkeep.doctor.text import Part, as_json, complete, table
from upkeep.doctor.verdict import MISSING, fine, missing, note, unseen
from upkeep.errors import LedgerError, SettingsError, UpkeepError
from upkeep.findings import Outcome
from upkeep.health.side_by_side import Probe, look_side_by_side, one_line
from upkeep.platforms import Broken, Platform, read_all, schema
from upkeep.settings import settings

if TYPE_CHECKING:
    from upkeep.plan.gather import Coming

DEADLINE_S = 12.0
"""Of all checks together: they run side by side, and what has not answered by then is unknown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m upkeep", description="Scheduled care for platforms.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("setup", help="prepare the ledger's tables, Airflow's pools and roles; again whenever you like")
    check = commands.add_parser(
        "check",
        help="say which connections, rights and versions are missing, and how to grant them; changes nothing",
        description="Looks at the platform files and at everything behind them. Exit status 0: nothing is missing.",
    )
    check.add_argument("platforms", nargs="*", metavar="PLATFORM", help="only these; all when none is named")
    check.add_argument("--all", action="store_true", help="a line for everything, also for what is well")
    check.add_argument("--json", action="store_true", help="for machines")
    check.add_argument("--no-color", action="store_true", help="also without it, colours are for terminals only")
    plan = commands.add_parser(
        "plan",
        help="say what the coming maintenance windows would do, with seconds, bytes and locks; changes nothing",
        description="Asks the platforms' databases what is due. Exit status 0: every job could say what it would do.",
    )
    plan.add_argument("platforms", nargs="*", metavar="PLATFORM", help="only these; all when none is named")
    plan.add_argument("--days", type=_days, default=7, metavar="N", help="windows that open within N days (7)")
    plan.add_argument("--all", action="store_true", help="every item, however many")
    plan.add_argument("--json", action="store_true", help="for machines")
    plan.add_argument("--no-color", action="store_true", help="also without it, colours are for terminals only")
    write = commands.add_parser("schema", help="write the JSON schema of platform files, for editors")
    write.add_argument("--print", action="store_true", help="to standard output")
    quiet = commands.add_parser(
        "silence",
        help="call nobody about some of a platform's alerts for a while; they are recorded all the same",
        description="What is still broken afterwards is told then. `--end N` ends one before its time.",
    )
    quiet.add_argument("platform", nargs="?", metavar="PLATFORM")
    quiet.add_argument("pattern", nargs="?", metavar="CHECK/OBJECT", help="`http/*`, `redis_memory`, `*` for all")
    quiet.add_argument("--for", dest="length", default="1h", metavar="TIME", help="how long: 30m, 2h, 1d (1h)")
    quiet.add_argument("--owner", default="", metavar="NAME", help="who answers for it")
    quiet.add_argument("--reason", default="", metavar="TEXT", help="why")
    quiet.add_argument("--end", type=int, metavar="N", help="the number that was printed when it began")
    working = commands.add_parser("acknowledge", help="say that somebody works on an alert: reminders end")
    working.add_argument("key", metavar="KEY", help="as in the alert: studyspot/http/api")
    working.add_argument("--by", required=True, metavar="NAME", help="who")
    there = commands.add_parser("backups", help="list a platform's backups: what is proved, what is kept and why")
    there.add_argument("platform", metavar="PLATFORM")
    kept = commands.add_parser("keep", help="keep a backup whatever the rules of retention say, or let it go again")
    kept.add_argument("platform", metavar="PLATFORM")
    kept.add_argument("backup", metavar="BACKUP", help="its id, as `backups` lists it")
    how = kept.add_mutually_exclusive_group()
    how.add_argument("--for", dest="length", default="", metavar="TIME", help="how long: 7d, 90d, 7y")
    how.add_argument("--hold", action="store_true", help="for as long as nobody says --release")
    how.add_argument("--release", action="store_true", help="the rules decide again")
    kept.add_argument("--owner", default="", metavar="NAME", help="who answers for it")
    kept.add_argument("--reason", default="", metavar="TEXT", help="why")
    trail = commands.add_parser("verify-trail", help="whether what the ledger says was done is what was written then")
    trail.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command in ("silence", "acknowledge"):
            _as_server()
            from upkeep.alerts import by_hand

            print(
                by_hand.silence(chosen) if chosen.command == "silence" else by_hand.acknowledge(chosen.key, chosen.by)
            )
            return 0
        if chosen.command in ("backups", "keep"):
            _as_server()
            from upkeep.backup import by_hand as backups_by_hand

            print(backups_by_hand.keep(chosen) if chosen.command == "keep" else backups_by_hand.listed(chosen))
            return 0
        if chosen.command == "setup":
            return _setup()
        if chosen.command == "verify-trail":
            return _verify_trail(as_json=chosen.json)
        if chosen.command == "schema":
            return _schema(to_screen=chosen.print)
        if chosen.command == "plan":
            return _plan(chosen)
        return _check(chosen)
    except UpkeepError as wrong:
        print(wrong, file=sys.stderr)
        return 1


def _setup() -> int:
    _as_server()
    from upkeep.setup import setup

    setup()
    return 0


def _schema(*, to_screen: bool) -> int:
    if to_screen:
        print(schema.text(), end="")
    else:
        print(schema.write(settings().platforms))
    return 0


def _as_server() -> None:
    # Outside a task, connections come from Airflow's own database only when a process says that it may
    # read it; `airflow connections` says so in the same way.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Its hooks talk to the log of a task; here they would talk into the answer.
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"


def _verify_trail(*, as_json: bool) -> int:
    _as_server()
    from upkeep.trail import by_hand

    said = by_hand.verified()
    for line in [json.dumps(said, indent=2)] if as_json else by_hand.lines(said, datetime.now(UTC)):
        print(line)
    return 0 if said["whole"] else 1


# -- plan ----------------------------------------------------------------------------------------------------------


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0
    if not 0 < days <= 366:
        raise argparse.ArgumentTypeError(f"a number of days up to 366, got {text!r}")
    return days


def _plan(chosen: argparse.Namespace) -> int:
    _as_server()
    from upkeep.plan import text

    good, broken = _chosen(chosen.platforms)
    for each in broken:
        print(f"{each.file.name}: {each.error}", file=sys.stderr)
    now = datetime.now(UTC)
    plans = [_coming(platform, now, chosen.days) for platform in good]
    if chosen.json:
        print(text.as_json(plans, now=now, days=chosen.days))
    else:
        colour = sys.stdout.isatty() and not chosen.no_color
        width = shutil.get_terminal_size((120, 40)).columns
        for line in text.table(plans, colour=colour, width=width, everything=chosen.all):
            print(line)
    return int(bool(broken) or any(plan.unknown for plan in plans))


def _coming(platform: Platform, now: datetime, days: float) -> Coming:
    """One platform's plan; without the ledger, what can be said without."""
    from upkeep import connections
    from upkeep.plan import Asked
    from upkeep.plan.gather import JOBS, Coming, gather, slots

    windows = slots(platform, now, days)
    if platform.postgres is None:
        return Coming(platform, windows, {}, {})
    with ExitStack() as opened:
        ledger = None
        with suppress(LedgerError, SettingsError):
            ledger = opened.enter_context(connections.open_ledger())
        try:
            maintenance = connections.postgres_conninfo(platform.conn("postgres"))
        except SettingsError as missing:
            return Coming(platform, windows, {}, dict.fromkeys(JOBS, str(missing)))
        owner = ""
        with suppress(SettingsError):
            owner = connections.postgres_conninfo(platform.conn("postgres_owner"))
        return gather(Asked(platform=platform, slots=windows, maintenance=maintenance, owner=owner, ledger=ledger))


# -- check ---------------------------------------------------------------------------------------------------------


def _check(chosen: argparse.Namespace) -> int:
    _as_server()
    # Airflow and its providers take seconds to load; a person should see that something happens.
    waiting = sys.stderr.isatty() and not chosen.json
    if waiting:
        print("looking …", end="\r", flush=True, file=sys.stderr)
    parts = examine(chosen.platforms)
    if waiting:
        print("         ", end="\r", flush=True, file=sys.stderr)
    if chosen.json:
        print(as_json(parts))
    else:
        colour = sys.stdout.isatty() and not chosen.no_color
        width = shutil.get_terminal_size((120, 40)).columns
        for line in table(parts, colour=colour, width=width, everything=chosen.all):
            print(line)
    return 0 if complete(parts) else 1


def examine(names: Sequence[str] = ()) -> list[Part]:
    """Everything, or what the named platforms need. :raises SettingsError: a name that no file has."""
    good, broken = _chosen(names)
    wanted = {"upkeep": list(needs.shared(good)), **{p.name: list(needs.own(p)) for p in good}}
    done: dict[str, list[Outcome]] = {}
    probes: list[tuple[str, Probe]] = []
    for part, them in wanted.items():
        for need in them:
            ready = _probe(need)
            if isinstance(ready, Probe):
                probes.append((part, ready))
            else:
                done.setdefault(part, []).append(ready)
    # Outcomes carry their connection, which is the platform's own: so they find back to their part.
    home = {probe.object: part for part, probe in probes}
    for outcome in look_side_by_side([probe for _, probe in probes], deadline_s=DEADLINE_S):
        done.setdefault(home[outcome.object], []).append(outcome)
    everything = [outcome for them in done.values() for outcome in them]
    lost = any(outcome.check == "connection" and outcome.worst == MISSING for outcome in everything)
    parts = [Part("upkeep", "what all platforms share", [_airflow(lost=lost), *done.get("upkeep", [])])]
    for platform in good:
        seen = [
            fine("file", f"{platform.name}.yaml", "valid"),
            *_in_order(done.get(platform.name, []), wanted[platform.name]),
        ]
        if platform.hosts is not None:
            seen += hosts.look(platform.hosts, settings().host_root)
        parts.append(Part(platform.name, platform.title, seen))
    for each in broken:
        parts.append(Part(each.file.stem, "its file is broken", [_broken(each)]))
    return parts


def _in_order(outcomes: Iterable[Outcome], wanted: Iterable[needs.Need]) -> list[Outcome]:
    place = {need.conn_id: number for number, need in enumerate(wanted)}
    return sorted(outcomes, key=lambda outcome: place.get(outcome.object, len(place)))


def _chosen(names: Sequence[str]) -> tuple[list[Platform], list[Broken]]:
    good, broken = read_all()
    known = [*(p.name for p in good), *(b.file.stem for b in broken)]
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(
            f"no platform {unknown[0]!r}; there are: {', '.join(known) or 'none'}",
            hint=f"platform files are in {settings().platforms}.",
        )
    if not names:
        return good, broken
    return [p for p in good if p.name in names], [b for b in broken if b.file.stem in names]


def _broken(broken: Broken) -> Outcome:
    return missing("file", broken.file.name, broken.error.message, broken.error.hint)


def _airflow(*, lost: bool) -> Outcome:
    """
    Airflow's version; and where connections were not found, whether its database could be asked for them.

    It is not asked otherwise: setting up Airflow's models takes seconds.
    """
    from airflow import __version__

    if not lost:
        return fine("airflow", "Airflow", __version__)
    from airflow.secrets.metastore import MetastoreBackend
    from sqlalchemy.exc import SQLAlchemyError

    try:
        MetastoreBackend().get_connection("upkeep_ledger")
    except (SQLAlchemyError, OSError) as trouble:
        reason = one_line(getattr(trouble, "orig", None) or trouble, 150)
        said = f"{__version__}; connections in its database are out of reach: {reason}"
        cure = "run it where Airflow's configuration and database are at hand; `airflow db check` must pass"
        return unseen("airflow", "Airflow", said, cure)
    return fine("airflow", "Airflow", f"{__version__}; its database was asked for connections")


def _probe(need: needs.Need) -> Probe | Outcome:
    """What to look at with plain values, or why that cannot be."""
    from upkeep import connections

    try:
        connections.connection(need.conn_id)
        look = _look(need)
    except SettingsError as wrong:
        if wrong.message.startswith("no connection"):
            if need.without:
                said = f"no such connection in Airflow: {need.without}"
                return note("connection", need.conn_id, said, f"add it: {needs.FORM[need.kind]}")
            return missing(
                "connection", need.conn_id, "no such connection in Airflow", f"add it: {needs.FORM[need.kind]}"
            )
        return missing("connection", need.conn_id, wrong.message, wrong.hint)
    except Exception as wrong:
        # Whatever a provider's hook may raise: it cannot make anything of this connection.
        return missing("connection", need.conn_id, one_line(wrong), f"correct it: {needs.FORM[need.kind]}")
    return Probe("connect", MISSING, look, object=need.conn_id)


def _look(need: needs.Need) -> partial[list[Outcome]]:
    from upkeep import connections

    conn_id, platform = need.conn_id, need.platform
    if need.kind == "ledger":
        return partial(ledger.look, connections.postgres_conninfo(conn_id), conn_id)
    if need.kind == "pagerduty":
        from upkeep.hooks import PagerdutyEventsHook

        hook = PagerdutyEventsHook(conn_id)
        return partial(channels.pagerduty, hook.integration_key, hook.base_url, conn_id)
    if need.kind == "slack":
        from upkeep.hooks import slack

        return partial(channels.slack, slack(conn_id).client, conn_id, need.channels)
    if need.kind == "pagerduty_rest":
        return partial(channels.pagerduty_rest, connections.connection(conn_id))
    if need.kind == "smtp":
        return partial(channels.mail, connections.connection(conn_id))
    if need.kind == "airflow_api":
        return partial(channels.airflow_api, conn_id)
    if need.kind == "alertmanager":
        return partial(channels.alertmanager, connections.connection(conn_id).password or "", conn_id)
    if need.kind == "heartbeat":
        connections.connection(conn_id)
        return partial(channels.heartbeat, conn_id)
    if need.kind == "redis":
        return partial(redis.look, connections.redis_arguments(conn_id), conn_id)
    if need.kind == "s3":
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return partial(s3.look, S3Hook(conn_id).get_conn(), conn_id, need.bucket, writes=need.writes)
    assert platform is not None
    if need.kind == "failover":
        from upkeep.doctor import failover
        from upkeep.drill.reach import driver

        return partial(failover.look, driver(platform), conn_id)
    if need.kind == "key" and platform.backup is not None:
        from upkeep.doctor import keys

        found = connections.connection(conn_id)
        return partial(keys.look, platform.backup.encryption, found.login or "", found.password or "", conn_id)
    if need.kind == "cdn" and platform.cdn is not None:
        return partial(channels.cdn, connections.cdn_access(conn_id, platform.cdn.api), conn_id)
    if need.kind == "kafka" and platform.kafka is not None:
        return partial(kafka.look, connections.kafka_config(conn_id), conn_id, platform.kafka)
    if need.kind == "kubernetes" and platform.kubernetes is not None:
        return partial(kubernetes.look, connections.kubernetes_client(conn_id), conn_id, platform.kubernetes)
    examine_database = postgres.maintenance if need.kind == "postgres" else postgres.owner
    return partial(examine_database, connections.postgres_conninfo(conn_id), conn_id, platform)


if __name__ == "__main__":
    # Ctrl-C at a terminal is no error of ours.
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
