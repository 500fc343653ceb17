"""One request and its answer, free of how they travel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sandbox.kubernetes.errors import bad_request
from sandbox.kubernetes.protobuf import decode


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def media_type(self) -> str:
        return (self.headers.get("Content-Type") or "").partition(";")[0].strip()

    @property
    def parts(self) -> list[str]:
        return [part for part in self.path.split("/") if part]

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"

    @property
    def manager(self) -> str:
        """Who the server remembers as the owner of the fields this request sets."""
        return self.query.get("fieldManager") or (self.headers.get("User-Agent") or "unknown").partition("/")[0]

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "1")

    def json(self) -> Any:
        """The body; empty for none. :raises ApiError: 400, it cannot be parsed; 415, protobuf of an unknown kind."""
        if not self.body:
            return {}
        if "protobuf" in self.media_type:
            return decode(self.body)
        try:
            if self.media_type.endswith("yaml"):
                return yaml.safe_load(self.body)
            return json.loads(self.body)
        except (ValueError, yaml.YAMLError) as error:
            raise bad_request(f"the body cannot be parsed: {error}") from error


@dataclass(frozen=True)
class Response:
    """Either ``body`` (JSON, or bytes as they are) or ``stream``, sent piece by piece until it ends."""

    body: Any = None
    code: int = 200
    media_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
