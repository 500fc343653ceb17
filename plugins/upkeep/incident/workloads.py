"""A Deployment as it stands: whether a rollout is over, what scales it, whose it is, what forbids touching it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import urllib3
from kubernetes.client import ApiClient, AppsV1Api, AutoscalingV2Api, CoreV1Api
from kubernetes.client.exceptions import ApiException

from upkeep.errors import UpkeepError

Object = dict[str, Any]

RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""Annotation of the Pod template that ``kubectl rollout restart`` sets."""

REVISION = "deployment.kubernetes.io/revision"

GITOPS = {
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "argocd.argoproj.io/instance": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
    "configmanagement.gke.io/managed": "Config Sync",
}
"""Labels and annotations by which these controllers mark what they own: they would put back whatever is changed."""

REQUEST_S = 10.0
PATIENCE_S = 30.0
"""For an API server that asks to come back later, or is being restarted."""

PASSING = (429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""

POLL_S = 1.0


class WorkloadError(UpkeepError):
    """A workload cannot be looked at, may not be touched, or did not become what it should."""


@dataclass(frozen=True)
class Scaler:
    """The HorizontalPodAutoscaler of a Deployment."""

    name: str
    least: int
    most: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A Deployment, with what decides about it."""

    namespace: str
    name: str
    raw: Object
    scaler: Scaler | None

    @property
    def wanted(self) -> int:
        """Replicas; Kubernetes takes a missing number for one."""
        replicas = self.raw["spec"].get("replicas")
        return 1 if replicas is None else int(replicas)

    @property
    def template(self) -> Object:
        return dict(self.raw["spec"]["template"])

    @property
    def available(self) -> int:
        return int(self._status.get("availableReplicas") or 0)

    @property
    def paused(self) -> bool:
        return bool(self.raw["spec"].get("paused"))

    @property
    def revision(self) -> int:
        return int((self.raw["metadata"].get("annotations") or {}).get(REVISION) or 0)

    @property
    def images(self) -> dict[str, str]:
        """By container."""
        return {one["name"]: one.get("image", "") for one in self.template["spec"]["containers"]}

    @property
    def rolled_out(self) -> bool:
        """The controller has seen the last change, every Pod is of it and available, none of an older one is left."""
        status = self._status
        return (
            int(status.get("observedGeneration") or 0) >= int(self.raw["metadata"]["generation"])
            and int(status.get("updatedReplicas") or 0) == self.wanted
            and int(status.get("replicas") or 0) == self.wanted
            and self.available == self.wanted
        )

    @property
    def moving(self) -> bool:
        """Pods of a newer or older template come or go; one that merely lacks Pods is ill, not moving."""
        status = self._status
        total, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
        seen = int(status.get("observedGeneration") or 0) >= int(self.raw["metadata"]["generation"])
        return not seen or updated < total or total > self.wanted

    @property
    def stuck(self) -> str:
        """Why the controller gave up; empty while it has not."""
        for one in self._status.get("conditions") or []:
            given_up = one["type"] == "Progressing" and one["status"] == "False"
            if given_up and one.get("reason") == "ProgressDeadlineExceeded":
                return str(one.get("message") or one["reason"])
        return ""

    @property
    def owner(self) -> str:
        """Who would undo our change: ``Argo CD``; empty when nobody does."""
        metadata = self.raw["metadata"]
        marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
        return next((who for mark, who in GITOPS.items() if marks.get(mark)), "")

    @property
    def has_downtime(self) -> str:
        """Why replacing its Pods interrupts it; empty when it does not."""
        if (self.raw["spec"].get("strategy") or {}).get("type") == "Recreate":
            return "its strategy is Recreate"
        return "" if self.wanted != 1 else "it has one replica"

    @property
    def _status(self) -> Object:
        return self.raw.get("status") or {}

    def standing(self) -> dict[str, Any]:
        """In numbers, for the record."""
        status = self._status
        return {
            "generation": self.raw["metadata"]["generation"],
            "observed": status.get("observedGeneration"),
            "revision": self.revision,
            "wanted": self.wanted,
            "updated": int(status.get("updatedReplicas") or 0),
            "replicas": int(status.get("replicas") or 0),
            "available": self.available,
            "images": self.images,
            **({"autoscaler": {"name": self.scaler.name, "min": self.scaler.least, "max": self.scaler.most}}
               if self.scaler else {}),
        }  # fmt: skip

    def __str__(self) -> str:
        return f"deployment {self.namespace}/{self.name}"


def look(client: ApiClient, namespace: str, name: str) -> Workload:
    """:raises WorkloadError: it is not there, or may not be read."""
    raw = ask(AppsV1Api(client).read_namespaced_deployment, name, namespace)
    scaler = None
    for one in ask(AutoscalingV2Api(client).list_namespaced_horizontal_pod_autoscaler, namespace)["items"]:
        target = one["spec"]["scaleTargetRef"]
        if target["kind"] == "Deployment" and target["name"] == name:
            least = one["spec"].get("minReplicas")
            scaler = Scaler(
                one["metadata"]["name"],
                1 if least is None else int(least),
                int(one["spec"]["maxReplicas"]),
                one["metadata"].get("annotations") or {},
            )
    return Workload(namespace, name, raw, scaler)


def refuse(found: Workload, *, surge: int = 0, client: ApiClient | None = None) -> None:
    """
    :param surge: Pods that will come in addition; with ``client`` the namespace's quota must have room for them.
    :raises WorkloadError: it must not be touched now.
    """
    if found.owner:
        raise WorkloadError(
            f"{found} belongs to {found.owner}, which would undo the change",
            hint=f"change it in the repository that {found.owner} applies, or pause {found.owner} first.",
        )
    if found.paused:
        raise WorkloadError(f"{found} is paused", hint=f"`kubectl -n {found.namespace} rollout resume` it, or wait.")
    if found.moving:
        raise WorkloadError(
            f"a rollout of {found} is in progress: {_numbers(found)}",
            hint=f"`kubectl -n {found.namespace} rollout status deployment/{found.name}`; try again when it is over.",
        )
    if surge > 0 and client is not None and (lack := lacking(client, found, surge)):
        raise WorkloadError(
            f"no room for {surge} more of {found}: {lack}",
            hint="free something in the namespace or raise its ResourceQuota first.",
        )


def lacking(client: ApiClient, found: Workload, pods: int) -> str:
    """What a ResourceQuota of the namespace has too little of for so many more Pods; empty when there is room."""
    from kubernetes.utils import parse_quantity

    need: dict[str, Any] = {"pods": pods, "count/pods": pods}
    for container in found.template["spec"]["containers"]:
        resources = container.get("resources") or {}
        for kind in ("requests", "limits"):
            for name, quantity in (resources.get(kind) or {}).items():
                amount = parse_quantity(quantity) * pods
                need[f"{kind}.{name}"] = need.get(f"{kind}.{name}", 0) + amount
                if kind == "requests":
                    need[name] = need[f"{kind}.{name}"]
    for quota in ask(CoreV1Api(client).list_namespaced_resource_quota, found.namespace)["items"]:
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            # Only for some Pods, and which is the scheduler's business.
            continue
        status = quota.get("status") or {}
        used = status.get("used") or {}
        for name, hard in (status.get("hard") or {}).items():
            if name in need and parse_quantity(hard) - parse_quantity(used.get(name, "0")) < need[name]:
                return f"quota {quota['metadata']['name']} allows {hard} {name}, {used.get(name, '0')} are used"
    return ""


def wait(
    client: ApiClient, namespace: str, name: str, *, within_s: float, go: Callable[[], str] = lambda: ""
) -> Workload:
    """
    Until the rollout is over.

    By asking, not by watching: there is nothing to resume when a connection breaks or a version has expired.

    :raises WorkloadError: the controller gave up, it was paused, or it took longer than ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while True:
        found = look(client, namespace, name)
        if found.rolled_out:
            return found
        hint = f"`kubectl -n {namespace} describe deployment {name}`; roll it back if its last change is to blame."
        if found.stuck and not _behind(found):
            raise WorkloadError(f"the rollout of {found} is stuck: {found.stuck} ({_numbers(found)})", hint=hint)
        if found.paused:
            raise WorkloadError(f"the rollout of {found} was paused: {_numbers(found)}", hint=hint)
        if reason := go():
            raise WorkloadError(f"the rollout of {found} was not waited for: {reason}", hint=hint)
        if time.monotonic() >= deadline:
            raise WorkloadError(f"{found} is not rolled out after {within_s:,.0f} s: {_numbers(found)}", hint=hint)
        time.sleep(min(POLL_S, max(0.05, deadline - time.monotonic())))


def _behind(found: Workload) -> bool:
    """What its status says is about an older change."""
    status = found.raw.get("status") or {}
    return int(status.get("observedGeneration") or 0) < int(found.raw["metadata"]["generation"])


def _numbers(found: Workload) -> str:
    said = found.standing()
    return (
        f"{said['updated']} of {found.wanted} updated, {found.available} available, {said['replicas']} in all,"
        f" generation {said['observed']} of {said['generation']}"
    )


def ask(call: Callable[..., Any], *arguments: Any, patience_s: float = PATIENCE_S, **named: Any) -> Object:
    """
    One request of the official client, as JSON; asked again while the API server says that it may succeed later.

    :raises WorkloadError: refused, not found, or no answer within ``patience_s`` seconds.
    """
    send = partial(call, *arguments, _preload_content=False, _request_timeout=REQUEST_S, **named)
    deadline, pause = time.monotonic() + patience_s, 0.2
    while True:
        try:
            return dict(json.loads(send().data))
        except ApiException as refused:
            if refused.status not in PASSING or time.monotonic() + pause > deadline:
                raise _refused(call, refused) from None
            asked = (refused.headers or {}).get("Retry-After", "")
            wait_s = float(asked) if str(asked).isdigit() else pause
        except (urllib3.exceptions.HTTPError, OSError) as down:
            if time.monotonic() + pause > deadline:
                raise WorkloadError(
                    f"the Kubernetes API does not answer: {type(down).__name__}", hint="look at the control plane."
                ) from down
            wait_s = pause
        time.sleep(min(wait_s, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, 5.0)


def _refused(call: Callable[..., Any], refused: ApiException) -> WorkloadError:
    try:
        said = str(json.loads(refused.body or "{}").get("message") or refused.reason)
    except ValueError:
        said = str(refused.reason)
    hint = {
        403: "give the connection's user this right. Remedies need get, list and patch of deployments and"
        " horizontalpodautoscalers, and get and list of replicasets, pods, pods/log, events and resourcequotas.",
        404: "`kubernetes.deployments` of the platform file names it; is it called so, in this namespace?",
        409: "somebody else changed it at the same time: look, then run it again.",
    }.get(refused.status or 0, "the API server's log says more.")
    return WorkloadError(f"{refused.status} to {call.__name__}: {said}", hint=hint)
