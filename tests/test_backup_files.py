"""Files copied from bucket to bucket: what is new and nothing else, nothing replaced, a storm of deletions stopped."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from sandbox import __main__ as sandbox
from sandbox.home import Home
from tests.retention_server import bucket
from upkeep.backup.files import inventory, work
from upkeep.backup.files.copying import Copier
from upkeep.backup.files.work import Job, Made
from upkeep.backup.manifest import ManifestError, committed, read
from upkeep.backup.store import Store, StoreError


class Files:
    """A bucket of files, and one of backups."""

    def __init__(self, source: Home, target: Home) -> None:
        name = f"files-{uuid4().hex}"
        ours, _ = bucket(source)
        ours.create_bucket(Bucket=name)
        theirs, backups = bucket(target)
        self.source, self.target, self.prefix = Store(ours, name), Store(theirs, backups), f"{name}/"
        self.through_worker = source is not target

    def put(self, **files: str) -> None:
        for key, text in files.items():
            self.source.put(key.replace("__", "/"), text.encode())

    def job(self, **more: object) -> Job:
        copier = Copier(self.source, self.target, self.prefix, "STANDARD", through_worker=self.through_worker)
        return Job(platform="studyspot", copier=copier, prefix=self.prefix, **more)  # type: ignore[arg-type]

    def copy(self, **more: object) -> Made:
        job = self.job(**more)
        with work.looked(job) as (seen, listed):
            assert work.storm(job, seen) == ""
            return work.copy(job, seen, listed)

    def restored(self, id: str) -> dict[str, str]:
        """Every file as that backup had it."""
        manifest = read(self.target, self.prefix, id, platform="studyspot")
        found = inventory.entries(self.target, manifest)
        return {one.key: b"".join(self.target.read(one.copy)).decode() for one in found}


@pytest.fixture
def files(home: Home) -> Files:
    return Files(home, home)


def test_each_night_only_what_is_new_and_every_night_can_be_had_again(files: Files) -> None:
    files.put(a="one", b__c="two", d="three")
    first = files.copy()
    assert (first.counted.files, first.counted.copied, first.seen.new) == (3, 3, 3)
    files.put(a="ONE!", e="four")
    files.source.delete("d")
    second = files.copy()
    assert (second.counted.copied, second.seen.new, second.seen.changed, second.seen.deleted) == (2, 1, 1, 1)
    assert second.manifest.facts["source_bytes"] == len("ONE!twofour")
    assert files.restored(second.manifest.id) == {"a": "ONE!", "b/c": "two", "e": "four"}
    assert files.restored(first.manifest.id) == {"a": "one", "b/c": "two", "d": "three"}, "overwritten and deleted"
    third = files.copy()
    assert (third.counted.copied, third.seen.new, third.seen.changed) == (0, 0, 0)
    assert third.sampled == 3
    assert third.differ == []


def test_a_storm_of_deletions_stops_the_copy_until_a_person_agrees(files: Files) -> None:
    files.put(**{f"f{n:02}": f"content {n}" for n in range(40)})
    first = files.copy()
    for n in range(12):
        files.source.delete(f"f{n:02}")
    job = files.job()
    with work.looked(job) as (seen, _):
        assert work.storm(job, seen) == (
            f"12 of 40 files (30.0%) have gone from s3://{files.source.bucket}/ since backup {first.manifest.id},"
            " allowed are 5%"
        )
        assert seen.examples == ["f00", "f01", "f02", "f03", "f04"]
    assert work.storm(files.job(approved=11), seen)
    assert files.copy(approved=12).seen.deleted == 12
    assert len(files.restored(first.manifest.id)) == 40, "the copies are still there"


def test_an_empty_bucket_is_a_storm_too(files: Files) -> None:
    files.put(**{f"f{n}": "x" for n in range(8)})
    files.copy()
    for n in range(8):
        files.source.delete(f"f{n}")
    job = files.job()
    with work.looked(job) as (seen, _):
        assert work.storm(job, seen).startswith("8 of 8 files (100.0%) have gone")


def test_a_copy_that_is_gone_is_made_again_and_one_that_rotted_is_found(files: Files) -> None:
    files.put(a="one", b="two")
    first = files.copy()
    gone, rotten = inventory.entries(files.target, first.manifest)
    files.target.delete(gone.copy)
    files.target.put(rotten.copy, b"tw0")
    second = files.copy()
    assert (second.seen.remade, second.seen.new, second.counted.copied) == (1, 0, 1)
    assert second.differ == [rotten.copy]
    files.target.delete(rotten.copy)
    assert files.copy().differ == []
    assert files.restored(first.manifest.id) == {"a": "one", "b": "two"}


def test_names_that_are_hard_to_write(files: Files) -> None:
    names = ["a b+c&d=e%20f", "ä/ö ü.txt", "quote'\"s", "a-b", "a/b", "a.b", "A", "x@y", "/".join(["n" * 90] * 11)]
    for name in names:
        files.source.put(name, name.encode())
    made = files.copy()
    assert made.counted.copied == len(names)
    assert files.restored(made.manifest.id) == {name: name for name in names}
    assert files.copy().counted.copied == 0


def test_a_file_that_changes_while_it_is_copied_is_copied_as_it_is_then(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.put(a="before", gone="soon")
    send = Copier._send

    def changes(copier: Copier, entry: inventory.Entry) -> None:
        if entry.key == "gone":
            files.source.delete("gone")
        else:
            files.put(a="afterwards")
        send(copier, entry)

    monkeypatch.setattr(Copier, "_send", changes)
    made = files.copy()
    assert (made.counted.files, made.counted.gone) == (1, 1)
    assert files.restored(made.manifest.id) == {"a": "afterwards"}
    (entry,) = inventory.entries(files.target, made.manifest)
    assert entry.bytes == len("afterwards")


def test_a_file_that_nobody_can_copy_leaves_no_backup(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.put(a="one", b="two")
    send = Copier._send

    def refused(copier: Copier, entry: inventory.Entry) -> None:
        if entry.key == "b":
            raise StoreError("s3://x/b: cannot be copied: 500", hint="again", code="InternalError")
        send(copier, entry)

    monkeypatch.setattr(Copier, "_send", refused)
    with pytest.raises(StoreError, match="cannot be copied: 500"):
        files.copy()
    assert committed(files.target, files.prefix) == []
    monkeypatch.undo()
    made = files.copy()
    assert (made.counted.files, made.counted.copied) == (2, 1), "what had arrived is not copied again"


def test_an_inventory_that_was_changed_is_not_believed(files: Files) -> None:
    files.put(a="one")
    good = files.copy()
    files.put(b="two")
    bad = files.copy()
    (one,) = bad.manifest.objects
    content = files.target.get(one.key, most=10**6) or b""
    files.target.put(one.key, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises((ManifestError, Exception), match=r"not the inventory|near byte"):
        list(inventory.entries(files.target, bad.manifest))
    newest = inventory.newest(files.target, files.prefix, "studyspot")
    assert newest is not None
    assert newest.id == good.manifest.id


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Home]:
    with sandbox.temporary() as home:
        yield home


def test_into_another_store_through_the_worker(home: Home, elsewhere: Home) -> None:
    files = Files(home, elsewhere)
    files.put(a="one", b__c="two")
    files.source.put("large", b"0123456789abcdef" * (20 * 65536))
    made = files.copy()
    assert (made.counted.copied, made.sampled, made.differ) == (3, 3, [])
    assert set(files.restored(made.manifest.id)) == {"a", "b/c", "large"}
