"""What a scaling raised is put back when its time is over, by a task that waits without a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from kubernetes.config import new_client_from_config

from sandbox.home import Home
from sandbox.servers.kubernetes import kubeconfig
from tests.kubernetes_cluster import NAMESPACE, PACE, WEB, deployment, running_cluster, settled
from upkeep.incident import form, remedies, workloads
from upkeep.incident.deeds import PutBackOperator
from upkeep.ledger import Ledger
from upkeep.platforms import platform
from upkeep.platforms.services import Deployment


@pytest.fixture(scope="module")
def cluster() -> Iterator[Home]:
    with running_cluster(**PACE) as home:
        settled(home)
        yield home


def put_back(action: str = "scale") -> Any:
    params = {"action": action, "deployment": WEB, "replicas": 3, "minutes": 5}
    asked = form.read(platform("studyspot"), params).as_dict()
    ti = SimpleNamespace(
        dag_id="incident_response", run_id="r", task_id="put_back", map_index=-1, try_number=1, log_url="",
        xcom_pull=lambda task_ids: {"asked": asked, "incident": ""},
    )  # fmt: skip
    return PutBackOperator(task_id="put_back", platform="studyspot").execute({"ti": ti})  # type: ignore[typeddict-item]


def test_it_waits_for_the_end_and_puts_back_once(
    cluster: Home, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = cluster.state()["connections"]["studyspot_kubernetes"]
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_KUBERNETES", json.dumps(published))
    client = new_client_from_config(str(kubeconfig(cluster, NAMESPACE)))
    with pytest.raises(AirflowSkipException, match="was not scaled, or is put back already"):
        put_back()
    with pytest.raises(AirflowSkipException, match="nothing was scaled"):
        put_back("restart")
    remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=4, lasts=timedelta(hours=1))
    with pytest.raises(TaskDeferred) as waits:
        put_back()
    moment = waits.value.trigger.moment  # type: ignore[attr-defined]
    assert timedelta(minutes=59) < moment - datetime.now(UTC) <= timedelta(hours=1)
    assert deployment(cluster, WEB)["spec"]["replicas"] == 4
    workloads.wait(client, NAMESPACE, WEB, within_s=30)
    # Scaled again for less time: over at once.
    remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=5, lasts=timedelta(0))
    assert put_back() == "deployment studyspot/studyspot-web: 2 again, after 5"
    assert deployment(cluster, WEB)["spec"]["replicas"] == 2
    assert ledger.rows("select verb, object, state from actions") == [
        {"verb": "put back", "object": WEB, "state": "done"}
    ]
    with pytest.raises(AirflowSkipException, match="was not scaled, or is put back already"):
        put_back()
