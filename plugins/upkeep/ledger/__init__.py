"""The ledger: what was found, planned, done, measured and told, in a Postgres database of its own."""

from __future__ import annotations

from upkeep.ledger.actions import Action, Plan
from upkeep.ledger.findings import AT_ONCE, Change, Patience
from upkeep.ledger.holding import Rules
from upkeep.ledger.run import Run
from upkeep.ledger.store import Ledger, Sample

__all__ = ["AT_ONCE", "Action", "Change", "Ledger", "Patience", "Plan", "Rules", "Run", "Sample"]
