"""
Secrets in configuration, for archives that are not encrypted.

The rule: without ``backup.encryption`` nothing that looks like a secret is written. Secret objects and key stores are
left out whole; in everything else the value alone becomes ``***``, so that the rest can still be restored. All of it is
told.
"""

from __future__ import annotations

import re
from typing import Any

from upkeep.platforms.redaction import KEYS, certain

HIDDEN = "***"

STORES = re.compile(
    r"(?i)(^|/)(\.pgpass|\.netrc|\.git-credentials|\.htpasswd|g?shadow-?|[^/]*\.(p12|pfx|jks|keystore|keytab|kdbx))$"
)
"""Files that hold nothing but secrets."""

_NAMES = re.compile(rf"{KEYS.pattern}|secret$")
"""Of keys and environment variables; the pattern of platform files asks for lower and upper case alike."""

_NAME = (
    r"[\w.-]*(?:passw(?:or)?d|passphrase|(?<![a-z])pass|(?<![a-z])pwd|token|secret|credentials?|"
    r"(?:access|encryption|signing|private|api|routing|integration|secret)[_-]?key)"
)
"""What a key ends with; ``secretName`` and ``secretKeyRef`` only point at one."""

_LINE = (
    # All of the line: a password may have blanks. A block begins on the next line, or with a bracket.
    rf"(?im)^([ \t]*(?:export[ \t]+|set[ \t]+|-[ \t]+)?[\"']?{_NAME}[\"']?[ \t]*[=:][ \t]*)(?![|>{{\[])\S.*$"
)
_INLINE = (
    # As in JSON and in URLs.
    rf"(?i)([\"'?&;,{{ \t]{_NAME}[\"']?[ \t]*[=:][ \t]*)"
    r"(?:\"[^\"\n]+\"|'[^'\n]+'|[^\s,;&)}\]\"'|>{\[]+)"
)
_BLOCK = r"(?s)()-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
_BEARER = r"(?i)\b((?:bearer|basic)[ \t]+)[a-z0-9._~+/=-]{20,}"
_PATTERNS = [re.compile(pattern) for pattern in (_BLOCK, _LINE, _INLINE, _BEARER)]


def without(text: str) -> str:
    """``text`` with the values of secrets hidden."""
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return certain(text, HIDDEN)


def without_in(content: bytes) -> bytes:
    """As ``without``, for a file; what is no text is searched as well."""
    return without(content.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def cleaned(content: Any) -> Any:
    """
    A Kubernetes object with the values of secrets hidden, wherever they stand.

    By the key's name, by the name beside the value (``env``), and by what the value looks like.
    """
    if isinstance(content, list):
        return [cleaned(one) for one in content]
    if isinstance(content, str):
        return without(content)
    if not isinstance(content, dict):
        return content
    named = isinstance(content.get("name"), str) and _NAMES.search(content["name"])
    return {
        key: HIDDEN
        if isinstance(value, str) and value and (_NAMES.search(str(key)) or (named and key == "value"))
        else cleaned(value)
        for key, value in content.items()
    }
