"""Bringing the database back from a backup: into a new one beside it, proved, then swapped by rename."""
