"""Maintenance windows: which there are, whose work covers them, and which were missed."""
