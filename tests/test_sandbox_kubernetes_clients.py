"""The sandbox's Kubernetes API under the clients that people use: Airflow's hook and operator, and kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from sandbox.home import Home
from sandbox.servers.kubernetes import kubeconfig
from tests.kubernetes_cluster import running_cluster, until

KUBECTL = shutil.which("kubectl")


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with running_cluster(start_s=0.1, backoff_s=0.2) as home:
        yield home


def connection(home: Home, platform: str) -> str:
    return json.dumps(home.state()["connections"][f"{platform}_kubernetes"])


# -- Airflow -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "namespace", "deployment", "replicas"),
    [
        ("studyspot", "studyspot", "studyspot-api", 3),
        ("adaptive_learning", "adaptive-learning-production", "user-service", 2),
    ],
)
def test_the_published_connections_lead_the_hook_to_each_platform(
    home: Home, monkeypatch: pytest.MonkeyPatch, platform: str, namespace: str, deployment: str, replicas: int
) -> None:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    monkeypatch.setenv(f"AIRFLOW_CONN_{platform.upper()}_KUBERNETES", connection(home, platform))
    hook = KubernetesHook(conn_id=f"{platform}_kubernetes")
    assert hook.get_namespace() == namespace
    until(lambda: hook.get_deployment_status(deployment, namespace).status.available_replicas == replicas, "the pods")
    assert hook.core_v1_client.list_node().items


_DAG = """
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG

with DAG("pods"):
    for code in (0, 4):
        KubernetesPodOperator(
            task_id=f"exit_{code}",
            kubernetes_conn_id="studyspot_kubernetes",
            image="busybox:1",
            cmds=["sh", "-c"],
            arguments=[f"echo first; sleep 0.5; echo $GREETING; exit {code}"],
            env_vars={"GREETING": "hello from the pod"},
            labels={"from": "airflow"},
            get_logs=True,
            on_finish_action="keep_pod",
            startup_check_interval_seconds=1,
        )
"""
_RUN = """
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.dagbag import DagBag
for task in DagBag().dags["pods"].test().get_task_instances():
    print("RUN", task.task_id, str(task.state))
"""


@pytest.mark.soak
def test_a_pod_operator_shows_the_log_and_takes_the_exit_code_for_its_own(home: Home, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "pods.py").write_text(_DAG)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW_CONN_STUDYSPOT_KUBERNETES": connection(home, "studyspot"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _RUN], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    states = {line for line in done.stdout.splitlines() if line.startswith("RUN")}
    assert states == {"RUN exit_0 success", "RUN exit_4 failed"}
    assert (done.stdout + done.stderr).count("[base] hello from the pod") == 2
    core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig(home, "studyspot"))))
    pods = core.list_namespaced_pod("studyspot", label_selector="from=airflow").items
    codes = [pod.status.container_statuses[0].state.terminated.exit_code for pod in pods]
    assert sorted(codes) == [0, 4]


# -- kubectl, where there is one ---------------------------------------------------------------------------


if KUBECTL:

    def kubectl(home: Home, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl in namespace studyspot; its output."""
        done = subprocess.run(
            [str(KUBECTL), *arguments],
            env={**os.environ, "KUBECONFIG": str(kubeconfig(home, "studyspot")), "HOME": str(home.path)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def table(text: str) -> list[list[str]]:
        return [line.split() for line in text.splitlines()]

    def test_kubectl_rolls_out_restarts_and_goes_back(home: Home) -> None:
        web = "deployment/studyspot-web"
        assert "successfully rolled out" in kubectl(home, "rollout", "status", web, "--timeout=60s")
        kubectl(home, "set", "image", web, "app=registry.example.com/studyspot/studyspot-web:2.0.0")
        kubectl(home, "rollout", "status", web, "--timeout=60s")
        kubectl(home, "rollout", "restart", web)
        kubectl(home, "rollout", "status", web, "--timeout=60s")
        history = table(kubectl(home, "rollout", "history", web))
        assert [line[0] for line in history[2:] if line] == ["1", "2", "3"]
        kubectl(home, "rollout", "undo", web, "--to-revision=1")
        kubectl(home, "rollout", "status", web, "--timeout=60s")
        image = kubectl(home, "get", web, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
        assert image.endswith(":1.4.2")
        assert [line[0] for line in table(kubectl(home, "rollout", "history", web))[2:] if line] == ["2", "3", "4"]

    def test_kubectl_scales_and_prints_proper_columns(home: Home) -> None:
        kubectl(home, "scale", "deployment/studyspot-web", "--replicas=4")
        kubectl(home, "rollout", "status", "deployment/studyspot-web", "--timeout=60s")
        head, row = table(kubectl(home, "get", "deployment", "studyspot-web"))
        assert head == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
        assert row[:4] == ["studyspot-web", "4/4", "4", "4"]
        kubectl(home, "scale", "deployment/studyspot-web", "--replicas=2")
        rows = table(kubectl(home, "get", "pods", "-l", "app=studyspot-api"))
        assert rows[0] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        assert {tuple(each[1:4]) for each in rows[1:]} == {("1/1", "Running", "0")}
        assert [each[0] for each in table(kubectl(home, "top", "nodes"))[1:]] == ["node-1", "node-2"]
        assert kubectl(home, "auth", "can-i", "delete", "pods").strip() == "yes"

    def test_kubectl_applies_diffs_and_deletes(home: Home) -> None:
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "applied"},
            "data": {"a": "1", "b": "1"},
        }
        kubectl(home, "apply", "-f", "-", stdin=yaml.safe_dump(document))
        document["data"] = {"a": "2"}
        assert "server dry run" in kubectl(home, "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(document))
        assert "configured" in kubectl(home, "apply", "--validate=false", "-f", "-", stdin=yaml.safe_dump(document))
        assert kubectl(home, "get", "configmap", "applied", "-o", "jsonpath={.data}") == '{"a":"2"}'
        again = kubectl(home, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump(document))
        assert "serverside-applied" in again
        kubectl(home, "delete", "configmap", "applied")

    def test_kubectl_runs_a_pod_follows_its_log_and_describes_it(home: Home) -> None:
        script = "for i in 1 2 3; do echo $i; sleep 0.2; done"
        container = {"name": "main", "image": "busybox:1", "command": ["sh", "-c", script]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "talker"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
        kubectl(home, "create", "-f", "-", stdin=yaml.safe_dump(pod))
        kubectl(home, "wait", "--for=jsonpath={.status.phase}=Running", "pod/talker", "--timeout=60s")
        assert kubectl(home, "logs", "-f", "talker") == "1\n2\n3\n"
        described = kubectl(home, "describe", "pod", "talker")
        assert "Exit Code:    0" in described
        assert "Started container main" in described
        kubectl(home, "delete", "pod", "talker")

    def test_kubectl_drains_a_node_within_the_budgets(home: Home) -> None:
        kubectl(home, "drain", "node-2", "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout=60s")
        status = {each[0]: each[1] for each in table(kubectl(home, "get", "nodes"))[1:]}
        assert status == {"node-1": "Ready", "node-2": "Ready,SchedulingDisabled"}
        there = kubectl(home, "get", "pods", "-A", "--field-selector=spec.nodeName=node-2,status.phase=Running")
        assert there == ""
        kubectl(home, "uncordon", "node-2")
