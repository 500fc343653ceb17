"""
Deliver alerts that could not be delivered at once.

- **Runs** every minute.
- **Touches** PagerDuty and Slack; the ledger's outbox and the spool directory.
- **Re-run** it whenever you like: each message is claimed while it is sent and sent until it is confirmed.
- **If it fails** the ledger is down or a message was refused for good; nothing is lost, the log names it.
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
