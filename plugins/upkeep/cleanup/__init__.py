"""Removing what is past its time, and saying what will be: jobs, pods, topics, temporary files."""
