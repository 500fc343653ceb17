"""What Dag files cost: every task of Airflow parses its file again, so imports are paid for each time."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.timing import RUNS, duel, seconds
from sandbox.home import REPOSITORY

IMPORT_ALL = """
import importlib.util, sys
from pathlib import Path
for file in sorted(Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location("dag_file_" + file.stem, file)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
heavy = ("boto3", "kubernetes", "pandas", "matplotlib", "confluent_kafka", "redis", "slack_sdk", "pagerduty", "psycopg")
print(" ".join(
    name for name in sys.modules
    if name.split(".")[0] in heavy
    # The standard provider comes with Airflow and is light.
    or name.startswith("airflow.providers.") and {"hooks", "operators"} & set(name.split("."))
    and ".standard." not in name
))
"""
"""Imports every Dag file in one process, as the Dag processor does, and names heavy modules that came along."""

BARE = "from airflow.sdk import DAG"


def environment(platforms: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "UPKEEP_"))}
    return {
        **kept,
        "PYTHONPATH": str(REPOSITORY / "plugins"),
        "UPKEEP_PLATFORMS": str(platforms),
        "AIRFLOW_HOME": tempfile.gettempdir(),
    }


def parse() -> dict[str, Any]:
    """All Dag files with two platforms against a bare import of Airflow's DAG; and with a hundred platforms."""
    platforms = REPOSITORY / "include" / "platforms"
    ours = [sys.executable, "-c", IMPORT_ALL, str(REPOSITORY / "dags")]
    env = environment(platforms)
    result = duel(ours, [sys.executable, "-c", BARE], env)
    result["heavy"] = seconds(ours, env)[2].split()
    with tempfile.TemporaryDirectory() as directory:
        many = generate(platforms, Path(directory), 100)
        result["hundred_platforms"] = round(
            statistics.median(seconds(ours, environment(many))[0] for _ in range(RUNS)), 3
        )
    return result


def generate(platforms: Path, target: Path, count: int) -> Path:
    """``count`` platform files, taken in turn from the real ones under other names."""
    originals = sorted(platforms.glob("*.yaml"))
    for number in range(count):
        original = originals[number % len(originals)]
        name = f"{original.stem}_{number}"
        text = original.read_text().replace(f"\nname: {original.stem}\n", f"\nname: {name}\n", 1)
        (target / f"{name}.yaml").write_text(text)
    return target
