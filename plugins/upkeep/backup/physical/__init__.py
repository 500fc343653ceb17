"""The engine ``basebackup``: the whole cluster file by file, its log piece by piece, and recovery to any point."""
