"""``python -m upkeep check``: what is missing before maintenance can work, and how to grant it. Changes nothing."""
