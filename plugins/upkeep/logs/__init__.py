"""Keeping log files as long as the platform file says, and not longer."""
