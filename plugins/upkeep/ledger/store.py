"""Opening the ledger, and writing what a run saw, measured and told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row

from upkeep.errors import LedgerError
from upkeep.findings import Outcome, Severity
from upkeep.ledger import actions, findings, holding
from upkeep.ledger.jsonb import jsonb, text
from upkeep.ledger.outbox import Message, enqueue
from upkeep.ledger.run import Connection, Run


@dataclass(frozen=True)
class Sample:
    at: datetime
    value: float


class Ledger:
    """One connection to the ledger; use it in a ``with``."""

    def __init__(self, conninfo: str) -> None:
        """:raises LedgerError: it cannot be reached, or was never set up."""
        try:
            self.connection: Connection = psycopg.connect(
                psycopg.conninfo.make_conninfo(conninfo, connect_timeout=3), row_factory=dict_row, autocommit=True
            )
        except psycopg.OperationalError as down:
            raise unreachable(down) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """:raises LedgerError: the connection was lost, or the tables are not there."""
        try:
            with self.connection.transaction():
                yield self.connection
        except psycopg.OperationalError as down:
            raise unreachable(down) from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as missing:
            raise LedgerError(
                f"the ledger's tables are not those of this version: {missing.diag.message_primary}",
                hint="run `python -m upkeep setup`; it creates and upgrades them.",
            ) from None

    def record(
        self,
        run: Run,
        outcomes: Sequence[Outcome],
        messages: Callable[[findings.Change], Iterable[Message]] = lambda change: (),
        *,
        patience: findings.Patience = findings.AT_ONCE,
        rules: holding.Rules | None = None,
    ) -> list[findings.Change]:
        """
        Write outcomes, open and resolve findings, and put what must be told into the outbox: all or nothing.

        :param messages: what is told to whom about one change.
        :param patience: how often looks must agree before they are believed.
        :param rules: what is held back; None: nothing.
        :returns: the findings that were opened, got worse or better, or were resolved by this look.
        """
        changes: list[findings.Change] = []
        with self.transaction() as connection:
            _see_run(connection, run)
            # One order for all: two runs that see the same findings wait for each other instead of deadlocking.
            for outcome in sorted(outcomes, key=lambda o: (o.check, o.object)):
                _write(connection, run, outcome)
                changes += findings.apply(connection, run, outcome, patience)
            if rules:
                changes = holding.hold(connection, run, changes, rules)
            for change in changes:
                for message in messages(change):
                    enqueue(connection, message)
        return changes

    def red_tasks(self, dag_id: str, run_id: str, failing: Severity) -> set[str]:
        """The tasks of a run that recorded a finding or an unknown at least as bad as ``failing``."""
        rows = self.rows(
            "select distinct task_id from outcomes where dag_id = %(dag)s and run_id = %(run)s"
            " and ((state = 'unknown' and explained_by = '' and severity <= %(failing)s)"
            " or exists (select from jsonb_array_elements(findings) as f where f ->> 'severity' <= %(failing)s))",
            {"dag": dag_id, "run": run_id, "failing": failing.value},
        )
        return {row["task_id"] for row in rows}

    def sample(self, platform: str, values: Mapping[tuple[str, str], float], at: datetime | None = None) -> None:
        """Store measurements: ``{("redis_reads", ""): 1200.0}``, keyed by metric and object."""
        at = at or datetime.now(UTC)
        with self.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "insert into samples (platform, metric, object, at, value) values (%s, %s, %s, %s, %s)"
                " on conflict do nothing",
                [(platform, metric, object, at, value) for (metric, object), value in values.items()],
            )

    def latest(self, platform: str, metric: str, object: str = "") -> Sample | None:
        """The newest measurement."""
        with self.transaction() as connection:
            row = connection.execute(
                "select at, value from samples where platform = %s and metric = %s and object = %s"
                " order by at desc limit 1",
                [platform, metric, object],
            ).fetchone()
        return Sample(row["at"], row["value"]) if row else None

    def plan(
        self, run: Run, capability: str, items: Sequence[Mapping[str, Any]], *, dry_run: bool = False
    ) -> actions.Plan:
        """Store what is about to be done, before anything is done."""
        with self.transaction() as connection:
            _see_run(connection, run)
            return actions.store_plan(connection, run, capability, items, dry_run=dry_run)

    @contextmanager
    def action(
        self,
        run: Run,
        capability: str,
        verb: str,
        object: str,
        *,
        plan: actions.Plan | None = None,
        before: Mapping[str, Any] | None = None,
    ) -> Iterator[actions.Action]:
        """
        Do one thing, on the record: a row is ``open`` while the block runs, then ``done``, ``skipped`` or ``failed``.

        The block sets ``action.after``, or calls ``action.skip(reason)``. A killed process leaves the row ``open``;
        the next action on the same object marks it ``abandoned``.
        """
        with self.transaction() as connection:
            _see_run(connection, run)
            doing = actions.begin(connection, run, capability, verb, object, plan=plan, before=before or {})
        try:
            yield doing
        except BaseException as error:
            with self.transaction() as connection:
                actions.end(connection, doing, "failed", reason=f"{type(error).__name__}: {error}"[:2000])
            raise
        with self.transaction() as connection:
            actions.end(connection, doing, "skipped" if doing.skipped else "done", reason=doing.skipped)

    def close_records(
        self,
        run: Run,
        capability: str,
        verbs: Sequence[str],
        mine: Callable[[str], bool],
        *,
        said: str = "nothing is due any more",
        plan: actions.Plan | None = None,
    ) -> None:
        """
        Close what a run left open that was killed between its last deed and its last line here.

        :param mine: of which objects; only who knows that nobody is at work on them may say so.
        """
        left_open = self.rows(
            "select distinct verb, object from actions where platform = %s and capability = %s and verb = any(%s)"
            " and state = 'open' order by object",
            [run.platform, capability, list(verbs)],
        )
        for row in left_open:
            if mine(row["object"]):
                with self.action(run, capability, row["verb"], row["object"], plan=plan) as action:
                    action.skip(said)

    def rows(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of a read-only question, for reports and the page."""
        with self.transaction() as connection:
            return connection.execute(query, parameters).fetchall()

    def acknowledge(self, key: str, who: str) -> bool:
        """Somebody works on it: reminders end. False when it is not open, or somebody does already."""
        with self.transaction() as connection:
            row = connection.execute(
                "update findings set acknowledged_at = clock_timestamp(), acknowledged_by = %s"
                " where key = %s and state = 'open' and acknowledged_at is null returning key",
                [text(who[:200]), key],
            ).fetchone()
        return row is not None

    def silence(self, platform: str, pattern: str, *, owner: str, reason: str, length: timedelta) -> int:
        """From now on nobody is called about keys that match (``http/*``), though all is recorded; its number."""
        with self.transaction() as connection:
            row = connection.execute(
                "insert into silences (platform, pattern, owner, reason, until)"
                " values (%s, %s, %s, %s, clock_timestamp() + %s) returning id",
                [platform, text(pattern), text(owner), text(reason), length],
            ).fetchone()
        assert row is not None
        return int(row["id"])

    def end_silence(self, number: int) -> bool:
        """End one before its time; what it held back and is still broken is told by the next delivery."""
        with self.transaction() as connection:
            row = connection.execute(
                "update silences set until = greatest(clock_timestamp(), starts_at + interval '1 microsecond')"
                " where id = %s and until > clock_timestamp() returning id",
                [number],
            ).fetchone()
        return row is not None

    @contextmanager
    def exclusive(self, name: str) -> Iterator[bool]:
        """Whether nobody else holds ``name`` now; held (if so) until the block ends or this process dies."""
        with self.transaction() as connection:
            row = connection.execute("select pg_try_advisory_lock(hashtextextended(%s, 0)) as mine", [name]).fetchone()
        mine = bool(row and row["mine"])
        try:
            yield mine
        finally:
            if mine:
                # A connection that was lost meanwhile took the lock with it.
                with suppress(psycopg.OperationalError):
                    self.connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", [name])


def unreachable(down: BaseException) -> LedgerError:
    """The error to raise for a ledger that does not answer."""
    said = " ".join(str(down).split())[:300]
    return LedgerError(
        f"the ledger (connection `upkeep_ledger`) cannot be used: {said}",
        hint="start its server or correct the connection, then clear this task; alerts wait in the spool meanwhile.",
    )


def _see_run(connection: Connection, run: Run) -> None:
    connection.execute(
        "insert into runs (dag_id, run_id, platform) values (%s, %s, %s) on conflict do nothing",
        [run.dag_id, run.run_id, run.platform],
    )


def _write(connection: Connection, run: Run, outcome: Outcome) -> None:
    found = [asdict(finding) for finding in outcome.findings]
    content = {
        "platform": run.platform,
        "check": outcome.check,
        "object": outcome.object,
        "state": outcome.state,
        "reason": outcome.reason,
        "findings": found,
        "facts": dict(outcome.facts),
        "at": outcome.at.isoformat(),
    }
    evidence = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    connection.execute(
        "insert into outcomes (platform, dag_id, run_id, task_id, check_name, object, state, severity, reason,"
        " explained_by, findings, facts, started_at, seconds, evidence)"
        " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            run.platform, run.dag_id, run.run_id, run.task_id, outcome.check, text(outcome.object), outcome.state,
            outcome.severity.value, text(outcome.reason), outcome.explained_by, jsonb(found),
            jsonb(dict(outcome.facts)), outcome.at, outcome.seconds, evidence,
        ],
    )  # fmt: skip
