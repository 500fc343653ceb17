"""Losing the primary of a streaming pair on purpose, and getting it back as a standby."""
