"""Contests: ours against a named baseline, in turn, on the same machine in the same run."""
