"""
Encryption of streams, so that nothing is held whole and nothing is believed unchecked: age, or AES-256-GCM in frames.

age (https://age-encryption.org/v1, by the library pyrage) encrypts for recipients: the workers that make backups need
not be able to read them.

AES has one key for both. After a header (magic, id of the key, salt) come frames of 1 MiB and 16 bytes of tag. Each
stream has a key of its own (HKDF-SHA256 of the platform's key and the salt); the nonce of a frame is its number and
whether it is the last, so frames can be neither changed nor moved, left out, or cut off (as in Tink's streams).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from upkeep.backup.through import WorkError, through
from upkeep.errors import SettingsError, UpkeepError

MAGIC, AGE_MAGIC = b"upkeep1\n", b"age-encryption.org/v1\n"
KEY_ID, SALT, TAG = 8, 32, 16
FRAME = 1024 * 1024
HEADER = len(MAGIC) + KEY_ID + SALT


class DecryptionError(UpkeepError):
    """It cannot be read with this key, or it is not what was written."""


class WrongKeyError(DecryptionError):
    """It may be whole; whoever has its key knows."""


@dataclass(frozen=True)
class AesKey:
    """A platform's key for AES-256-GCM."""

    secret: bytes = field(repr=False)

    method: ClassVar[Literal["aes-256-gcm"]] = "aes-256-gcm"

    @property
    def id(self) -> str:
        """Names the key, and tells nothing about it."""
        return hashlib.sha256(b"upkeep backup key\0" + self.secret).hexdigest()[: 2 * KEY_ID]


@dataclass(frozen=True)
class AgeKey:
    """A platform's recipients of age and, where backups are read, the identity of one of them."""

    recipients: tuple[str, ...]
    identity: str = field(repr=False, default="")

    method: ClassVar[Literal["age"]] = "age"

    @property
    def id(self) -> str:
        """Names the recipients."""
        return hashlib.sha256("\n".join(sorted(self.recipients)).encode()).hexdigest()[: 2 * KEY_ID]


Key = AesKey | AgeKey


def age_key(recipients: str, identity: str, conn_id: str) -> AgeKey:
    """
    As a connection holds it: recipients (``age1…``, a blank between them) as its login, an identity as its password.

    :param recipients: may be empty where there is an identity: then it is the only recipient.
    :raises SettingsError: one of them is something else, or there is none.
    """
    import pyrage  # type: ignore[import-untyped]

    said, secret = tuple(recipients.split()), identity.strip()
    make = "make both with `age-keygen`; the login is its public key, the password its AGE-SECRET-KEY-1…"
    try:
        own = str(pyrage.x25519.Identity.from_str(secret).to_public()) if secret else ""
    except pyrage.IdentityError:
        raise SettingsError(f"connection {conn_id!r}: its password is no identity of age", hint=f"{make}.") from None
    for number, one in enumerate(said, start=1):
        try:
            pyrage.x25519.Recipient.from_str(one)
        except pyrage.RecipientError:
            raise SettingsError(
                f"connection {conn_id!r}: recipient {number} of its login is none of age", hint=f"{make}."
            ) from None
    if not (said or own):
        raise SettingsError(f"connection {conn_id!r}: no recipient of age", hint=f"{make}.")
    if own and said and own not in said:
        raise SettingsError(
            f"connection {conn_id!r}: its password is the identity of none of its recipients",
            hint="what is written could not be read again; add that identity's public key to the login.",
        )
    return AgeKey(said or (own,), secret)


def key(text: str, conn_id: str) -> AesKey:
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
            return AesKey(secret)
    raise SettingsError(
        f"connection {conn_id!r}: its password is not a key of 32 bytes",
        hint="make one with `openssl rand -hex 32`, and keep a copy where a fire that takes Airflow does not reach.",
    )


def encrypt(pieces: Iterable[bytes], key: Key, place: str) -> Iterator[bytes]:
    """:param place: what the stream is (``{id}/archive``); with AES it can only be read as that."""
    if isinstance(key, AgeKey):
        yield from _age(pieces, key)
        return
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
    if buffer.startswith(AGE_MAGIC):
        yield from _unage(chain([bytes(buffer)], source), key)
        return
    if len(buffer) < HEADER or not buffer.startswith(MAGIC):
        raise DecryptionError(
            "it is not one of our encrypted streams", hint="it was replaced or cut off; use another backup."
        )
    written = bytes(buffer[len(MAGIC) : len(MAGIC) + KEY_ID]).hex()
    if not isinstance(key, AesKey) or key.id != written:
        ours = "the connection is one for age" if isinstance(key, AgeKey) else "there is no key"
        if isinstance(key, AesKey):
            ours = f"the connection holds key {key.id}"
        raise WrongKeyError(
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


def _cipher(key: AesKey, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, b"upkeep backup stream 1").derive(key.secret))


# -- age -----------------------------------------------------------------------------------------------------------


def _age(pieces: Iterable[bytes], key: AgeKey) -> Iterator[bytes]:
    import pyrage

    recipients = [pyrage.x25519.Recipient.from_str(one) for one in key.recipients]
    return through(pieces, lambda source, target: pyrage.encrypt_io(source, target, recipients))


def _unage(pieces: Iterable[bytes], key: Key | None) -> Iterator[bytes]:
    import pyrage

    if not isinstance(key, AgeKey) or not key.identity:
        raise WrongKeyError(
            "it was encrypted with age, and there is no identity to read it with",
            hint="put the identity (AGE-SECRET-KEY-1…) of one of its recipients into the password of the connection of"
            " backup keys, and set `backup.encryption: age`.",
        )
    identities = [pyrage.x25519.Identity.from_str(key.identity)]
    try:
        yield from through(pieces, lambda source, target: pyrage.decrypt_io(source, target, identities))
    except WorkError as refused:
        if "No matching keys" in str(refused):
            raise WrongKeyError(
                "it was encrypted with age for others than this identity",
                hint="put the identity of one of its recipients into the connection of backup keys.",
            ) from None
        raise DecryptionError(
            f"it is not what was written ({refused})",
            hint="it was changed or cut off after it was encrypted; use another backup.",
        ) from None
