"""``make bench``: runs the contests, prints a table, writes ``bench/results.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.backup import backup
from bench.forecast import contest as forecast
from bench.page import page
from bench.parse import parse
from bench.plan import plan
from bench.reindex import reindex
from bench.restore import restore
from bench.retention import retention
from bench.stall import stall
from bench.vacuum import vacuum

CONTESTS: dict[str, tuple[Callable[..., dict[str, Any]], float]] = {
    "parse": (parse, 1.5),
    "reindex": (reindex, 0.8),
    "retention": (retention, 0.1),
    "vacuum": (vacuum, 0.5),
    "stall": (stall, 0.02),
    "plan": (plan, 1.0),
    "page": (page, 1.0),
    "backup": (backup, 0.2),
    "restore": (restore, 0.6),
    "forecast": (forecast, 0.1),
}
"""Each contest, and the ratio that it must not exceed."""

RESULTS = Path(__file__).parent / "results.json"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--contest", choices=CONTESTS, help="only this one")
    parser.add_argument("--dsn", help="another database, for contests that need one")
    parser.add_argument("--scale", type=int, help="of the contests `stall`, `backup` and `restore` (20)")
    arguments = parser.parse_args(argv)
    results: dict[str, Any] = {}
    lost = []
    print(f"{'contest':12} {'ours':>10} {'baseline':>10} {'ratio':>7} {'at most':>8}")
    for name, (contest, most) in CONTESTS.items():
        if arguments.contest in (None, name):
            scale = {"scale": arguments.scale} if name in ("stall", "backup", "restore") and arguments.scale else {}
            result = results[name] = contest(**scale)
            rest = {k: v for k, v in result.items() if k not in ("ours", "baseline", "ratio", "unit")}
            ours, baseline = (f"{result[whose]:.2f} {result.get('unit', 's')}" for whose in ("ours", "baseline"))
            print(f"{name:12} {ours:>10} {baseline:>10} {result['ratio']:7.2f} {most:8.2f}")
            print(f"{'':12} {rest}")
            if result["ratio"] > most:
                lost.append(name)
    # Read only now: contests take minutes, and somebody else may have written meanwhile.
    results = (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | results
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    if lost:
        print(f"lost: {', '.join(lost)}")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
