"""What the owner of a database should know: slow queries, indexes, statistics, settings. Looks; changes nothing."""
