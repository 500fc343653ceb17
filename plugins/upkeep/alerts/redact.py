"""Keeping secrets and personal data out of whatever leaves: ledger, alerts, reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_SECRETS = [
    # user:password@host in any URL
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@/]+@"), r"\1:***@"),
    # password=…, "api_key": "…", token: …
    (
        re.compile(
            r"(?i)(\b(?:\w*password|passwd|pwd|\w*secret\w*|\w*token|api[_-]?key|routing[_-]?key|private[_-]?key)\b"
            r"[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&)}\]]+)"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"\bxox[a-z]-[A-Za-z0-9-]{8,}"), "***"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.S), "***"),
]

# Repeats are bounded, so that no text makes the search slow.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_CARD = re.compile(r"(?<![\w.:-])[2-6](?:[ -]?\d){14,15}(?![\w:-])")
# With a country's code, or as Americans write them: plain numbers are measurements.
_PHONE = re.compile(r"(?<![\w+])\+\d{1,3}[ ().\d-]{6,18}\d(?!\w)|(?<!\w)\(\d{3}\) ?\d{3}-\d{4}(?!\w)")
_IP = re.compile(
    r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d)|(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])"
)


def redact(text: str, personal: Iterable[str] = ()) -> str:
    """
    ``text`` with everything that looks like a secret replaced by ``***``.

    :param personal: kinds of personal data replaced as well: ``email``, ``phone``, ``card``, ``ip``.
    """
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    kinds = set(personal)
    if "email" in kinds:
        text = _EMAIL.sub("(e-mail)", text)
    if "card" in kinds:
        text = _CARD.sub(lambda found: "(card)" if _luhn(found[0]) else found[0], text)
    if "phone" in kinds:
        text = _PHONE.sub("(phone)", text)
    if "ip" in kinds:
        text = _IP.sub("(address)", text)
    return text


def redact_all(value: Any, personal: Iterable[str] = ()) -> Any:
    """The same for every text in a structure of JSON values."""
    if isinstance(value, str):
        return redact(value, personal)
    if isinstance(value, Mapping):
        return {redact_all(key, personal): redact_all(item, personal) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item, personal) for item in value]
    return value


def _luhn(text: str) -> bool:
    """Whether the digits end in a card's check digit."""
    digits = [int(letter) for letter in reversed(text) if letter.isdigit()]
    return sum(n if i % 2 == 0 else sum(divmod(2 * n, 10)) for i, n in enumerate(digits)) % 10 == 0
