"""What is in the cluster of a fresh sandbox: both platforms, two nodes, and yesterday's leftovers."""

from __future__ import annotations

import uuid
from typing import Any

from sandbox.kubernetes import clock

Object = dict[str, Any]

NAMESPACES = ("default", "kube-system", "monitoring", "studyspot", "studyspot-staging", "adaptive-learning-production")
NODES = ("node-1", "node-2")
STUDYSPOT, ADAPTIVE_LEARNING = "studyspot", "adaptive-learning-production"

_DAY_S = 86400


def objects() -> list[Object]:
    """In an order in which each finds what it needs."""
    return [
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES),
        *(node(name, at) for at, name in enumerate(NODES, 1)),
        *_access(),
        *_platform(STUDYSPOT, {"studyspot-api": 3, "studyspot-web": 2}),
        *_platform("studyspot-staging", {"studyspot-api": 1}),
        _autoscaler(STUDYSPOT, "studyspot-api", least=3, most=10),
        _budget(STUDYSPOT, "studyspot-api"),
        *_platform(ADAPTIVE_LEARNING, {"auth-service": 2, "user-service": 2, "scheduler-service": 2}),
        _budget(ADAPTIVE_LEARNING, "auth-service"),
        *_leftovers(STUDYSPOT),
        *_leftovers(ADAPTIVE_LEARNING),
    ]


LOAD = {"studyspot/studyspot-api": {"cpu": "450m"}}
"""All pods of the deployment together: 60 % of what three of them ask for, so three is what the HPA wants."""


def node(name: str, at: int) -> Object:
    born = clock.ago(60 * _DAY_S)
    capacity = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi", "pods": "110"}
    conditions = [
        node_condition("MemoryPressure", "False", "KubeletHasSufficientMemory", born),
        node_condition("DiskPressure", "False", "KubeletHasNoDiskPressure", born),
        node_condition("PIDPressure", "False", "KubeletHasSufficientPID", born),
        node_condition("Ready", "True", "KubeletReady", born),
    ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "creationTimestamp": born,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
        },
        "spec": {"podCIDR": f"10.244.{at}.0/24"},
        "status": {
            "capacity": capacity,
            "allocatable": {**capacity, "cpu": "3900m", "memory": "7Gi", "ephemeral-storage": "90Gi"},
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": f"10.0.0.{at}"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "kubeletVersion": "v1.34.2",
                "kubeProxyVersion": "",
                "containerRuntimeVersion": "containerd://2.1.4",
                "osImage": "Debian GNU/Linux 13 (trixie)",
                "kernelVersion": "6.12.0",
                "operatingSystem": "linux",
                "architecture": "amd64",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
            },
        },
    }


def node_condition(kind: str, status: str, reason: str, since: str) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": reason,
        "lastHeartbeatTime": clock.now(),
        "lastTransitionTime": since,
    }


def _platform(namespace: str, deployments: dict[str, int]) -> list[Object]:
    made = []
    for name, replicas in deployments.items():
        made += [_deployment(namespace, name, replicas), _service(namespace, name)]
    return made


def _deployment(namespace: str, name: str, replicas: int) -> Object:
    asked = {"cpu": "250m", "memory": "256Mi"}
    container = {
        "name": "app",
        "image": f"registry.example.com/{namespace}/{name}:1.4.2",
        "ports": [{"name": "http", "containerPort": 8080}],
        "env": [{"name": "SERVICE", "value": name}],
        "resources": {"requests": asked, "limits": {"cpu": "500m", "memory": "512Mi"}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 5},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 30},
            },
        },
    }


def _service(namespace: str, name: str) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"selector": {"app": name}, "ports": ports},
    }


def _autoscaler(namespace: str, name: str, *, least: int, most: int) -> Object:
    target = {"type": "Utilization", "averageUtilization": 70}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": least,
            "maxReplicas": most,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _budget(namespace: str, name: str) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": name}}},
    }


def _leftovers(namespace: str) -> list[Object]:
    """Finished Jobs and Pods: old and young, labelled, held, and without a label."""
    cleanup, hold = {"upkeep/cleanup": "true"}, {"upkeep/hold": "true"}
    return [
        *_finished_job(namespace, "report-old", 3 * _DAY_S, cleanup),
        *_finished_job(namespace, "import-old-failed", 2 * _DAY_S, cleanup, failed=True),
        *_finished_job(namespace, "report-young", 3600, cleanup),
        *_finished_job(namespace, "migration-held", 5 * _DAY_S, {**cleanup, **hold}),
        *_finished_job(namespace, "migration-unlabelled", 6 * _DAY_S, {}),
        _finished_pod(namespace, "debug-old", 2 * _DAY_S, cleanup),
        _finished_pod(namespace, "debug-old-failed", 4 * _DAY_S, cleanup, failed=True),
        _finished_pod(namespace, "debug-held", 4 * _DAY_S, {**cleanup, **hold}),
        _finished_pod(namespace, "debug-unlabelled", 4 * _DAY_S, {}),
    ]


FLOOD = "nightly-import-"


def flood(count: int) -> list[Object]:
    """Finished Jobs of StudySpot, past their time and labelled; their Pods have gone already."""
    labels = {"upkeep/cleanup": "true"}
    return [_finished_job(STUDYSPOT, f"{FLOOD}{n:02}", 3 * _DAY_S, labels)[0] for n in range(count)]


_ONE_SHOT = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "registry.example.com/tools/job:1"}]}


def _finished_job(
    namespace: str, name: str, age_s: float, labels: dict[str, str], *, failed: bool = False
) -> list[Object]:
    ended = clock.ago(age_s)
    uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{namespace}"))
    verdict = {"type": "Failed", "reason": "BackoffLimitExceeded"} if failed else {"type": "Complete"}
    conditions = [{**verdict, "status": "True", "lastProbeTime": ended, "lastTransitionTime": ended}]
    status = {"startTime": clock.ago(age_s + 60), "conditions": conditions}
    status.update({"failed": 1} if failed else {"succeeded": 1, "completionTime": ended})
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "labels": labels,
            "creationTimestamp": clock.ago(age_s + 60),
        },
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": _ONE_SHOT}},
        "status": status,
    }
    marks = {"batch.kubernetes.io/job-name": name, "batch.kubernetes.io/controller-uid": uid, "job-name": name}
    pod = _finished_pod(namespace, f"{name}-x7k2p", age_s, {**labels, **marks}, failed=failed)
    pod["metadata"]["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": True}
    ]
    return [job, pod]


def _finished_pod(namespace: str, name: str, age_s: float, labels: dict[str, str], *, failed: bool = False) -> Object:
    ended, code = clock.ago(age_s), 1 if failed else 0
    terminated = {
        "exitCode": code,
        "reason": "Error" if failed else "Completed",
        "startedAt": clock.ago(age_s + 30),
        "finishedAt": ended,
    }
    container = {
        "name": "main",
        "image": "registry.example.com/tools/job:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": terminated},
        "lastState": {},
    }
    ready = {"type": "Ready", "status": "False", "reason": "PodCompleted", "lastTransitionTime": ended}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "creationTimestamp": clock.ago(age_s + 60),
        },
        "spec": {**_ONE_SHOT, "nodeName": NODES[0]},
        "status": {
            "phase": "Failed" if failed else "Succeeded",
            "startTime": clock.ago(age_s + 60),
            "conditions": [ready],
            "containerStatuses": [container],
        },
    }


def _access() -> list[Object]:
    """One role that may do everything, one that may look at everything but secrets."""
    group = "rbac.authorization.k8s.io"
    watch = ["get", "list", "watch"]
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    no_secrets = [
        {
            "apiGroups": [""],
            "resources": ["pods", "pods/log", "nodes", "services", "endpoints", "events"],
            "verbs": watch,
        },
        {"apiGroups": ["apps", "batch", "autoscaling", "metrics.k8s.io"], "resources": ["*"], "verbs": watch},
    ]

    def role(name: str, rules: list[Object]) -> Object:
        return {"apiVersion": f"{group}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}

    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "upkeep-viewer"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "upkeep-view"},
        "subjects": [{"kind": "User", "apiGroup": group, "name": "viewer"}],
    }
    return [role("cluster-admin", [everything]), role("upkeep-view", no_secrets), binding]
