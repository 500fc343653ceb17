"""The ledger: what was found, planned, done, measured and told, in a Postgres database of its own."""

from __future__ import annotations

from upkeep.ledger.actions import Action, Plan
from upkeep.ledger.findings import Change
from upkeep.ledger.run import Run
from upkeep.ledger.store import Ledger, Sample

__all__ = ["Action", "Change", "Ledger", "Plan", "Run", "Sample"]
