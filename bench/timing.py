"""Timing whole processes, two in turn, so that a machine whose speed drifts drifts for both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

RUNS = 5


def seconds(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of one process, and what it printed. :raises RuntimeError: it failed."""
    before = os.times()
    began = time.perf_counter()
    done = subprocess.run(argv, env=dict(env), capture_output=True, text=True, check=False)
    wall = time.perf_counter() - began
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)[:200]} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, done.stdout


def duel(ours: Sequence[str], baseline: Sequence[str], env: Mapping[str, str], *, runs: int = RUNS) -> dict[str, Any]:
    """
    Both in turn, once to warm up and then ``runs`` times.

    :returns: medians in seconds, and ``ratio``: the median of the ratios pair by pair.
    """
    pairs = []
    for _ in range(runs + 1):
        pairs.append((seconds(ours, env), seconds(baseline, env)))
    pairs = pairs[1:]
    return {
        "ours": round(statistics.median(mine[0] for mine, _ in pairs), 3),
        "baseline": round(statistics.median(theirs[0] for _, theirs in pairs), 3),
        "ratio": round(statistics.median(mine[0] / theirs[0] for mine, theirs in pairs), 3),
        "ours_cpu": round(statistics.median(mine[1] for mine, _ in pairs), 3),
        "baseline_cpu": round(statistics.median(theirs[1] for _, theirs in pairs), 3),
        "runs": runs,
    }
