"""Capacity: daily samples, how they go on, and when a limit is reached."""
