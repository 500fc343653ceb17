"""A few lines of HTTPS for the sandbox's own faults and tests; platforms use the official client."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.home import SandboxError


@dataclass(frozen=True)
class Client:
    """Speaks to one cluster."""

    url: str
    token: str
    authority: Path

    def send(
        self, method: str, path: str, body: Any = None, *, media_type: str = "application/json", timeout_s: float = 10
    ) -> Any:
        """
        The decoded answer.

        :raises SandboxError: it was refused, or nobody answered.
        """
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": media_type, "User-Agent": "sandbox"},
        )
        context = ssl.create_default_context(cafile=str(self.authority))
        try:
            with urllib.request.urlopen(request, timeout=timeout_s, context=context) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            raise SandboxError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise SandboxError(f"{method} {self.url}{path}: {error}; does the cluster run?") from error
        return json.loads(text) if text[:1] in (b"{", b"[") else text.decode()

    def get(self, path: str) -> Any:
        return self.send("GET", path)

    def merge(self, path: str, body: Any) -> Any:
        """A merge patch."""
        return self.send("PATCH", path, body, media_type="application/merge-patch+json")
