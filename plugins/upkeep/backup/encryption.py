"""
Encryption of streams: AES-256-GCM in frames, so that nothing is held whole and nothing is believed unchecked.

After a header (magic, id of the key, salt) come frames of 1 MiB and 16 bytes of tag. Each stream has a key of its
own (HKDF-SHA256 of the platform's key and the salt); the nonce of a frame is its number and whether it is the last, so
frames can be neither changed nor moved, left out, or cut off (as in age's and Tink's streams).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from upkeep.errors import SettingsError, UpkeepError

MAGIC = b"upkeep1\n"
KEY_ID, SALT, TAG = 8, 32, 16
FRAME = 1024 * 1024
HEADER = len(MAGIC) + KEY_ID + SALT


class DecryptionError(UpkeepError):
    """It cannot be read with this key, or it is not what was written."""


@dataclass(frozen=True)
class Key:
    """A platform's key."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """Names the key, and tells nothing about it."""
        return hashlib.sha256(b"upkeep backup key\0" + self.secret).hexdigest()[: 2 * KEY_ID]


def key(text: str, conn_id: str) -> Key:
    """
    The key as a connection's password holds it: 32 bytes, hexadecimal or Base64.

    :raises SettingsError: it is something else.
    """
    said = text.strip()
    for read in (bytes.fromhex, lambda value: base64.b64decode(value, validate=True)):
        try:
            secret = read(said)
        except (ValueError, binascii.Error):
            continue
        if len(secret) == 32:
            return Key(secret)
    raise SettingsError(
        f"connection {conn_id!r}: its password is not a key of 32 bytes",
        hint="make one with `openssl rand -hex 32`, and keep a copy where a fire that takes Airflow does not reach.",
    )


def encrypt(pieces: Iterable[bytes], key: Key, place: str) -> Iterator[bytes]:
    """:param place: what the stream is (``{id}/archive``); it can only be read as that."""
    salt = os.urandom(SALT)
    cipher = _cipher(key, salt)
    yield MAGIC + bytes.fromhex(key.id) + salt
    number = 0
    for number, (frame, last) in enumerate(_frames(pieces, FRAME)):
        yield cipher.encrypt(_nonce(number, last), frame, place.encode())


def decrypt(pieces: Iterable[bytes], key: Key | None, place: str) -> Iterator[bytes]:
    """:raises DecryptionError: another key, cut off, or changed."""
    source = iter(pieces)
    buffer = bytearray()
    for piece in source:
        buffer += piece
        if len(buffer) >= HEADER:
            break
    if len(buffer) < HEADER or not buffer.startswith(MAGIC):
        raise DecryptionError(
            "it is not one of our encrypted streams", hint="it was replaced or cut off; use another backup."
        )
    written = bytes(buffer[len(MAGIC) : len(MAGIC) + KEY_ID]).hex()
    if key is None or key.id != written:
        ours = f"the connection holds key {key.id}" if key else "there is no key"
        raise DecryptionError(
            f"it was encrypted with key {written}, and {ours}",
            hint="put that key into the connection of backup keys; without it nobody can read this backup.",
        )
    cipher = _cipher(key, bytes(buffer[len(MAGIC) + KEY_ID : HEADER]))

    def rest() -> Iterator[bytes]:
        yield bytes(buffer[HEADER:])
        yield from source

    for number, (frame, last) in enumerate(_frames(rest(), FRAME + TAG)):
        try:
            yield cipher.decrypt(_nonce(number, last), frame, place.encode())
        except InvalidTag:
            raise DecryptionError(
                f"frame {number + 1} (byte {HEADER + number * (FRAME + TAG):,}) is not what was written",
                hint="it was changed or cut off after it was encrypted; use another backup.",
            ) from None


def _frames(pieces: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Frames of ``size`` bytes, and whether each is the last; an empty stream is one empty frame."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        # The last frame is known as such only when nothing follows.
        while len(buffer) > size:
            yield bytes(buffer[:size]), False
            del buffer[:size]
    yield bytes(buffer), True


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _cipher(key: Key, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, b"upkeep backup stream 1").derive(key.secret))
