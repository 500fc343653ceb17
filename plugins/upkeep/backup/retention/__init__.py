"""Which backups stay and which may go, and letting go of them in two steps."""
