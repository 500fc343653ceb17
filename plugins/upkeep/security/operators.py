"""The task `tls` of the weekly maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upkeep.errors import SettingsError
from upkeep.operators import PlatformOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from upkeep.ledger import Run


class TlsAuditOperator(PlatformOperator):
    """Look at the certificates, keys and protocols of every address behind every name. Only handshakes are made."""

    converging = True

    def act(self, context: Context, run: Run) -> dict[str, Any]:
        from datetime import UTC, datetime

        from upkeep.security import tls
        from upkeep.settings import settings

        policy = self.subject.certificates
        if policy is None:
            raise SettingsError(
                f"{self.subject.name} has no section `certificates`", hint="add it to its platform file."
            )
        seen = tls.audit(self.subject.http, policy, connect_to=settings().connect_to, now=datetime.now(UTC))
        return self.conclude(run, seen)
