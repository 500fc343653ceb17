"""The tasks of `restore` from the question on: ask, swap, look, settle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from upkeep.approval import AskPersonOperator
from upkeep.backup.restore.operators import CHOOSE, RestoreOperator, tell
from upkeep.platforms import platform as platform_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.backup.restore.record import Restore
    from upkeep.backup.restore.wording import Question
    from upkeep.findings import Outcome
    from upkeep.ledger import Ledger, Run


class QuestionOperator(RestoreOperator):
    """What a person is asked: what would be replaced with what, and what would be lost."""

    def act(self, context: Context, run: Run) -> dict[str, str]:
        asked = self.asked(context)
        if asked.action == "restore" and asked.place == "beside":
            raise AirflowSkipException("beside the living database: nothing is replaced, nobody is asked")
        with self.ledger() as ledger:
            question = self._question(context, run, ledger)
        self.log.info("%s\n%s", question.subject, question.body)
        return vars(question)

    def _question(self, context: Context, run: Run, ledger: Ledger) -> Question:
        from upkeep.backup.restore import job, target, wording

        asked, restore = self.asked(context), self.restore(context, ledger)
        with target.server(self.conninfo()) as connection:
            bytes = {
                name: found.bytes
                for name in (restore.live, restore.made, restore.before)
                if (found := target.look(connection, name))
            }
        if asked.action == "restore":
            loss = job.weigh(self.job(run, ledger), restore)
            sentence = context["ti"].xcom_pull(task_ids=CHOOSE)["sentence"]
            return wording.replace(restore, sentence, loss, bytes.get(restore.live), bytes.get(restore.made))
        if asked.action == "swap back":
            return wording.back(restore, bytes.get(restore.live), bytes.get(restore.before))
        name = restore.made if restore.state == "back" else restore.before
        return wording.drop(restore, name, bytes.get(name))


class AskOperator(AskPersonOperator):
    """Ask before anything of the living database is touched; Slack is told that somebody must answer."""

    deed = "restore"

    def asked(self, context: Context) -> None:
        from upkeep.connections import run_of

        subject = platform_of(self.platform)
        id = context["ti"].xcom_pull(task_ids=CHOOSE)["restore"]
        tell(subject, run_of(context, subject.name), id, self.subject, self.log, asks=True)

    def say(self, context: Context, kind: str, said: str) -> None:
        """On record: a no that skips what follows leaves no XCom behind."""
        from upkeep.backup.restore import record
        from upkeep.connections import open_ledger

        self.log.info("%s %s", kind, said)
        with open_ledger() as ledger:
            restore = record.find(ledger, self.platform, context["ti"].xcom_pull(task_ids=CHOOSE)["restore"])
            record.become(ledger, restore, restore.state, answer=kind, answered=said)


class SwapOperator(RestoreOperator):
    """Do what was said yes to. Killed at any point, either the old state stands or the new one; run again, once."""

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.backup.restore import places

        asked = self.asked(context)
        with self.ledger() as ledger:
            work, restore = self.job(run, ledger), self.restore(context, ledger)
            if asked.action == "drop the old one":
                restore = places.drop_old(work, restore)
                self.log.info("dropped for good")
                return {"restore": restore.id, "state": restore.state}
            swap = places.put_in_place if asked.action == "restore" else places.put_back
            restore, done = swap(work, restore)
        if done.already:
            self.log.info("the databases have their new names already")
        else:
            self.log.info(
                "swapped in %.1f s: new sessions waited %.2f s; %d idle sessions were ended, and %d in a transaction",
                done.seconds, done.away_s, done.idle, done.ended,
            )  # fmt: skip
        for slot in done.slots:
            self.log.warning("logical replication slot %s stays with the old database", slot)
        return done.as_dict()


class CheckedOperator(RestoreOperator):
    """
    Look through the living name: does the platform's database work, and does it answer the platform's questions.

    It also counts, now that nobody writes into it any more, what the old database has beyond the backup.
    """

    LOOKS = ("postgres_connect", "postgres_version", "postgres_primary", "postgres_write", "postgres_tables")

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from upkeep.health import postgres

        asked = self.asked(context)
        if asked.action == "drop the old one":
            raise AirflowSkipException("the living database was not touched")
        looked = postgres.look(self.section, self.conninfo(), conn_id=self.subject.conn("postgres"))
        outcomes = [outcome for outcome in looked if outcome.check in self.LOOKS]
        with self.ledger() as ledger:
            restore = self.restore(context, ledger)
            outcomes.append(self._answers(restore))
            if asked.action == "restore":
                self._beyond(run, ledger, restore)
        return self.conclude(run, outcomes)

    def _answers(self, restore: Restore) -> Outcome:
        from upkeep.backup import restoring
        from upkeep.findings import Finding, judged

        findings = [
            Finding(
                check="restore",
                object=restore.live,
                severity=self.section.severity,
                summary=f"after restore {restore.id}: {fault.said}",
                hint=f"`swap back` with restore {restore.id} puts the old database back.",
            )
            for fault in restoring.ask(self.conninfo(), self.section.queries)[:1]
        ]
        return judged("restore", self.section.severity, findings, object=restore.live)

    def _beyond(self, run: Run, ledger: Ledger, restore: Restore) -> None:
        from upkeep.backup.restore import job, record

        if restore.live_oid is None:
            return
        loss = job.weigh(self.job(run, ledger), restore, restore.before)
        record.become(ledger, restore, restore.state, beyond=loss.sentence, more=loss.more)
        self.log.info("%s has, beyond the backup, %s", restore.before, loss.sentence)


class SettleOperator(RestoreOperator):
    """
    Whatever happened: say what became of it, and remove the new database where it is of no use or not wanted.

    A swap that was refused leaves it, so that clearing `swap` goes on.
    """

    def act(self, context: Context, run: Run) -> str:
        if not context["ti"].xcom_pull(task_ids=CHOOSE):
            raise AirflowSkipException("nothing was begun")
        asked = self.asked(context)
        with self.ledger() as ledger:
            restore = self.restore(context, ledger)
            said = self._settled(context, run, ledger, restore) if asked.action == "restore" else _after(asked, restore)
        self.tell(context, run, said)
        return said

    def _settled(self, context: Context, run: Run, ledger: Ledger, restore: Restore) -> str:
        from upkeep.backup.restore import places

        asked = self.asked(context)
        if restore.state in ("swapped", "back"):
            return _swapped(restore)
        if restore.state == "replayed":
            refused = restore.facts.get("answer") == "refused"
            if asked.place == "beside" or (refused and asked.if_refused == "keep"):
                return (
                    f"backup {restore.backup} is restored and proved in the database {restore.made}, beside"
                    f" {restore.live}, which was not touched; {restore.facts.get('erased', '')}."
                    f" Drop it when it is no longer needed: drop database {restore.made};"
                )
            if not refused:
                return (
                    f"restore {restore.id}: {restore.live} was not replaced, and {restore.made} waits: the red task of"
                    " the run says what spoke against it; clear that task to go on"
                )
        why = "nobody said yes" if restore.state == "replayed" else "it could not be restored; the red task says why"
        if restore.state not in ("chosen", "removed"):
            restore = places.remove(self.job(run, ledger), restore)
        ends = f"restore {restore.id} of backup {restore.backup} ends without a swap: {why}"
        return f"{ends}. {restore.live} was not touched"


def _swapped(restore: Restore) -> str:
    if restore.state == "back":
        return f"{restore.live} is again what it was before restore {restore.id}"
    swap = restore.facts.get("swap") or {}
    said = (
        f"{restore.live} is now backup {restore.backup} (restore {restore.id});"
        f" new sessions waited {swap.get('away_s', 0):.1f} s, {swap.get('ended', 0)} were ended at work"
    )
    said += f"; {restore.facts['erased']}" if restore.facts.get("erased") else ""
    if restore.live_oid is not None:
        said += (
            f". The old database is kept as {restore.before}, and alone has"
            f" {restore.facts.get('beyond') or 'what was written since the backup'}."
            f" The way back: action `swap back` with restore {restore.id}"
        )
    if left := restore.facts.get("left_out"):
        said += f". Have a superuser run include/sql/postgres/roles.sql in {restore.live}: {left} are not in a restore"
    return said


def _after(asked: Any, restore: Restore) -> str:
    if asked.action == "swap back":
        if restore.state == "back":
            return (
                f"{restore.before} is {restore.live} again; what was written since the swap is in {restore.made},"
                f" which is kept until a person drops it (action `drop the old one`, restore {restore.id})"
            )
        return f"restore {restore.id} was not taken back; {restore.live} is what it was"
    if restore.state == "removed":
        return f"the database that restore {restore.id} left unused was dropped for good"
    return f"restore {restore.id}: nothing was dropped"
