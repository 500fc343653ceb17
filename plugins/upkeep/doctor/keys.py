"""The key of backups: whether it is one, and whether what it writes could be read again."""

from __future__ import annotations

from upkeep.backup.encryption import AgeKey, age_key, decrypt, encrypt, key
from upkeep.doctor.verdict import fine, missing, note
from upkeep.errors import SettingsError
from upkeep.findings import Outcome


def look(method: str, login: str, password: str, conn_id: str) -> list[Outcome]:
    """
    A word is encrypted and read again.

    :param method: ``aes-256-gcm`` or ``age``, as the platform file says.
    """
    try:
        own = age_key(login, password, conn_id) if method == "age" else key(password, conn_id)
    except SettingsError as wrong:
        return [missing("key", conn_id, wrong.message, wrong.hint)]
    if isinstance(own, AgeKey) and not own.identity:
        return [
            note(
                "key",
                conn_id,
                "recipients of age, and no identity: backups are made, none can be verified or restored here",
                "put an identity into the password where backups are verified",
            )
        ]
    word = b"upkeep"
    assert b"".join(decrypt(encrypt([word], own, "check"), own, "check")) == word
    return [fine("key", conn_id, f"{method}, key {own.id}; keep a copy of it elsewhere")]
