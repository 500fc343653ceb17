"""Backups encrypted with age: streamed, noticed when they are changed, and read by whoever has an identity, alone."""

from __future__ import annotations

import gc
import io
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import pyrage  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sandbox.binaries import debian
from tests.backup_server import KEY, BackupServer
from tests.page_server import shop
from upkeep.backup import encryption
from upkeep.backup.encryption import AgeKey, DecryptionError, Key, age_key
from upkeep.doctor import keys, needs
from upkeep.errors import SettingsError
from upkeep.platforms import Platform

SERVER = BackupServer


def identity() -> tuple[str, str]:
    """Public and secret."""
    made = pyrage.x25519.Identity.generate()
    return str(made.to_public()), str(made)


PUBLIC, SECRET = identity()
ALSO, ALSO_SECRET = identity()
WRITES = AgeKey((PUBLIC, ALSO))
READS = AgeKey((PUBLIC, ALSO), SECRET)


def locked(pieces: list[bytes], key: AgeKey = WRITES) -> bytes:
    return b"".join(encryption.encrypt(pieces, key, "id/archive"))


def opened(content: bytes, key: Key | None = READS, size: int = 1000) -> bytes:
    return b"".join(encryption.decrypt((content[at : at + size] for at in range(0, len(content), size)), key, "p"))


@given(some.lists(some.binary(max_size=100_000), max_size=6), some.integers(1, 200_000))
@settings(max_examples=60, deadline=None)
def test_what_goes_in_comes_out_however_it_is_cut(pieces: list[bytes], size: int) -> None:
    stream = locked(pieces)
    assert opened(stream, size=size) == b"".join(pieces)
    # Each recipient reads it alone.
    assert opened(stream, AgeKey((ALSO,), ALSO_SECRET)) == b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
def test_it_is_neither_cut_nor_changed_unnoticed(size: int) -> None:
    stream = locked([bytes(number % 251 for number in range(size))])
    changed = {
        "cut": stream[:-1],
        "cut in the middle": stream[: len(stream) * 3 // 4],
        "longer": stream + b"x",
        "changed": stream[:-1] + bytes([stream[-1] ^ 1]),
        "cut in its header": stream[:100],
        "another header": stream[:60] + bytes([stream[60] ^ 1]) + stream[61:],
    }
    for what, wrong in changed.items():
        with pytest.raises(DecryptionError):
            print(what, opened(wrong))


def test_who_has_no_identity_is_told_so() -> None:
    stream = locked([b"x"])
    _, strange = identity()
    for key, said in (
        (None, "there is no identity to read it with"),
        (WRITES, "there is no identity to read it with"),
        (KEY, "there is no identity to read it with"),
        (AgeKey((PUBLIC,), strange), "it was encrypted with age for others than this identity"),
    ):
        with pytest.raises(DecryptionError, match=said):
            opened(stream, key)
    # The other way round: a backup from before the platform changed to age.
    before = b"".join(encryption.encrypt([b"x"], KEY, "p"))
    with pytest.raises(DecryptionError, match=f"with key {KEY.id}, and the connection is one for age"):
        opened(before)


class Gone(Exception):
    """The dump broke off."""


def test_what_breaks_on_the_way_is_raised_as_it_is() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"x" * 200_000
        raise Gone

    with pytest.raises(Gone):
        b"".join(encryption.encrypt(breaking(), WRITES, "p"))
    stream = locked([b"y" * 500_000])

    def half() -> Iterator[bytes]:
        yield stream[:300_000]
        raise Gone

    with pytest.raises(Gone):
        b"".join(encryption.decrypt(half(), READS, "p"))


def test_whoever_stops_reading_leaves_no_thread_and_the_rest_can_be_read() -> None:
    stream = locked([b"z" * 3_000_000])
    rest = iter([stream[at : at + 10_000] for at in range(0, len(stream), 10_000)])
    reading = encryption.decrypt(rest, READS, "p")
    assert next(reading)
    reading.close()  # type: ignore[attr-defined]
    del reading
    gc.collect()
    assert not [one for one in threading.enumerate() if one.name == "upkeep-through"]
    assert b"".join(rest), "what was not read is still there"


def test_a_stream_of_any_length_takes_little_memory() -> None:
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in encryption.encrypt(repeat(b"x" * 1_000_000, 100), WRITES, "p"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size > 100_000_000
    assert peak < 8_000_000


def test_the_connection_is_read_strictly() -> None:
    assert age_key(f"{PUBLIC} {ALSO}", SECRET, "c") == READS
    assert age_key(f"{PUBLIC}\n{ALSO}\n", "", "c") == WRITES
    assert age_key("", f"{SECRET}\n", "c") == AgeKey((PUBLIC,), SECRET)
    assert SECRET not in repr(READS)
    assert WRITES.id == READS.id != AgeKey((PUBLIC,)).id
    _, strange = identity()
    for recipients, secret, said in (
        ("", "", "no recipient of age"),
        ("age1nothing", "", "recipient 1 of its login is none of age"),
        (f"{PUBLIC} {SECRET}", "", "recipient 2 of its login is none of age"),
        (PUBLIC, "hunter2", "its password is no identity of age"),
        (PUBLIC, strange, "its password is the identity of none of its recipients"),
    ):
        with pytest.raises(SettingsError, match=f"connection 'c': {said}") as refused:
            age_key(recipients, secret, "c")
        assert secret == "" or secret not in str(refused.value)


def test_the_usual_program_reads_it(tmp_path: Path) -> None:
    """The backup outlives Upkeep: `age -d` and `gunzip` are enough."""
    program = debian("age") / "usr/bin/age"
    (tmp_path / "identity").write_text(f"{SECRET}\n")
    stream = locked([b"whatever was dumped\n" * 100_000])
    read = subprocess.run([program, "-d", "-i", tmp_path / "identity"], input=stream, capture_output=True, check=True)
    assert read.stdout == b"whatever was dumped\n" * 100_000
    written = subprocess.run([program, "-r", PUBLIC], input=b"by age itself", capture_output=True, check=True).stdout
    assert opened(written) == b"by age itself"
    assert io.BytesIO(written).read(len(encryption.AGE_MAGIC)) == encryption.AGE_MAGIC


def test_check_says_whether_the_key_is_one_and_what_cannot_be_done_without_the_identity() -> None:
    cases = {
        ("age", f"{PUBLIC} {ALSO}", SECRET): ("ok", ""),
        ("age", PUBLIC, ""): ("finding", "none can be verified or restored here"),
        ("age", PUBLIC, "x"): ("finding", "its password is no identity of age"),
        ("aes-256-gcm", "", "ab" * 32): ("ok", ""),
        ("aes-256-gcm", "", SECRET): ("finding", "its password is not a key of 32 bytes"),
    }
    for (method, login, password), (state, said) in cases.items():
        (seen,) = keys.look(method, login, password, "studyspot_backup_key")
        assert seen.state == state
        assert said in "".join(finding.summary for finding in seen.findings)
    encrypted = {"bucket": "studyspot-backups", "encryption": "age", "database": {"prefix": "database/"}}
    own = Platform.model_validate(shop("studyspot", postgres={}, backup=encrypted))
    assert [need.conn_id for need in needs.own(own) if need.kind == "key"] == ["studyspot_backup_key"]


@pytest.fixture(scope="module")
def server(each: Callable[..., BackupServer]) -> Iterator[BackupServer]:
    server: BackupServer = each(17, BackupServer).empty()
    server.fill()
    yield server
    server.empty()


def test_a_backup_is_made_without_an_identity_and_proved_with_one(server: BackupServer) -> None:
    made = server.back_up(key=WRITES)
    assert made.encryption is not None
    assert (made.encryption.method, made.encryption.key_id) == ("age", WRITES.id)
    assert server.archive(made).startswith(encryption.AGE_MAGIC)
    assert server.read_back(made.id, key=READS) == []
    assert server.restore(made.id, key=READS) == []
    told = server.read_back(made.id, key=WRITES)
    assert [kind for kind, _ in told] == ["key", "key"]
    assert "there is no identity to read it with" in told[0][1]


def test_a_byte_that_was_changed_behind_an_honest_checksum_is_caught(server: BackupServer) -> None:
    made = server.back_up(key=WRITES)
    content = server.archive(made)
    at = len(content) * 3 // 4
    forged = server.forge(made, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    told = server.read_back(forged.id, key=READS)
    assert told
    assert server.read_back(made.id, key=READS) == []
