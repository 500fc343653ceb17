"""
Watch one platform: look at everything it is made of, every five minutes, and call somebody when it is broken.

- **Runs** every 5 minutes, one at a time; what was missed is not made up for.
- **Touches** nothing but a canary row in the database.
- **Re-run** it whenever you like: it is one more look.
- **If it fails** something is wrong with the platform, and the log's last lines say what. One bad look calls nobody;
  what is new is looked at again within a minute, and told when it is still there (`alerts.bad_looks`). It is over
  after good looks in a row (`alerts.good_looks`). A run that is red on its own account is told after two of them.
"""

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG

from upkeep.alerts.callbacks import run_failed, run_succeeded
from upkeep.defaults import dag_defaults
from upkeep.health.operators import HealthWatchOperator
from upkeep.platforms import Platform, platforms


def health_watch(platform: Platform) -> None:
    told = {"platform_name": platform.name, "patient": True}
    settings = dag_defaults(platform, "health") | {
        "dag_id": f"{platform.name}_health_watch",
        "on_failure_callback": partial(run_failed, **told),
        "on_success_callback": partial(run_succeeded, **told),
    }
    with DAG(**settings, schedule="*/5 * * * *", doc_md=__doc__):
        HealthWatchOperator(task_id="health", platform=platform.name, execution_timeout=timedelta(minutes=10))


for platform in platforms():
    health_watch(platform)
