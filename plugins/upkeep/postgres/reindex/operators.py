"""The tasks `leftovers`, `choose_indexes` and `reindex` of monthly maintenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.operators import PlatformOperator, truth
from upkeep.postgres.operators import PostgresOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run


class _ReindexOperator(PostgresOperator):
    """
    Base of these three.

    :param window: the platform's window whose end stops the work: ``daily``, ``weekly`` or ``monthly``.
    """

    def __init__(self, *, window: str = "monthly", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def owner_conninfo(self) -> str:
        """As the role that acts as the tables' owner. :raises SettingsError: there is no such connection."""
        from upkeep.connections import postgres_conninfo

        return postgres_conninfo(self.subject.conn("postgres_owner"))

    def free(self) -> float:
        """Bytes left on the database's disk. :raises DiskUnknown: nobody knows."""
        from upkeep.health.metrics import NoAnswer, least
        from upkeep.postgres.reindex.preflight import DiskUnknown
        from upkeep.settings import settings

        metrics = self.subject.metrics
        if metrics is None or not metrics.database_free:
            raise DiskUnknown("the platform file does not say where free disk is read (`metrics.database_free`)")
        try:
            return least(metrics, metrics.database_free, connect_to=settings().connect_to)
        except NoAnswer as no:
            raise DiskUnknown(f"Prometheus: {no}") from None

    def skip_when_unusable(self, context: Context) -> None:
        if reason := self.unusable(context, "postgres"):
            raise AirflowSkipException(f"the database cannot be used: {reason}")


class DropLeftoversOperator(_ReindexOperator):
    """
    Close in the ledger what dead workers left open, and drop what their rebuilds left in the database.

    A task of its own, before anything is chosen: what an interrupted swap left is no bloat but rubbish.

    :param dry_run: store the plan and drop nothing (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Hides BaseOperator.dry_run, which only prints templates for `airflow tasks test --dry-run`.
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> dict[str, int]:
        import psycopg

        from upkeep.postgres.reindex import wording, work

        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        self.skip_when_unusable(context)
        try:
            with self.ledger() as ledger:
                said = work.drop_leftovers(ledger, run, self.owner_conninfo(), dry_run=dry_run)
        except psycopg.Error as trouble:
            self.conclude(run, [wording.could_not_look(wording.LEFTOVER, trouble)])
            raise
        for one, result in said:
            self.log.info("%s of %s: %s %s", one.index, one.table, result["state"], result["reason"])
        self.conclude(run, [wording.left_behind(said)])
        return {state: sum(result["state"] == state for _, result in said) for state in ("done", "locked", "unknown")}


class ChooseIndexesOperator(_ReindexOperator):
    """
    Choose the indexes that are worth a rebuild, store the plan, and return it for mapping: most bytes per second first.

    All that are worth it are returned, not only what fits by today's prediction: each ``reindex`` asks again whether
    the window has room for it, with what the ones before it have taught.

    :param dry_run: store the plan and return nothing to do (templated).
    """

    converging = True
    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "dry_run")

    def __init__(self, *, dry_run: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dry_run = dry_run  # type: ignore[method-assign,assignment]

    def act(self, context: Context, run: Run) -> list[dict[str, Any]]:
        import psycopg

        from upkeep.postgres.reindex import history, wording
        from upkeep.postgres.reindex.choose import choose
        from upkeep.postgres.session import connect

        dry_run = truth(self.dry_run)  # type: ignore[arg-type]
        self.skip_when_unusable(context)
        ends = self.ends(context, self.window)
        with self.ledger() as ledger:
            known, speed = history.baselines(ledger, run.platform), history.speed(ledger, run.platform)
            try:
                with connect(self.conninfo()) as connection:
                    left = ends - datetime.now(UTC) if ends else None
                    choice = choose(connection, self.section.reindex, known, speed, left=left)
                    role, version = connection.info.user, connection.info.server_version
            except psycopg.Error as trouble:
                self.conclude(run, [wording.could_not_look(wording.NEED, trouble)])
                raise
            history.keep(ledger, run.platform, choice.baselines)
            items = [candidate.as_dict() for candidate in choice.candidates]
            stored = ledger.plan(run, history.CAPABILITY, items, dry_run=dry_run)
            open_now = ledger.rows(
                "select object from findings where platform = %s and check_name = %s and state = 'open'",
                [run.platform, wording.REINDEX],
            )
        self.conclude(run, wording.chosen(choice, role, version, [row["object"] for row in open_now]))
        for one in choice.candidates:
            self.log.info(
                "%s: %.0f %% bloat (%s), frees %d bytes in about %.1f s%s",
                one.index, one.bloat * 100, one.by, one.wasted, one.seconds, "" if one.fits else "; may not fit",
            )  # fmt: skip
        return [] if dry_run else [{**item, "plan": str(stored.id)} for item in items]


class RebuildIndexOperator(_ReindexOperator):
    """
    Rebuild one index concurrently; mapped over what `choose_indexes` returned.

    Mapped, like `vacuum`: each index has its own line, log and retry, and one that goes wrong does not stop the next.
    The database's pool lets one at a time through, in their order.

    :param item: one of its items, as ``Candidate.as_dict`` gives it, with the ``plan``'s id.
    """

    template_fields: Sequence[str] = (*PlatformOperator.template_fields, "item")

    def __init__(self, *, item: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.item = item

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.ledger import Plan
        from upkeep.postgres.reindex import wording, work
        from upkeep.postgres.session import connect

        item = dict(self.item)
        plan = Plan(UUID(item["plan"]), (), "", False) if item.get("plan") else None
        ends = self.ends(context, self.window)
        conninfo = self.conninfo()
        with self.ledger() as ledger, connect(conninfo) as watching:
            result = work.rebuild_one(
                ledger,
                run,
                plan,
                conninfo,
                self.owner_conninfo(),
                item,
                self.section.reindex,
                go=self.brake(watching, ends),
                free=self.free,
                ends=ends,
            )
        self.conclude(run, [wording.rebuilt(item, result)])
        return {
            key: result[key] for key in ("state", "reason", "seconds", "bytes_before", "bytes_after") if key in result
        }
