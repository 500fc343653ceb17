"""Rollback against a living cluster; and every remedy killed half-way and done again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from kubernetes.client import ApiClient

from sandbox.home import REPOSITORY, Home
from sandbox.servers.kubernetes import kubeconfig
from tests import incident_cluster
from tests.incident_cluster import HOUR, patch, rollout, settle
from tests.kubernetes_cluster import NAMESPACE, WEB, deployment, set_image
from upkeep.health.kubernetes_workloads import SCALED
from upkeep.incident import remedies, workloads
from upkeep.incident.workloads import WorkloadError
from upkeep.platforms.services import Deployment

cluster, client = incident_cluster.cluster, incident_cluster.client

# -- rollback --------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_what_differs_and_only_once(cluster: Home, client: ApiClient) -> None:
    set_image(cluster, WEB, "1.1")
    rollout(client, WEB)
    set_image(cluster, WEB, "broken")
    # A restart since is no revision to go back to.
    target = remedies.earlier(client, NAMESPACE, WEB)
    assert target.images["app"].endswith(":1.1")
    assert remedies.undo(client, NAMESPACE, WEB, target.replica_set).changed
    found = rollout(client, WEB)
    assert found.images["app"].endswith(":1.1")
    # Killed after it and done again with what was chosen then: the version before last is not next.
    again = remedies.undo(client, NAMESPACE, WEB, target.replica_set)
    assert (again.changed, again.said.endswith("already")) == (False, True)
    assert workloads.look(client, NAMESPACE, WEB).images == found.images


def test_restarts_are_no_revisions_to_go_back_to(cluster: Home, client: ApiClient) -> None:
    set_image(cluster, WEB, "2.0")
    rollout(client, WEB)
    remedies.restart(client, NAMESPACE, WEB, key="in between")
    rollout(client, WEB)
    assert not remedies.earlier(client, NAMESPACE, WEB).images["app"].endswith(":2.0")


def test_somebody_quicker_wins(cluster: Home, client: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    set_image(cluster, WEB, "3.0")
    rollout(client, WEB)
    target = remedies.earlier(client, NAMESPACE, WEB)
    meanwhile = remedies._replica_sets

    def quicker(*arguments: Any) -> Any:
        set_image(cluster, WEB, "3.1")
        return meanwhile(*arguments)

    monkeypatch.setattr(remedies, "_replica_sets", quicker)
    with pytest.raises(WorkloadError, match=r"(409|422) to patch_namespaced_deployment"):
        remedies.undo(client, NAMESPACE, WEB, target.replica_set)
    assert deployment(cluster, WEB)["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":3.1")


def test_no_earlier_revision(cluster: Home, client: ApiClient) -> None:
    with pytest.raises(WorkloadError, match=r"has no ReplicaSet studyspot-web-gone any more"):
        remedies.undo(client, NAMESPACE, WEB, "studyspot-web-gone")


# -- killed ----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from datetime import timedelta
from kubernetes.config import new_client_from_config
from upkeep.incident import remedies
from upkeep.platforms.services import Deployment
config, act, when, target = sys.argv[1:]
client = new_client_from_config(config)
patch = remedies.ask
def dies(call, *arguments, **named):
    if "patch" in call.__name__ and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = patch(call, *arguments, **named)
    if "patch" in call.__name__:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
remedies.ask = dies
{"restart": lambda: remedies.restart(client, "studyspot", "studyspot-web", key="killed"),
 "scale": lambda: remedies.scale(client, "studyspot", Deployment(name="studyspot-web", most=8), to=3,
                                 lasts=timedelta(hours=1)),
 "put back": lambda: remedies.put_back(client, "studyspot", "studyspot-web"),
 "rollback": lambda: remedies.undo(client, "studyspot", "studyspot-web", target)}[act]()
"""


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_killed_and_done_again_it_is_done_once(cluster: Home, client: ApiClient, when: str) -> None:
    config = str(kubeconfig(cluster, NAMESPACE))
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}

    def killed(act: str, target: str = "") -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, config, act, when, target], env=env, check=False)
        assert done.returncode == -signal.SIGKILL

    def images() -> Any:
        return deployment(cluster, WEB)["spec"]["template"]["spec"]["containers"][0]["image"]

    patch(cluster, WEB, {"spec": {"template": {"metadata": {"annotations": {"upkeep.dev/restart": None}}}}})
    rollout(client, WEB)
    generation = deployment(cluster, WEB)["metadata"]["generation"]
    killed("restart")
    remedies.restart(client, NAMESPACE, WEB, key="killed")
    rollout(client, WEB)
    assert deployment(cluster, WEB)["metadata"]["generation"] == generation + 1
    killed("scale")
    remedies.scale(client, NAMESPACE, Deployment(name=WEB, most=8), to=3, lasts=HOUR)
    settle(client, WEB, 3)
    killed("put back")
    remedies.put_back(client, NAMESPACE, WEB)
    settle(client, WEB, 2)
    assert SCALED not in deployment(cluster, WEB)["metadata"].get("annotations", {})
    before = images()
    set_image(cluster, WEB, f"killed-{when}")
    rollout(client, WEB)
    target = remedies.earlier(client, NAMESPACE, WEB)
    generation = deployment(cluster, WEB)["metadata"]["generation"]
    killed("rollback", target.replica_set)
    assert remedies.undo(client, NAMESPACE, WEB, target.replica_set).changed is (when == "before")
    rollout(client, WEB)
    assert images() == before
    assert deployment(cluster, WEB)["metadata"]["generation"] == generation + 1
