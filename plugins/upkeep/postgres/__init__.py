"""Caring for PostgreSQL: VACUUM and ANALYZE where they are needed, without making the application wait."""
