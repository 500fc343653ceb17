"""Kubernetes: what the platform's pods use now, and how far its autoscalers have gone."""

from __future__ import annotations

from collections.abc import Iterator

from kubernetes.client import ApiClient
from kubernetes.utils.quantity import parse_quantity

from upkeep.capacity.sampling.measured import Measured
from upkeep.health.kubernetes import Api
from upkeep.platforms.growth import Limits
from upkeep.platforms.services import Kubernetes

TIMEOUT_S = 3.0


def use(settings: Kubernetes, client: ApiClient, limits: Limits) -> Iterator[Measured]:
    """CPU and memory of all pods of the namespace. :raises NotAnswered: refused, not found, or not in time."""
    used = {"cpu": 0.0, "memory": 0.0}
    for pod in Api(client, TIMEOUT_S).items(f"/apis/metrics.k8s.io/v1beta1/namespaces/{settings.namespace}/pods"):
        for container in pod.get("containers") or ():
            for resource in used:
                used[resource] += float(parse_quantity((container.get("usage") or {}).get(resource, 0)))
    yield Measured(metric="pods_cpu_cores", value=used["cpu"], most=limits.cpu_cores)
    yield Measured(metric="pods_memory_bytes", value=used["memory"], most=limits.memory)


def autoscalers(settings: Kubernetes, client: ApiClient) -> Iterator[Measured]:
    """Replicas of each HorizontalPodAutoscaler, against its maximum. :raises NotAnswered: as ``use``."""
    path = f"/apis/autoscaling/v2/namespaces/{settings.namespace}/horizontalpodautoscalers"
    for each in Api(client, TIMEOUT_S).items(path):
        replicas = float((each.get("status") or {}).get("currentReplicas") or 0)
        yield Measured(
            metric="autoscaler_replicas",
            object=each["metadata"]["name"],
            value=replicas,
            most=float(each["spec"]["maxReplicas"]),
        )
