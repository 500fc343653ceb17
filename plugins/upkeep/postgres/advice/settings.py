"""Settings: the dangerous ones, what waits for a restart, mistakes in the files, and what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from upkeep.alerts.redact import redact
from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.postgres.advice.judgement import Server, wrong
from upkeep.postgres.advice.look import Look, day, iso
from upkeep.report.wording import counted

SETTINGS = "postgres_settings"
PENDING = "postgres_settings_pending"
FILES = "postgres_settings_files"
DRIFT = "postgres_settings_drift"

KIND = "settings"

BASES = {"B": 1, "kB": 1024, "8kB": 8192, "16kB": 16384, "32kB": 32768, "MB": 1024**2}


def report(look: Look) -> list[Outcome]:
    """Whether the settings are safe, in force, and those of the last time."""
    facts = look.ask_one("server_facts")
    rows = look.ask("settings")
    overridden = look.ask("settings_overridden")
    files = look.ask("settings_files") if facts["may_read_files"] else None
    server = Server(
        version=facts["version"],
        database_bytes=facts["database_bytes"],
        slots=facts["slots"],
        standbys=facts["standbys"],
        has_statements=facts["has_statements"],
        settings={row["name"]: row["value"] for row in rows},
    )
    return [
        _judge(server, rows, overridden),
        _pending(rows, files),
        _files(rows, files, facts["me"]),
        _drift(look, facts, rows, overridden),
    ]


# -- dangerous -----------------------------------------------------------------------------------------


def _judge(server: Server, rows: Sequence[Mapping[str, Any]], overridden: Sequence[Mapping[str, Any]]) -> Outcome:
    findings = []
    for row in rows:
        if rule := wrong(server, row["name"], row["value"]):
            findings.append(
                Finding(
                    check=SETTINGS,
                    object=row["name"],
                    severity=rule.severity,
                    summary=f"{row['name']} = {shown(row)}{_place(row)}: {rule.why}",
                    hint=rule.do,
                    facts={"value": shown(row), "source": row["source"], "file": row["file"], "line": row["line"]},
                )
            )
    for row in overridden:
        if rule := wrong(server, row["name"], row["value"], per_role=True):
            findings.append(
                Finding(
                    check=SETTINGS,
                    object=f"{row['name']} of {row['whose']}",
                    severity=rule.severity,
                    summary=f"{row['name']} = {hidden(row['name'], row['value'])} for {row['whose']}: {rule.why}",
                    hint=rule.do,
                    facts={"value": hidden(row["name"], row["value"]), "whose": row["whose"]},
                )
            )
    return judged(SETTINGS, Severity.P2, findings, settings=len(rows), overridden=len(overridden))


def shown(row: Mapping[str, Any]) -> str:
    """A value for people, without secrets: ``64 MB``, ``on``, ``30 s``."""
    value, unit = str(row["value"] if row["value"] is not None else ""), row["unit"]
    if unit in BASES and value.lstrip("-").isdigit() and int(value) > 0:
        size = int(value) * BASES[unit]
        for name, base in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("kB", 1024)):
            if size >= base and size % base == 0:
                return f"{size // base} {name}"
        return f"{size} B"
    if unit and value not in ("0", "-1"):
        return f"{value} {unit}"
    return hidden(row["name"], value) or "''"


def hidden(name: str, value: str | None) -> str:
    """A value without secrets, by its name as well: ``primary_conninfo``, ``my.api_token``."""
    return redact(f"{name}={value or ''}").partition("=")[2]


def _place(row: Mapping[str, Any]) -> str:
    return f" ({row['file']}:{row['line']})" if row["file"] else ""


# -- waiting for a restart -----------------------------------------------------------------------------


def _pending(rows: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]] | None) -> Outcome:
    # pg_settings shows the place of the value in force; only the files themselves know that of the new one.
    new = {row["name"]: row for row in files or ()}
    findings = []
    for row in rows:
        if not row["pending_restart"]:
            continue
        wanted = new.get(row["name"])
        if wanted:
            change = f"{shown(row)} → {hidden(row['name'], wanted['value'])} in {wanted['file']}:{wanted['line']}"
        else:
            change = f"{shown(row)} is in force{_place(row)}, the files say something else"
        findings.append(
            Finding(
                check=PENDING,
                object=row["name"],
                severity=Severity.P3,
                summary=f"{row['name']} waits for a restart: {change}",
                hint="restart the server in a window, or take the change back: the next unplanned restart applies it.",
                facts={
                    "in_force": shown(row),
                    "wanted": hidden(row["name"], wanted["value"]) if wanted else None,
                    "file": wanted["file"] if wanted else row["file"],
                    "line": wanted["line"] if wanted else row["line"],
                },
            )
        )
    return judged(PENDING, Severity.P3, findings, pending=len(findings))


def _files(rows: Sequence[Mapping[str, Any]], files: Sequence[Mapping[str, Any]] | None, me: str) -> Outcome:
    """Mistakes in the configuration files: a running server ignores them, a starting one does not start."""
    if files is None:
        return unknown(
            FILES,
            Severity.P4,
            "this role may not read pg_file_settings; as a superuser: grant select on pg_file_settings to"
            f" {me}; grant execute on function pg_show_all_file_settings() to {me};",
        )
    pending = {row["name"] for row in rows if row["pending_restart"]}
    findings = [
        Finding(
            check=FILES,
            object=f"{row['file']}:{row['line']}",
            severity=Severity.P1,
            summary=f"{row['name'] or 'a line'} in {row['file']}:{row['line']}: {row['error']}; the server goes on with"
            " what it has, but would not start again",
            hint="correct the line, reload, and look at pg_file_settings again.",
            facts={"name": row["name"], "value": hidden(row["name"] or "", row["value"]), "error": row["error"]},
        )
        for row in files
        if row["name"] not in pending
    ]
    return judged(FILES, Severity.P4, findings, mistakes=len(findings))


# -- drift ---------------------------------------------------------------------------------------------


def _drift(
    look: Look, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], overridden: Sequence[Mapping[str, Any]]
) -> Outcome:
    """What has changed since the last run of this Dag; nobody has to remember having changed it."""
    now = {row["name"]: shown(row) for row in rows}
    now |= {f"{row['name']} of {row['whose']}": hidden(row["name"], row["value"]) for row in overridden}
    # The values of defaults say more than their names: a new version brings new ones.
    look.counted[KIND] = {"system": facts["system"], "version": facts["version"], "settings": now}
    before = look.earlier.get(KIND)
    if before is None:
        return judged(DRIFT, Severity.P4, [], settings=len(now), baseline="recorded now, for the next time")
    was: Mapping[str, str] = before.content["settings"]
    changes = [
        {"setting": name, "was": was.get(name, "(not set)"), "is": now.get(name, "(not set)")}
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    same_server = before.content["system"] == facts["system"]
    findings = []
    if changes:
        few = ", ".join(f"{each['setting']} {each['was']} → {each['is']}" for each in changes[:5])
        more = " …" if len(changes) > 5 else ""
        upgraded = before.content["version"] // 10000 != facts["version"] // 10000
        because = ", after an upgrade" if upgraded else "" if same_server else ", on another server"
        findings.append(
            Finding(
                check=DRIFT,
                severity=Severity.P4,
                summary=f"{counted(len(changes), 'setting')} changed since {day(before.at)}{because}: {few}{more}",
                hint="whoever changed them knows why; nobody does? Then see the server's configuration management.",
                facts={"since": iso(before.at), "changes": changes[:50]},
            )
        )
    return judged(DRIFT, Severity.P4, findings, settings=len(now), since=iso(before.at), changes=changes[:50])
