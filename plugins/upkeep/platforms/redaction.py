"""Secrets do not belong into platform files, and never into a message about one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from upkeep.alerts.redact import redact as redact_known

KEYS = re.compile(
    r"(?i)passw|passphrase|(^|_)pass$|(^|_)pwd?$|^secret$|secret_?(key|value)|token|credential|dsn$|conninfo|"
    r"(api|access|routing|private|signing|encryption|integration)_?key"
)
"""Names of keys that hold secrets."""

# Repeats are bounded, so that no text makes the search slow.
_CERTAIN = re.compile(
    "|".join(
        (
            r"\b[A-Za-z][A-Za-z0-9+.-]{0,20}://[^/\s@'\"]{0,200}:[^/\s@'\"]{1,300}@",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----",
            r"\bxox[a-z]-[A-Za-z0-9-]{10,200}",
            r"\bgh[pousr]_[A-Za-z0-9]{20,200}",
            r"\bgithub_pat_\w{20,200}",
            r"\bglpat-[\w-]{15,200}",
            r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
            r"\beyJ[\w-]{10,200}\.eyJ[\w-]{10,200}",
            r"\bAGE-SECRET-KEY-1[0-9A-Z]{5,200}",
            r"hooks\.slack\.com/(?:services|workflows)/[\w/]{1,200}",
        )
    )
)
"""Nothing else looks like these."""

_LIKELY = re.compile(
    "|".join(
        (
            r"\b[A-Za-z][A-Za-z0-9+.-]{0,20}://[^\s@'\"]{1,300}@",
            # Long, mixed and without a word in it; digests of images are no secrets.
            r"(?<!sha256:)(?<![\w-])(?=[\w+=-]{0,100}[0-9])(?=[\w+=-]{0,100}[a-z])(?=[\w+=-]{0,100}[A-Z])[\w+=-]{20,}",
            r"(?<!sha256:)(?<![\w-])(?=[0-9a-f]{0,100}[0-9])(?=[0-9a-f]{0,100}[a-f])[0-9a-f]{32,}(?!\w)",
        )
    )
)
"""Not shown, but no mistake by itself."""

HIDDEN = "(hidden)"
_MOST = 400


def redact(text: str) -> str:
    """At most the first 400 characters of ``text``, without anything that looks like a secret."""
    return _LIKELY.sub(HIDDEN, _CERTAIN.sub(HIDDEN, redact_known(text[:_MOST])))


def certain(text: str, instead: str) -> str:
    """``text``, of any length, with what is certainly a secret replaced."""
    return _CERTAIN.sub(instead, text)


def find(content: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in ``content`` (without cycles) a value is certainly a secret, whatever its key says."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from find(value, (*at, key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from find(value, (*at, number))
    elif isinstance(content, str) and _CERTAIN.search(content):
        yield at
