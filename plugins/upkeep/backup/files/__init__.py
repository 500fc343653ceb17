"""The application's files, copied from bucket to bucket: only what is new, and nothing is ever replaced."""
