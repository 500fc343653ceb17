"""The controllers of HorizontalPodAutoscalers and PodDisruptionBudgets."""

from __future__ import annotations

import math
import time
from typing import Any

from sandbox.kubernetes import clock, metrics, quantities
from sandbox.kubernetes.conditions import is_active, is_ready, made
from sandbox.kubernetes.errors import ApiError
from sandbox.kubernetes.events import record
from sandbox.kubernetes.metrics import Settings
from sandbox.kubernetes.resources import AUTOSCALERS, BUDGETS, BY_KIND, PODS, Resource
from sandbox.kubernetes.scheduler import requests
from sandbox.kubernetes.selectors import selects
from sandbox.kubernetes.store import Store

Object = dict[str, Any]

_TOLERANCE = 0.1
_WINDOW_S = 300
"""Default scale-down stabilization: the highest recommendation of that long counts."""


class Autoscaler:
    """Keeps the recommendations of the stabilization window; ``sync`` is one round over all HPAs."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings
        self._recommended: dict[str, list[tuple[float, int]]] = {}

    def sync(self) -> None:
        for scaler in self.store.all(AUTOSCALERS):
            self._sync(scaler)

    def _sync(self, scaler: Object) -> None:
        spec, old = scaler["spec"], (scaler.get("status") or {}).get("conditions") or []
        reference = spec["scaleTargetRef"]
        resource = BY_KIND.get((reference.get("apiVersion", "apps/v1"), reference["kind"]))
        target = self.store.find(resource, scaler["metadata"]["namespace"], reference["name"]) if resource else None
        if resource is None or target is None:
            message = (
                f'the HPA controller was unable to get the target\'s current scale: "{reference["name"]}" not found'
            )
            self._report(scaler, {}, [made(old, "AbleToScale", False, "FailedGetScale", message)])
            return
        current = int(target["spec"].get("replicas", 1))
        able = made(old, "AbleToScale", True, "ReadyForNewScale", "recommended size matches current size")
        status: Object = {"currentReplicas": current, "desiredReplicas": current}
        if current == 0:
            message = "scaling is disabled since the replica count of the target is zero"
            self._report(scaler, status, [able, made(old, "ScalingActive", False, "ScalingDisabled", message)])
            return
        least, most = spec["minReplicas"], spec["maxReplicas"]
        active = made(old, "ScalingActive", True, "ValidMetricFound", "the HPA was able to compute the replica count")
        try:
            # What lies outside of the bounds is put right first; the metrics come the next time.
            inside = least <= current <= most
            wanted, seen = self._recommend(scaler, target, current) if inside else (current, None)
            status.update({"currentMetrics": seen} if seen else {})
        except (ApiError, LookupError) as missing:
            wanted = current
            message = f"the HPA was unable to compute the replica count: {missing}"
            active = made(old, "ScalingActive", False, "FailedGetResourceMetric", message)
        desired = min(max(wanted, least), most)
        why = "TooManyReplicas" if wanted > most else "TooFewReplicas" if wanted < least else "DesiredWithinRange"
        limited = made(old, "ScalingLimited", wanted != desired, why)
        if desired != current:
            able = made(
                old,
                "AbleToScale",
                True,
                "SucceededRescale",
                f"the HPA controller was able to update the target scale to {desired}",
            )
            self._rescale(scaler, resource, target, desired, why)
            status["lastScaleTime"] = clock.now()
        self._report(scaler, {**status, "desiredReplicas": desired}, [able, active, limited])

    def _recommend(self, scaler: Object, target: Object, current: int) -> tuple[int, list[Object]]:
        metrics.check(self.settings)
        pods = [
            pod
            for pod in self.store.all(PODS, scaler["metadata"]["namespace"])
            if is_ready(pod) and selects(target["spec"].get("selector"), pod["metadata"].get("labels") or {})
        ]
        if not pods:
            raise LookupError("no ready pods to measure")
        wanted, seen = 1, []
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] != "Resource":
                raise LookupError(f"no source of {metric['type']} metrics")
            name, goal = metric["resource"]["name"], metric["resource"]["target"]
            used = sum(metrics.pod_usage(self.store, self.settings, pod, name) for pod in pods) / len(pods)
            now: Object = {"averageValue": quantities.cpu(used) if name == "cpu" else quantities.memory(used)}
            if goal["type"] == "Utilization":
                asked = sum(requests(pod, name) for pod in pods) / len(pods)
                if not asked:
                    raise LookupError(f"missing request for {name}")
                now["averageUtilization"] = round(100 * used / asked)
                ratio = 100 * used / asked / goal["averageUtilization"]
            else:
                ratio = used / quantities.number(goal["averageValue"])
            seen.append({"type": "Resource", "resource": {"name": name, "current": now}})
            wanted = max(wanted, current if abs(ratio - 1) <= _TOLERANCE else math.ceil(len(pods) * ratio))
        return self._stabilized(scaler, wanted, current), seen

    def _stabilized(self, scaler: Object, wanted: int, current: int) -> int:
        behaviour = (scaler["spec"].get("behavior") or {}).get("scaleDown") or {}
        window = behaviour.get("stabilizationWindowSeconds", _WINDOW_S)
        uid, now = scaler["metadata"]["uid"], time.monotonic()
        kept = [each for each in self._recommended.get(uid, []) if each[0] >= now - window]
        self._recommended[uid] = [*kept, (now, wanted)]
        return max([wanted, *(min(past, current) for _, past in kept)])

    def _rescale(self, scaler: Object, resource: Resource, target: Object, desired: int, why: str) -> None:
        self.store.edit(resource, target, lambda new: new["spec"].update(replicas=desired))
        reason = {
            "TooManyReplicas": "Current number of replicas above Spec.MaxReplicas",
            "TooFewReplicas": "Current number of replicas below Spec.MinReplicas",
        }.get(why, "All metrics below target" if desired < target["spec"]["replicas"] else "cpu resource above target")
        message = f"New size: {desired}; reason: {reason}"
        record(self.store, scaler, "Normal", "SuccessfulRescale", message, component="horizontal-pod-autoscaler")

    def _report(self, scaler: Object, status: Object, conditions: list[Object]) -> None:
        self.store.set_status(AUTOSCALERS, scaler, {**(scaler.get("status") or {}), **status, "conditions": conditions})


def sync_budgets(store: Store) -> None:
    for budget in store.all(BUDGETS):
        spec = budget["spec"]
        pods = [
            pod
            for pod in store.all(PODS, budget["metadata"]["namespace"])
            if is_active(pod) and selects(spec.get("selector"), pod["metadata"].get("labels") or {})
        ]
        healthy = sum(map(is_ready, pods))
        if "maxUnavailable" in spec:
            desired = len(pods) - quantities.scaled(spec["maxUnavailable"], len(pods), up=True)
        else:
            desired = quantities.scaled(spec.get("minAvailable", 1), len(pods), up=True)
        allowed = max(0, healthy - desired) if pods else 0
        old = (budget.get("status") or {}).get("conditions") or []
        reason = "SufficientPods" if allowed else "InsufficientPods"
        store.set_status(
            BUDGETS,
            budget,
            {
                "observedGeneration": budget["metadata"]["generation"],
                "expectedPods": len(pods),
                "currentHealthy": healthy,
                "desiredHealthy": max(0, desired),
                "disruptionsAllowed": allowed,
                "conditions": [made(old, "DisruptionAllowed", bool(allowed), reason)],
            },
        )


def evict(store: Store, pod: Object, *, grace_s: int | None, dry_run: bool) -> None:
    """
    Delete a pod if its disruption budget allows.

    :raises ApiError: 429, it does not now; 500, more than one budget covers the pod.
    """
    with store.lock:
        budgets = [
            budget
            for budget in store.all(BUDGETS, pod["metadata"]["namespace"])
            if selects(budget["spec"].get("selector"), pod["metadata"].get("labels") or {})
        ]
        if len(budgets) > 1:
            raise ApiError(
                500, "InternalError", "This pod has more than one PodDisruptionBudget, which is not supported."
            )
        if budgets and is_active(pod) and is_ready(pod):
            budget = budgets[0]
            name, status = budget["metadata"]["name"], budget.get("status") or {}
            if not status.get("disruptionsAllowed"):
                why = f"The disruption budget {name} needs {status.get('desiredHealthy', '?')} healthy pods"
                cause = {
                    "reason": "DisruptionBudget",
                    "message": f"{why} and has {status.get('currentHealthy', 0)} currently",
                }
                raise ApiError(
                    429,
                    "TooManyRequests",
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    details={"causes": [cause]},
                    retry_after_s=10,
                )
            if not dry_run:
                less = status["disruptionsAllowed"] - 1
                store.edit(BUDGETS, budget, lambda new: new["status"].update(disruptionsAllowed=less))
        store.delete(PODS, pod, grace_s=grace_s, dry_run=dry_run)
