"""Incidents: their record and clocks, the people they call, and what is done, one action at a time."""
