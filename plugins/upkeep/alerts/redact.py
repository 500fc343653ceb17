"""Keeping secrets out of whatever leaves: ledger, alerts, reports."""

from __future__ import annotations

import re

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


def redact(text: str) -> str:
    """``text`` with everything that looks like a secret replaced by ``***``."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
