"""Text and JSON that Postgres accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from psycopg.types.json import Jsonb


def jsonb(value: Any) -> Jsonb:
    """No NUL, no NaN or infinity; whatever is not JSON becomes its text."""
    return Jsonb(value, dumps=lambda content: json.dumps(_clean(content), default=str, allow_nan=False))


def text(value: str) -> str:
    """``value`` without NUL, which no text column takes."""
    return value.replace("\0", "\ufffd")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
