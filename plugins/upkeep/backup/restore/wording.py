"""What people read about a restore: the question before the swap, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upkeep.alerts.messages import cut, escape, posted, section, slack_payload
from upkeep.backup.restore.loss import Loss
from upkeep.backup.restore.record import Restore
from upkeep.ledger import Run
from upkeep.ledger.outbox import Message
from upkeep.platforms import Platform


@dataclass(frozen=True)
class Question:
    """What a person says yes or no to."""

    subject: str
    body: str
    """Markdown."""


def size(number: int | None) -> str:
    return "of unknown size" if number is None else f"{number / 1e9:.2f} GB"


def replace(restore: Restore, sentence: str, loss: Loss, live_bytes: int | None, made_bytes: int | None) -> Question:
    """Before the swap."""
    subject = f"{restore.platform}: replace the database {restore.live} by backup {restore.backup}?"
    facts = restore.facts
    lines = [
        f"**{restore.live}** ({size(live_bytes)}) is replaced by **{restore.made}** ({size(made_bytes)},"
        f" {facts.get('rows', 0):,} rows in {facts.get('tables', 0)} tables, each proved equal to the backup).",
        f"It is {sentence}.",
        f"**What is lost** from {restore.live}: {loss.sentence}.",
        f"{facts.get('erased', 'nothing was erased since the backup')[:1].upper()}"
        f"{facts.get('erased', 'nothing was erased since the backup')[1:]}.",
        f"Sessions are ended; new ones wait for some seconds. The old database stays as **{restore.before}** until a"
        f" person drops it: action `swap back` with restore `{restore.id}` puts it back.",
    ]
    if left := facts.get("left_out"):
        lines.append(
            f"Not restored, because only a superuser may: {left}. Afterwards have one run"
            f" include/sql/postgres/roles.sql in {restore.live}."
        )
    return Question(subject, "\n\n".join(lines))


def back(restore: Restore, live_bytes: int | None, before_bytes: int | None) -> Question:
    subject = f"{restore.platform}: put {restore.before} back as {restore.live}?"
    body = (
        f"**{restore.live}** ({size(live_bytes)}), restored from backup {restore.backup} by restore {restore.id}, is"
        f" replaced by the database that it replaced, **{restore.before}** ({size(before_bytes)}).\n\n"
        f"**What was written since the swap** is then only in **{restore.made}**, which is kept."
    )
    return Question(subject, body)


def drop(restore: Restore, name: str, bytes: int | None) -> Question:
    subject = f"{restore.platform}: drop the database {name} for good?"
    body = (
        f"**{name}** ({size(bytes)}) is no longer in use since restore {restore.id}. **There is no way back** after"
        " this, and what it alone holds is gone."
    )
    return Question(subject, body)


def message(platform: Platform, run: Run, restore: str, text: str, *, asks: bool = False) -> Message:
    """For Slack: one thread per restore; the same text is told once."""
    mark = ":raised_hand:" if asks else ":floppy_disk:"
    link = f" · <{run.run_url}|{'answer' if asks else 'run'}>" if run.run_url.startswith("http") else ""
    line = f"{platform.title}: {text}"
    content: dict[str, Any] = posted(
        line, [section(f"{mark} {escape(cut(line, 2500))}{link}")], f"{platform.name}/restore/{restore}", "remind"
    )
    return Message(
        key=f"{platform.name}/restore/{restore}",
        platform=platform.name,
        channel="slack",
        event="remind",
        severity="P2",
        payload=slack_payload(platform, content),
        spool_id=f"restore {restore} {run.task_id} {run.try_number} {run.run_id}"[:200],
    )
