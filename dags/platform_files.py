"""
Show broken platform files as import errors of this Dag file; the healthy platforms go on without them.

Defines no Dag of its own.
"""

from airflow.sdk import DAG  # noqa: F401  Airflow only reads files that speak of Dags

from upkeep.platforms import read_all

_, broken = read_all()
if broken:
    raise (
        broken[0].error
        if len(broken) == 1
        else ExceptionGroup(f"{len(broken)} platform files are broken", [entry.error for entry in broken])
    )
