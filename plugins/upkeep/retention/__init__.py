"""Deleting the rows that a platform's rules have expired: children first, in small transactions, never twice."""
