"""What a person may ask for in the form of `restore`, and which backup is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from sandbox.home import Home
from tests.conftest import fresh_ledger
from tests.restore_server import RestoreServer, emptied, now
from upkeep.backup import manifest, records, verdicts
from upkeep.backup.faults import Fault
from upkeep.backup.manifest import ManifestError, commit, folder
from upkeep.backup.restore import choose, form, record
from upkeep.backup.restore.choose import RefusedError
from upkeep.errors import SettingsError, UpkeepError
from upkeep.ledger import Ledger

ATTACKS = ["../", "..", "'; drop table backups; --", "$(reboot)", "`id`", "%2e%2e/", "a\0b", "🙂", "20261122T010000Z-"]
ID = "20261122T010000Z-9f3c2a10"


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_before_anything_is_asked(attack: str) -> None:
    for field in ("backup", "at"):
        with pytest.raises(UpkeepError, match=r"is not the id of a backup|not a time"):
            form.read("studyspot", {field: attack})
    for action in ("swap back", "drop the old one"):
        with pytest.raises(SettingsError, match="not the id of a restore"):
            form.read("studyspot", {"action": action, "restore": attack})
    for field in ("action", "place", "if_refused"):
        with pytest.raises(SettingsError, match=rf"{field} is .*(.|\n)*one of: "):
            form.read("studyspot", {field: attack})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"backupp": ID}, "the form has no field 'backupp'"),
    ({"backup": ID, "at": "2026-11-22T00:00:00Z"}, "both a backup and a point in time"),
    ({"at": "yesterday"}, "at is 'yesterday', not a time"),
    ({"at": "2999-01-01"}, "in the future"),
    ({"backup": 7}, "backup is 7, not a text"),
    ({"backup": [ID]}, "not a text"),
    ({"restore": "1a2b3c4d"}, "a new restore has no id yet"),
    ({"action": "swap back"}, "restore is '', not the id of a restore"),
    ({"action": "swap back", "restore": "1a2b3c4d", "backup": ID}, "swap back takes none"),
    ({"action": "drop database"}, "one of: restore, swap back, drop the old one"),
]


@pytest.mark.parametrize(("params", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_makes_no_sense_is_said(params: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        form.read("studyspot", params)


def test_what_may_be_asked() -> None:
    assert form.read("studyspot", {"platform": "studyspot"}) == form.Asked("studyspot")
    asked = form.read("studyspot", {"at": "2026-11-22T02:00:00+02:00", "place": "replace", "if_refused": "keep"})
    assert (asked.at, asked.place, asked.if_refused) == ("2026-11-22T00:00:00+00:00", "replace", "keep")
    back = form.read("studyspot", {"action": "swap back", "restore": " 1a2b3c4d "})
    assert back.restore == "1a2b3c4d"


def test_names_fit_and_belong_together() -> None:
    assert record.names("studyspot", "1a2b3c4d") == (
        "studyspot_upkeep_restore_1a2b3c4d",
        "studyspot_before_1a2b3c4d",
    )
    made, before = record.names("ü" * 31, "1a2b3c4d")
    assert len(made.encode()) <= 63
    assert made.endswith("_upkeep_restore_1a2b3c4d")
    assert before.endswith("_before_1a2b3c4d")


# -- which backup is meant -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(control: Home) -> Iterator[dict[str, Any]]:
    with fresh_ledger(control) as made:
        yield made


@pytest.fixture
def ledger_conninfo(kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """One ledger for this file, emptied for each test."""
    return emptied(kept, monkeypatch)


@pytest.fixture(scope="module")
def server(each: Callable[..., Any]) -> RestoreServer:
    server: RestoreServer = each(17, RestoreServer).fresh()
    return server


@pytest.fixture
def pick(server: RestoreServer, ledger: Ledger) -> Callable[..., choose.Chosen]:
    for one in list(server.store.objects(server.prefix)):
        server.store.delete(one.key)
    return lambda **asked: choose.choose(ledger, server.store, server.prefix, form.Asked("studyspot", **asked))


def test_the_newest_verified_one_or_the_newest_of_before(
    server: RestoreServer, ledger: Ledger, pick: Callable[..., choose.Chosen]
) -> None:
    with pytest.raises(RefusedError, match=r"no backup of studyspot is content-verified \(0 are on record\)"):
        pick()
    old = server.backed_up(ledger)
    new = server.backed_up(ledger, verified=False)
    # Two of one second have names in any order; when they began is what counts.
    assert pick().manifest.id == old.id
    between = new.started - (new.started - old.started) / 2
    earlier = pick(at=between.isoformat())
    assert earlier.manifest.id == old.id
    assert "this is the newest dump of before" in earlier.sentence(now())
    assert pick(at=now().isoformat()).manifest.id == new.id
    with pytest.raises(RefusedError, match=r"no backup of studyspot is from before .*(.|\n)*the oldest is from"):
        pick(at=(old.started - timedelta(seconds=1)).isoformat())
    assert "never verified" in pick(backup=new.id).sentence(now())
    verdicts.write(ledger, "studyspot", new.id, "content", [Fault("rows", "public.users has 1 row")], {})
    with pytest.raises(RefusedError, match=rf"backup {new.id} is broken: public.users has 1 row"):
        pick(backup=new.id)
    assert pick(at=now().isoformat()).manifest.id == old.id


def test_unknown_foreign_swapped_and_physical_ones_are_refused(
    server: RestoreServer, ledger: Ledger, pick: Callable[..., choose.Chosen]
) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: not there"):
        pick(backup=ID)
    mine = server.backed_up(ledger)
    foreign = server.forge(mine, b"x", platform="adaptive_learning")
    with pytest.raises(ManifestError, match="it is the manifest of another platform: 'adaptive_learning'"):
        pick(backup=foreign.id)
    physical = server.forge(mine, b"x", engine="basebackup")
    with pytest.raises(RefusedError, match=r"was made by basebackup(.|\n)*choose a dump"):
        pick(backup=physical.id)
    files = mine.model_copy(update={"id": manifest.new_id(), "kind": "files", "objects": ()})
    commit(server.store, server.prefix, files)
    with pytest.raises(RefusedError, match="is one of files"):
        pick(backup=files.id)
    # Somebody put another manifest in the place of the one on record.
    other = mine.model_copy(update={"tool": "forged"})
    server.store.put(folder(server.prefix, mine.id) + manifest.NAME, other.json_bytes())
    with pytest.raises(ManifestError, match="it is not the manifest that was written when the backup was made"):
        pick()
    records.deleted(ledger, "studyspot", mine.id)
    with pytest.raises(RefusedError, match="content-verified"):
        pick()
