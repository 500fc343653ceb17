"""Backups from the shell: which there are, and keeping one whatever the rules say."""

from __future__ import annotations

from uuid import uuid4

import pytest

from sandbox.home import Home
from tests.backup_bucket import DAY, Bucket
from tests.test_backup_retention import job
from upkeep.__main__ import main
from upkeep.backup.retention.work import carry_out
from upkeep.ledger import Ledger

WHY = ["--owner", "jo", "--reason", "audit of 2026"]


def test_kept_until_somebody_lets_it_go(home: Home, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    bucket = Bucket(home, ledger, f"{uuid4().hex}/")
    for days in (0.1, 1, 2):
        bucket.make(days * DAY)
    pinned, held, old = (bucket.make(days * DAY) for days in (31, 32, 33))
    assert set(carry_out(job(bucket)).marked) == {pinned, held, old}
    assert main(["keep", "studyspot", pinned, "--for", "90d", *WHY]) == 0
    said = capsys.readouterr().out
    assert "is kept until 20" in said
    assert "it was marked for deletion, and the next run takes the mark away" in said
    assert main(["keep", "studyspot", held, "--hold", *WHY]) == 0
    carry_out(job(bucket, hours=25))
    assert main(["backups", "studyspot"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:] if line[0].isdigit()}
    assert old not in lines
    assert "audit of 2026 (jo)" in lines[pinned]
    assert "on hold, audit of 2026 (jo)" in lines[held]
    assert "marked" not in lines[pinned] + lines[held]
    for id in (pinned, held):
        assert main(["keep", "studyspot", id, "--release"]) == 0
    assert capsys.readouterr().out.count("is kept by the rules alone") == 2
    carry_out(job(bucket, hours=26))
    carry_out(job(bucket, hours=30))
    assert main(["backups", "studyspot"]) == 0
    listed = capsys.readouterr().out
    assert pinned not in listed
    assert held not in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["keep", "studyspot", "x"], "for how long?"),
        (["keep", "studyspot", "x", "--for", "9 fortnights", *WHY], "got '9 fortnights'"),
        (["keep", "studyspot", "x", "--for", "0d", *WHY], "more than nothing and at most 10y"),
        (["keep", "studyspot", "x", "--for", "90d"], "an owner and a reason"),
        (["keep", "studyspot", "x'; drop table backups", "--hold", *WHY], 'no backup "x\'; drop table backups"'),
        (["keep", "nobody", "x", "--hold", *WHY], "nobody"),
        (["backups", "nobody"], "nobody"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 1
    wrong = capsys.readouterr().err
    assert said in wrong
    assert "HINT:" in wrong


def test_none_is_said(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backups", "studyspot"]) == 0
    assert capsys.readouterr().out == "no backup of studyspot is on record\n"
