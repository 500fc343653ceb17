"""How expired rows are usually deleted: the handbook's one statement, and the loop that people write next."""

from __future__ import annotations

import time

import psycopg

HANDBOOK = "delete from ev where ts < %(cut_off)s"
"""Adaptive Learning's monthly maintenance, on this table."""

LIMIT_LOOP = (
    "delete from ev where ctid = any(array(select ctid from ev where ts < %(cut_off)s order by ts limit %(rows)s))"
)
"""Small transactions, each of which begins at the start of the index again."""


def one_big_delete(conninfo: str, cut_off: str) -> tuple[float, float, int]:
    """Seconds in all, the longest transaction in seconds, rows."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        began = time.perf_counter()
        rows = connection.execute(HANDBOOK, {"cut_off": cut_off}).rowcount
        seconds = time.perf_counter() - began
    return seconds, seconds, rows


def limit_loop(conninfo: str, cut_off: str, batch: int = 2000) -> tuple[float, float, int]:
    """As ``one_big_delete``."""
    longest, rows = 0.0, 0
    with psycopg.connect(conninfo, autocommit=True) as connection:
        began = time.perf_counter()
        while True:
            before = time.perf_counter()
            gone = connection.execute(LIMIT_LOOP, {"cut_off": cut_off, "rows": batch}).rowcount
            longest = max(longest, time.perf_counter() - before)
            if not gone:
                return time.perf_counter() - began, longest, rows
            rows += gone
