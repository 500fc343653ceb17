"""Errors raised on purpose: a fact, the value, and what to do."""

from __future__ import annotations


class UpkeepError(Exception):
    """Base of all errors raised on purpose by this project."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(f"{message}\nHINT: {hint}")
        self.message = message
        self.hint = hint


class SettingsError(UpkeepError):
    """A platform file or ``include/upkeep.yaml`` is wrong."""


class CredentialsError(UpkeepError):
    """Somebody refused us; trying again does not help."""


class LedgerError(UpkeepError):
    """The ledger cannot be reached or is not set up."""


class StrainError(UpkeepError):
    """The platform is strained, or the window is over: the work was not begun."""
