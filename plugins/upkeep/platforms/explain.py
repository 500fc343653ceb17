"""What is wrong with a platform file, line by line: file, key, fact, value. Never a secret."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from upkeep.platforms.redaction import HIDDEN, KEYS, redact

MOST_LINES = 20
MOST_SHOWN = 80


def explain(name: str, wrong: ValidationError, content: dict[str, Any], model: type[BaseModel]) -> str:
    """
    One line per mistake.

    :param name: of the file. :param content: what was validated. :param model: against what.
    """
    lines: dict[str, str] = {}
    for error in wrong.errors(include_url=False):
        at = _known(error["loc"], content, missing=error["type"] == "missing")
        key = ".".join(str(part)[:MOST_SHOWN] for part in at) or "(whole file)"
        # The branches of a union complain one by one, about the same key.
        if key not in lines:
            lines[key] = f"{name}: `{redact(key)}` {_said(dict(error), at, model)}" if len(lines) < MOST_LINES else ""
    more = len(lines) - MOST_LINES
    return "\n".join(filter(None, lines.values())) + (f"\n… and {more} more" if more > 0 else "")


def _said(error: dict[str, Any], at: Sequence[str | int], model: type[BaseModel]) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "extra_forbidden":
        if secret_key(at):
            return "is a secret; secrets live in Airflow connections, never in platform files"
        near = difflib.get_close_matches(str(at[-1]), _keys(model, at[:-1]), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        return f"is wrong: no such key{meant}, got {shown(error['input'], at)}"
    said = redact(error["msg"].removeprefix("Value error, "))
    return f"is wrong: {said[:1].lower()}{said[1:300]}, got {shown(error['input'], at)}"


def shown(value: Any, at: Sequence[str | int] = ()) -> str:
    """A value for people: short, its shape where it is large, and nothing that may be a secret."""
    if isinstance(value, dict):
        return _cut(redact(f"a mapping of {', '.join(map(str, value))}")) if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if secret_key(at):
        return HIDDEN
    return _cut(redact(repr(value)))


def secret_key(at: Sequence[str | int]) -> bool:
    """Whether one of the keys on the way names a secret."""
    return any(isinstance(part, str) and KEYS.search(part) for part in at)


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 1] + "…"


def _known(loc: Sequence[str | int], content: Any, *, missing: bool) -> tuple[str | int, ...]:
    """``loc`` as the person sees it: without the names of union branches and validators."""
    known: list[str | int] = []
    for place, part in enumerate(loc):
        inside = (isinstance(content, dict) and part in content) or (
            isinstance(content, list) and isinstance(part, int) and part < len(content)
        )
        if inside:
            content = content[part]
            known.append(part)
        elif missing and place == len(loc) - 1:
            known.append(part)
    return tuple(known)


def _keys(model: type[BaseModel], at: Sequence[str | int]) -> list[str]:
    """The keys that are allowed there."""
    here: type[BaseModel] | None = model
    for part in at:
        if here is not None and isinstance(part, str) and part in here.model_fields:
            here = _model_in(here.model_fields[part].annotation)
    return list(here.model_fields) if here is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """``tuple[Endpoint, ...] | None`` → ``Endpoint``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
