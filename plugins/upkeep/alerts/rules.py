"""What the platform file says about telling, in the ledger's terms."""

from __future__ import annotations

from upkeep.alerts.messages import messages_for
from upkeep.ledger import Patience, Rules
from upkeep.platforms import Platform


def rules_of(platform: Platform) -> Rules:
    """What is held back."""
    alerts = platform.alerts
    return Rules(
        reaches=lambda change: bool(messages_for(platform, change)),
        notify=platform.severity.notify,
        storm=alerts.storm,
        storm_within_s=alerts.storm_within.total_seconds(),
        because=alerts.because,
    )


def patience_of(platform: Platform) -> Patience:
    """How often the health watch's looks must agree."""
    alerts = platform.alerts
    return Patience(bad_looks=alerts.bad_looks, good_looks=alerts.good_looks, reopen_s=alerts.reopen.total_seconds())
