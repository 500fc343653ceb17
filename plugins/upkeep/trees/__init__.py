"""File trees on the platform's hosts: what is in them, what is due, and deleting exactly what was planned."""
