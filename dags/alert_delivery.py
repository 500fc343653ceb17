"""
Deliver alerts that could not be delivered at once, remind of those nobody answers, and give a sign of life.

- **Runs** every minute.
- **Touches** PagerDuty, Slack and mail; the ledger's outbox and the spool directory; asks Airflow's API for failed
  runs of which no callback told (`upkeep_airflow_api`); seals what is over in the ledger's trail; calls
  the URL of `upkeep_heartbeat`.
- **Re-run** it whenever you like: each message is claimed while it is sent and sent until it is confirmed.
- **If it fails** the ledger is down or a message was refused for good; nothing is lost, the log names it. Whoever
  expects the sign of life misses it when this stops, when the ledger is down, or when pages reach nobody.
"""

from datetime import timedelta

from airflow.sdk import DAG

from upkeep.alerts.operators import DeliverAlertsOperator

with DAG(
    dag_id="alert_delivery",
    schedule="* * * * *",
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "upkeep", "execution_timeout": timedelta(minutes=2)},
    tags=["upkeep", "alerts"],
    doc_md=__doc__,
):
    DeliverAlertsOperator(task_id="deliver")
