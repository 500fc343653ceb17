"""The text of a statement, without anything that belongs to a person: no literals, no comments."""

from __future__ import annotations

import re

from upkeep.alerts.redact import redact

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<quoted>"(?:[^"]|"")*(?:"|\Z))
    |(?P<literal>
        \b[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)
        |(?:\b(?:[bBxXnN]|[uU]&))?'(?:[^']|'')*(?:'|\Z)
        |\$(?P<tag>[A-Za-z_]\w*|)\$.*?(?:\$(?P=tag)\$|\Z)
    )
    |(?P<parameter>\$\d+)
    |(?P<word>[^\W\d]\w*)
    |(?P<number>\d[\w.]*)
    """,
    re.S | re.X,
)
"""Strings and comments that a cut left without their end reach to the end of the text."""


def without_literals(statement: str, most: int = 400) -> str:
    """
    ``statement`` on one line with ``?`` for each literal, and without comments.

    pg_stat_statements puts ``$1`` for the literals of queries, but leaves those of other statements as they are
    (before PostgreSQL 16 of all of them), passwords among them; comments often carry users and requests.
    """

    def instead(found: re.Match[str]) -> str:
        kind = found.lastgroup
        if kind == "comment":
            return " "
        return "?" if kind in ("literal", "tag", "number") else found[0]

    text = " ".join(_TOKEN.sub(instead, statement).split())
    text = redact(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"
