"""What every Dag shares, said once."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from upkeep.alerts.callbacks import run_failed, run_succeeded
from upkeep.platforms import Platform
from upkeep.settings import ROOT


def dag_defaults(platform: Platform, cadence: str) -> dict[str, Any]:
    """
    Arguments for ``DAG(**dag_defaults(platform, "daily"), ...)``.

    No ``start_date``: unpausing would run the last tick at once. No retries: those belong to the deployment
    (``AIRFLOW__CORE__DEFAULT_TASK_RETRIES``). No ``dagrun_timeout``: it skips teardowns.
    """
    return {
        "dag_id": f"{platform.name}_{cadence}_maintenance",
        "tags": [platform.name, cadence],
        "catchup": False,
        "max_active_runs": 1,
        "template_searchpath": str(ROOT / "include" / "sql"),
        "default_args": {
            "owner": platform.owner,
            "execution_timeout": timedelta(hours=1),
            # What was begun comes before what is new: of several runs that share a pool, one gets through.
            "weight_rule": "upstream",
        },
        "on_failure_callback": partial(run_failed, platform_name=platform.name),
        "on_success_callback": partial(run_succeeded, platform_name=platform.name),
    }


def postgres_pool(platform: Platform) -> str:
    """The pool of everything that works on the platform's database server."""
    return f"{platform.name}_postgres"


def pools(platforms: list[Platform]) -> dict[str, dict[str, Any]]:
    """
    Every pool that a Dag names, in the form of ``airflow pools import``.

    A task in a pool that does not exist waits for ever without a word, so ``python -m upkeep setup`` makes them.
    """
    return {
        postgres_pool(platform): {
            "slots": 1,
            "description": f"Work on {platform.title}'s database server, one thing at a time.",
            "include_deferred": True,
        }
        for platform in platforms
        if platform.postgres
    }
