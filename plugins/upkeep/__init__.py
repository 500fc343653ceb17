"""Upkeep: scheduled care for the platforms you run."""

__version__ = "0.1.0"
