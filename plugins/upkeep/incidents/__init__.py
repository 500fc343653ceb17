"""Declared incidents: their record, their timeline, their clocks, the people who work on them, and what is learnt."""
