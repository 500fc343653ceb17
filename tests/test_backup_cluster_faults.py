"""What can be wrong with a stored base backup and its log: each fault injected, caught and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backup_server import KEY, OTHER_KEY
from tests.cluster_server import ClusterServer
from upkeep.backup.manifest import Manifest, commit, folder, new_id
from upkeep.backup.physical import archive, base
from upkeep.backup.physical.archive import UnrecoverableError
from upkeep.backup.physical.lsn import number
from upkeep.backup.physical.source import BASES, LOG

SERVER = ClusterServer


@pytest.fixture(scope="module")
def stored(each: Callable[..., Any]) -> Iterator[tuple[ClusterServer, Manifest]]:
    """A base backup and four stretches of log; each test puts back what it breaks."""
    server: ClusterServer = each(17, ClusterServer).empty()
    server.fill()
    server.ship()
    backup = server.take()
    for number_ in range(3):
        server("insert into audit.log (said) values (%s)", f"stretch {number_}")
        server.next_segment()
        server.ship()
    yield server, backup
    server.empty()


@pytest.fixture
def server(stored: tuple[ClusterServer, Manifest]) -> Iterator[ClusterServer]:
    """Whatever a test does to what is stored is undone."""
    server = stored[0]
    before = {one.key: b"".join(server.store.read(one.key)) for one in server.store.objects(server.prefix)}
    yield server
    for one in list(server.store.objects(server.prefix)):
        server.store.delete(one.key)
    for key, content in before.items():
        server.store.put(key, content)


@pytest.fixture
def backup(stored: tuple[ClusterServer, Manifest]) -> Manifest:
    return stored[1]


def kinds(faults: list[tuple[str, str]]) -> set[str]:
    return {kind for kind, _ in faults}


def middle(server: ClusterServer) -> Manifest:
    """A stretch after the base backup, with others after it."""
    return server.stretches()[-2]


def test_a_whole_one_passes(server: ClusterServer, backup: Manifest) -> None:
    assert server.look(backup.id) == []


def test_a_missing_stretch_is_a_gap_with_its_segments_and_the_second_until_which_all_is_well(
    server: ClusterServer, backup: Manifest
) -> None:
    lost = middle(server)
    server.lose(lost)
    ((kind, said),) = server.look(backup.id)
    assert kind == "gap"
    assert lost.cluster is not None
    full = next(piece.name for piece in lost.cluster.log)
    assert full in said
    assert "is missing: nothing after " in said
    with pytest.raises(UnrecoverableError, match=f"{full} .* is missing"), server.recovered(backup.id):
        pass


def test_a_segment_left_out_of_an_honest_stretch_is_a_gap(server: ClusterServer, backup: Manifest) -> None:
    one = middle(server)
    files = server.unpacked(one)
    first = min(files)
    server.forge(one, {name: content for name, content in files.items() if name != first})
    ((kind, said),) = server.look(backup.id)
    assert (kind, first in said) == ("gap", True)


def test_a_segment_left_out_behind_the_manifests_back_is_named(server: ClusterServer, backup: Manifest) -> None:
    one = middle(server)
    files = server.unpacked(one)
    first = min(files)
    forged = server.forge(one, {name: content for name, content in files.items() if name != first}, honest=False)
    assert server.look(backup.id) == [("contents", f"log segment {first} is not in its stretch {forged.id}")]


def test_a_swapped_segment_is_named_with_what_it_is(server: ClusterServer, backup: Manifest) -> None:
    one, last = middle(server), server.stretches()[-1]
    files, others = server.unpacked(one), server.unpacked(last)
    first, other = min(files), max(others)
    server.forge(one, {**files, first: others[other]})
    ((kind, said),) = server.look(backup.id)
    assert kind == "changed"
    assert f"log segment {first} holds the log from " in said


@pytest.mark.soak
def test_a_swapped_segment_is_named_before_it_is_replayed(server: ClusterServer, backup: Manifest) -> None:
    one, last = middle(server), server.stretches()[-1]
    files, others = server.unpacked(one), server.unpacked(last)
    first, other = min(files), max(others)
    server.forge(one, {**files, first: others[other]})
    refused = f"log segment {first} holds the log from"
    with pytest.raises(UnrecoverableError, match=refused), server.recovered(backup.id):
        pass


def test_a_segment_of_another_cluster_is_named(server: ClusterServer, backup: Manifest) -> None:
    one = middle(server)
    files = server.unpacked(one)
    first = min(files)
    foreign = bytearray(files[first])
    foreign[24:32] = (4711).to_bytes(8, "little")
    server.forge(one, {**files, first: bytes(foreign)})
    assert server.look(backup.id) == [("changed", f"log segment {first} is another cluster's (4711)")]


@pytest.mark.soak
def test_a_log_that_breaks_off_unseen_is_caught_by_how_far_it_was_replayed(
    server: ClusterServer, backup: Manifest
) -> None:
    """Consistent by every digest: only replaying it shows that a record in its middle is none."""
    one = middle(server)
    files = server.unpacked(one)
    first = min(files)
    blank = bytearray(files[first])
    # Behind the header of its first page.
    blank[40:] = bytes(len(blank) - 40)
    server.forge(one, {**files, first: bytes(blank)})
    assert server.look(backup.id) == []
    ((kind, said),) = server.prove(backup.id)
    assert kind == "recovery"
    assert "the log could be replayed to " in said
    assert server.stretches()[-1].cluster is not None
    assert f"the archive reaches to {archive.cluster(server.stretches()[-1]).end}" in said


def test_bytes_of_the_base_backup(server: ClusterServer, backup: Manifest) -> None:
    (one,) = backup.role(base.BASE)
    whole = b"".join(server.store.read(one.key))
    server.store.put(one.key, whole[:-5000])
    assert kinds(server.look(backup.id)) == {"truncated", "unreadable"}
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    server.store.put(one.key, bytes(flipped))
    assert "changed" in kinds(server.look(backup.id))
    server.store.put(one.key, b"")
    assert "empty" in kinds(server.look(backup.id))
    server.store.delete(one.key)
    assert kinds(server.look(backup.id)) == {"missing"}


def test_a_truncated_base_backup_with_an_honest_digest_of_its_own(server: ClusterServer, backup: Manifest) -> None:
    from upkeep.backup import compression, reading

    raw = reading.Objects(server.store, backup.role(base.BASE))
    tar = b"".join(reading.plain(raw, backup, None, base.BASE))
    id = new_id()
    cut = b"".join(compression.compress([tar[: len(tar) // 2 // 512 * 512]]))
    made = server.store.put(folder(server.prefix + BASES, id) + base.FILES[base.BASE], cut)
    commit(
        server.store, server.prefix + BASES,
        backup.model_copy(update={"id": id, "objects": base.objects([(base.BASE, made)])}),
    )  # fmt: skip
    ((kind, said),) = server.look(id)
    assert kind == "contents"
    assert said == "backup_manifest, which ends every base backup, is not in it: it was cut off"


def test_a_manifest_of_somebody_else_and_a_key_of_somebody_else(server: ClusterServer, backup: Manifest) -> None:
    key = folder(server.prefix + BASES, backup.id) + "manifest.json"
    swapped = backup.model_copy(update={"platform": "another"})
    server.store.put(key, swapped.json_bytes())
    ((kind, said),) = server.look(backup.id)
    assert kind == "manifest"
    assert "another platform" in said
    for wrong in (None, OTHER_KEY):
        server.store.put(key, backup.json_bytes())
        stretch = server.ship(key=KEY).stretches[-1]
        faults = server.look(backup.id, key=wrong)
        assert kinds(faults) == {"key"}
        server.lose(stretch)


def test_a_stretch_without_its_manifest_is_none(server: ClusterServer, backup: Manifest) -> None:
    last = server.stretches()[-1]
    server.store.delete(folder(server.prefix + LOG, last.id) + "manifest.json")
    assert server.look(backup.id) == []
    assert number(server.ship().end) > number(archive.cluster(last).end), "the next round fetches it again"
    assert server.look(backup.id) == []
