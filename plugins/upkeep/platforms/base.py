"""The kinds of value that platform files are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic.annotated_handlers import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from upkeep.findings import Severity


class Section(BaseModel):
    """Base of every section: unknown keys are mistakes, values never change."""

    # Docstrings of fields are read for the schema only (schema.py); pydantic would parse the source in every process.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 366 * 86400}
"""A year is 366 days here: what must be kept for three years is never deleted a day too early."""

_DURATION = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w|y)$")
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
    whole, rest = divmod(value, timedelta(seconds=1))
    for unit in ("y", "w", "d", "h", "m", "s"):
        if not rest and whole >= UNITS[unit] and whole % UNITS[unit] == 0:
            return f"{whole // int(UNITS[unit])}{unit}"
    return f"{value / timedelta(milliseconds=1):.3f}".rstrip("0").rstrip(".") + "ms"


def _not_nothing(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("a duration is longer than nothing")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    AfterValidator(_not_nothing),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["250ms", "15m", "7d", "3y"]}),
]
"""A length of time with its unit: ``15m``; never nothing."""


@dataclass(frozen=True)
class Between:
    """Bounds of a ``Duration``, said in its own words: ``Annotated[Duration, Between("1s", "1h")]``."""

    least: str
    most: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "x-least": self.least, "x-most": self.most}

    def _check(self, value: timedelta) -> timedelta:
        if not parse_duration(self.least) <= value <= parse_duration(self.most):
            raise ValueError(f"between {self.least} and {self.most}")
        return value


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A name of ours: lower-case letters, digits, underscores."""

KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A name as Kubernetes allows it (RFC 1123)."""

TableName = Annotated[str, Field(pattern=r'^[^\s.;"\']{1,63}(\.[^\s.;"\']{1,63})?$')]
"""``table`` or ``schema.table``, without quotes."""

Share = Annotated[float, Field(gt=0, le=1)]
"""A part of a whole: 0.8 is 80 %."""

Count = Annotated[int, Field(ge=0, le=10**12)]
Bytes = Annotated[ByteSize, Field(ge=0, le=10**18)]
"""A size with its unit: ``512MiB``; at most 1 EB."""

HostName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+$", max_length=253)
]
"""A full host name, lower case: ``api.studyspot.com``."""

BucketName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
"""A bucket, without ``s3://``."""

ImageName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(@sha256:[0-9a-f]{64})?$", max_length=300)
]
"""A container image without a tag: a repository, or exactly one digest of it."""


def _plain_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("a URL starts with https:// or http:// and names a host")
    if parts.username or parts.password:
        raise ValueError("a URL carries no user or password; secrets live in Airflow connections")
    if re.search(r"\s", url):
        raise ValueError("a URL has no blanks")
    try:
        _ = parts.port
    except ValueError:  # its own message repeats what may be a password
        raise ValueError("the port of a URL is a number up to 65535") from None
    return url


Url = Annotated[str, Field(max_length=2000), AfterValidator(_plain_url)]
"""``https://…``, without user and password."""


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
    """How bad ``warn`` is."""

    critical_severity: Severity = Severity.P1
    """How bad ``critical`` is; at least as bad as ``warn``."""

    @model_validator(mode="after")
    def _worse(self) -> Threshold:
        if not self.critical_severity.at_least(self.warn_severity):
            raise ValueError(f"critical ({self.critical_severity}) is less severe than warn ({self.warn_severity})")
        return self

    def severity(self, value: float) -> Severity | None:
        """How bad ``value`` is; None below ``warn``. ``critical < warn`` means that low is bad."""
        if self.critical >= self.warn:
            if value >= self.critical:
                return self.critical_severity
            return self.warn_severity if value >= self.warn else None
        if value <= self.critical:
            return self.critical_severity
        return self.warn_severity if value <= self.warn else None


def _rising(value: Threshold) -> Threshold:
    if value.warn > value.critical:
        raise ValueError(f"warn ({value.warn:g}) is above critical ({value.critical:g}), and high is bad here")
    return value


def _falling(value: Threshold) -> Threshold:
    if value.warn < value.critical:
        raise ValueError(f"warn ({value.warn:g}) is below critical ({value.critical:g}), and low is bad here")
    return value


def _shares(value: Threshold) -> Threshold:
    if value.warn > 1 or value.critical > 1:
        raise ValueError("shares of a whole are at most 1: write 0.8 for 80 %")
    return value


Rising = Annotated[Threshold, AfterValidator(_rising)]
"""High is bad."""

ShareUsed = Annotated[Threshold, AfterValidator(_shares), AfterValidator(_rising)]
"""Parts of a whole, and high is bad."""

ShareLeft = Annotated[Threshold, AfterValidator(_shares), AfterValidator(_falling)]
"""Parts of a whole, and low is bad."""


def distinct(items: tuple[Any, ...], field: str) -> tuple[Any, ...]:
    """``items``, unless two share ``field``. :raises ValueError: they do."""
    seen: set[Any] = set()
    for item in items:
        value = getattr(item, field)
        if value in seen:
            raise ValueError(f"two entries with the same {field}: {value!r}")
        seen.add(value)
    return items
