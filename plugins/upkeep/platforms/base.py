"""The kinds of value that platform files are made of."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, PlainSerializer
from pydantic.json_schema import WithJsonSchema

from upkeep.findings import Severity


class Section(BaseModel):
    """Base of every section: unknown keys are mistakes, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, strict=False
    )


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 366 * 86400}
"""A year is 366 days here: what must be kept for three years is never deleted a day too early."""

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d|w|y)$")
_MOST_SECONDS = 100 * UNITS["y"]


def parse_duration(value: Any) -> timedelta:
    """``"250ms"``, ``"15m"``, ``"30d"``, ``"3y"`` → timedelta. :raises ValueError: anything else."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a number and one of ms, s, m, h, d, w, y: 15m")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > _MOST_SECONDS:
        raise ValueError("a duration is at most 100y")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest way to write it: ``timedelta(minutes=15)`` → ``"15m"``."""
    seconds = value.total_seconds()
    for unit in ("y", "w", "d", "h", "m", "s"):
        if seconds >= UNITS[unit] and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["250ms", "15m", "7d", "3y"]}),
]
"""A length of time with its unit: ``15m``."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A name of ours: lower-case letters, digits, underscores."""

KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A name as Kubernetes allows it (RFC 1123)."""

TableName = Annotated[str, Field(pattern=r'^[^\s.;"\']{1,63}(\.[^\s.;"\']{1,63})?$')]
"""``table`` or ``schema.table``, without quotes."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole: 0.8 is 80 %."""

Count = Annotated[int, Field(ge=0, le=10**12)]
Bytes = Annotated[ByteSize, Field(ge=0)]
"""A size with its unit: ``512MiB``."""


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a path starts with /")
    if ".." in path.split("/"):
        raise ValueError("a path does not climb (..)")
    if "\0" in path:
        raise ValueError("a path has no NUL")
    return path.rstrip("/") or "/"


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""A directory on the platform's hosts; no ``..``."""


class Threshold(Section):
    """Two steps on the way to trouble; each is a finding with its own severity."""

    warn: float = Field(ge=0)
    """From here on it is a finding."""

    critical: float = Field(ge=0)
    """From here on it is a worse one."""

    warn_severity: Severity = Severity.P3
    critical_severity: Severity = Severity.P1

    def severity(self, value: float) -> Severity | None:
        """How bad ``value`` is; None below ``warn``. ``critical < warn`` means that low is bad."""
        if self.critical >= self.warn:
            if value >= self.critical:
                return self.critical_severity
            return self.warn_severity if value >= self.warn else None
        if value <= self.critical:
            return self.critical_severity
        return self.warn_severity if value <= self.warn else None
