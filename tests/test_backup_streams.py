"""Encryption and compression of streams: whatever was done to one is noticed."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from upkeep.backup import compression, encryption
from upkeep.backup.compression import CompressionError
from upkeep.backup.encryption import HEADER, TAG, AesKey, DecryptionError, Key
from upkeep.errors import SettingsError

KEY = AesKey(b"k" * 32)
FRAME = 100


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encryption, "FRAME", FRAME)
        patch.setattr(compression, "BLOCK", 1000)
        yield


def locked(content: bytes, place: str = "id/archive") -> bytes:
    return b"".join(encryption.encrypt([content], KEY, place))


def opened(content: bytes, key: Key | None = KEY, place: str = "id/archive") -> bytes:
    return b"".join(encryption.decrypt([content[:7], content[7:90], content[90:]], key, place))


@given(some.lists(some.binary(max_size=3 * FRAME), max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_goes_in_comes_out_however_it_is_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert opened(b"".join(encryption.encrypt(pieces, KEY, "id/archive"))) == whole
    packed = b"".join(compression.compress(pieces))
    assert gzip.decompress(packed) == whole
    assert b"".join(compression.decompress([packed[i : i + 77] for i in range(0, len(packed), 77)])) == whole


@pytest.mark.parametrize("size", [0, 1, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME])
def test_an_encrypted_stream_is_neither_cut_nor_changed_nor_moved_unnoticed(size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    stream = locked(content)
    frame = FRAME + TAG
    changed = {
        "cut at a frame": stream[: HEADER + (len(stream) - HEADER - 1) // frame * frame],
        "cut anywhere": stream[:-1],
        "longer": stream + b"x",
        "changed": stream[:-1] + bytes([stream[-1] ^ 1]),
        "another salt": stream[: HEADER - 1] + bytes([stream[HEADER - 1] ^ 1]) + stream[HEADER:],
    }
    if size >= 2 * FRAME:
        first, second = HEADER + frame, HEADER + 2 * frame
        changed["frames exchanged"] = stream[:HEADER] + stream[first:second] + stream[HEADER:first] + stream[second:]
        changed["a frame left out"] = stream[:HEADER] + stream[first:]
    for what, wrong in changed.items():
        with pytest.raises(DecryptionError, match=r"is not what was written|not one of our"):
            print(what, opened(wrong))
    with pytest.raises(DecryptionError, match="is not what was written"):
        opened(stream, place="other/archive")
    assert opened(stream) == content


def test_a_wrong_or_missing_key_says_so() -> None:
    other = AesKey(b"o" * 32)
    said = rf"encrypted with key {KEY.id}, and the connection holds key {other.id}(.|\n)*HINT: put that key"
    with pytest.raises(DecryptionError, match=said):
        opened(locked(b"x"), other)
    with pytest.raises(DecryptionError, match=f"with key {KEY.id}, and there is no key"):
        opened(locked(b"x"), None)


@pytest.mark.parametrize("text", ["", "secret", "ab" * 31, "ab" * 33])
def test_a_password_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=r"'studyspot_backup_key': its password is not a key of 32 bytes(.|\n)*openssl"
    ):
        encryption.key(text, "studyspot_backup_key")


def test_keys_come_as_hexadecimal_or_base64_and_are_not_shown() -> None:
    assert encryption.key("6b" * 32 + "\n", "c") == KEY
    assert encryption.key("a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", "c") == KEY
    assert "kkk" not in repr(KEY)


def test_gzip_that_was_cut_or_changed_is_noticed() -> None:
    packed = b"".join(compression.compress([bytes(range(256)) * 20]))
    for wrong in (packed[:-1], packed[:500], packed[:300] + b"\xff" + packed[301:], b""):
        with pytest.raises(CompressionError):
            b"".join(compression.decompress([wrong]))
