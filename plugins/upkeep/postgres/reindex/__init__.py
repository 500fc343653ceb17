"""Rebuilding bloated indexes, one at a time and concurrently, the most bytes per second first; never a database."""
