"""Tables: how they are read and grow, whether the planner's statistics are stale, whether autovacuum keeps up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.postgres.advice import missing
from upkeep.postgres.advice.look import Look, day, iso, moment
from upkeep.postgres.advice.memory import per_day
from upkeep.postgres.advice.reads import KIND, full_name, since_last_look
from upkeep.postgres.needs import Need, tables_in_need
from upkeep.report.wording import number, size, span

STALE = "postgres_stale_statistics"
BEHIND = "postgres_autovacuum_behind"
SIZES = "postgres_sizes"

LEAST_ROWS = 1000
"""The planner's guesses about a smaller table cost nobody anything."""

BEHIND_AFTER = timedelta(hours=24)
"""Autovacuum looks at every table each minute; one that waits a day is starved, switched off or locked out."""

MOST = 50
"""Findings of one check, the largest tables first."""

SHOWN = 20


def report(look: Look) -> list[Outcome]:
    """Stale statistics, tables autovacuum neglects, sizes, and candidates for an index."""
    rows = look.ask("tables")
    server = look.ask_one("sizes")
    reads = since_last_look(look, rows, server)
    return [
        _stale(look, rows),
        _behind(look, rows, server),
        _sizes(look, rows, server),
        missing.judge(look, reads, server["page"]),
        missing.unindexed_keys(look, server["page"]),
    ]


# -- the planner's knowledge ---------------------------------------------------------------------------


def _stale(look: Look, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    findings, shares = [], []
    for row in rows:
        if row["rows"] < LEAST_ROWS:
            continue
        share = row["changed"] / row["rows"]
        shares.append(
            {"table": full_name(row), "changed_share": round(share, 4), "analyzed_at": iso(row["analyzed_at"])}
        )
        if share >= look.settings.advice.stale_statistics:
            when = f"since ANALYZE at {day(row['analyzed_at'])}" if row["analyzed_at"] else "and it was never analyzed"
            said = f"{number(row['changed'])} changes to {number(row['rows'])} rows {when}"
        elif row["without_statistics"]:
            said = (
                f"the planner knows nothing of {row['without_statistics']} of its columns ({number(row['rows'])} rows)"
            )
        else:
            continue
        findings.append(
            Finding(
                check=STALE,
                object=full_name(row),
                severity=Severity.P3,
                summary=f"{said}: the planner guesses",
                hint="daily maintenance analyzes it in its window; if it does not, see the task `choose_tables`."
                " Columns added by a deploy want `analyze` at its end.",
                facts={
                    "rows": int(row["rows"]),
                    "changed": int(row["changed"]),
                    "changed_share": round(share, 4),
                    "analyzed_at": iso(row["analyzed_at"]),
                    "columns_without_statistics": row["without_statistics"],
                },
            )
        )
    shares.sort(key=lambda each: -float(each["changed_share"] or 0))
    return judged(
        STALE, Severity.P3, findings[:MOST], tables=len(shares), stale=len(findings), most_changed=shares[:SHOWN]
    )


def _behind(look: Look, rows: Sequence[Mapping[str, Any]], server: Mapping[str, Any]) -> Outcome:
    """Tables past autovacuum's own threshold that nobody has vacuumed or analyzed for a day."""
    settings = look.settings.vacuum.model_copy(update={"least_score": 1.0})
    born = look.counted[KIND]["born"]
    oids = {full_name(row): str(row["oid"]) for row in rows}
    findings = []
    needs = tables_in_need(look.connection, settings)
    for need in needs:
        # Without a run the day counts from when there was something to count: the statistics, and the table itself.
        known = [server["since"], moment(born.get(oids.get(need.table, "")))]
        starved = []
        for what, score, last, reason in _care(need):
            quiet_since = last or max((at for at in known if at), default=None)
            if score >= 1 and quiet_since and look.now - quiet_since >= BEHIND_AFTER:
                ago = f"last {what} {span((look.now - last).total_seconds())} ago" if last else f"never {what}"
                starved.append(f"{ago}, with {reason} ({score:.1f} times the threshold)")
        if not starved:
            continue
        findings.append(
            Finding(
                check=BEHIND,
                object=need.table,
                severity=Severity.P3,
                summary=f"autovacuum has left it for a day and more: {'; '.join(starved)}",
                hint="is autovacuum on, for this table too? Does a session or slot hold an old snapshot? Are its"
                " workers busy elsewhere (autovacuum_max_workers, cost limit)? Daily maintenance takes it meanwhile.",
                facts={"score": need.score, "arm": need.arm, **need.facts},
            )
        )
    return judged(BEHIND, Severity.P3, findings, past_threshold=len(needs))


def _care(need: Need) -> list[tuple[str, float, datetime | None, str]]:
    """What autovacuum owes a table: the deed, its score, when it was last done, and because of what."""
    facts = need.facts

    def last(deed: str) -> datetime | None:
        return max((at for by in ("", "auto") if (at := moment(facts[f"last_{by}{deed}"]))), default=None)

    dead, inserted = float(facts["dead_score"]), float(facts["insert_score"])
    age = max(float(facts["xid_score"]), float(facts["mxid_score"]))
    because = max(
        (dead, f"{number(facts['dead_rows'])} dead rows"),
        (inserted, f"{number(facts['inserted_rows'])} rows inserted since"),
        (age, f"{number(facts['transactions_unfrozen'])} transactions not frozen"),
    )
    changed = f"{number(facts['changed_rows'])} rows changed since"
    return [
        ("vacuumed", because[0], last("vacuum"), because[1]),
        ("analyzed", float(facts["analyze_score"]), last("analyze"), changed),
    ]


# -- sizes ---------------------------------------------------------------------------------------------


def _sizes(look: Look, rows: Sequence[Mapping[str, Any]], server: Mapping[str, Any]) -> Outcome:
    before = look.earlier.get(KIND)
    old: Mapping[str, Any] = before.content.get("sizes", {}) if before else {}
    at = before.at if before else None
    look.measured["postgres_database_bytes", server["database"]] = float(server["database_bytes"])
    largest = []
    for row in rows[:SHOWN]:
        was = old.get(str(row["oid"]))
        grew = None if was is None else row["total_bytes"] - was
        largest.append(
            {
                "table": full_name(row),
                "bytes": row["total_bytes"],
                "heap_bytes": row["bytes"],
                "rows": int(row["rows"]),
                "grown_bytes": grew,
            }
        )
    grew_all = server["database_bytes"] - before.content["database_bytes"] if before else None
    rate = per_day(grew_all, at, look.now) if grew_all is not None else None
    return judged(
        SIZES,
        Severity.P4,
        [],
        database=size(server["database_bytes"]),
        since=iso(at),
        grown_bytes=grew_all,
        bytes_per_day=round(rate) if rate is not None else None,
        largest=largest,
    )
