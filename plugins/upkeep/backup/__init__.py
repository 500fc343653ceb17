"""Backups that are proved: made with a manifest, read back, restored, and only then counted."""
