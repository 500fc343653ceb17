"""What may be done to a Deployment in an incident. Each may be killed anywhere and done again: it is done once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from kubernetes.client import ApiClient, AppsV1Api, AutoscalingV2Api

from upkeep.health.kubernetes_workloads import SCALED
from upkeep.incident.workloads import RESTARTED, REVISION, Object, Workload, WorkloadError, ask, look, refuse
from upkeep.platforms.services import Deployment

MANAGER = "upkeep"


@dataclass(frozen=True)
class Done:
    """What became of a remedy."""

    changed: bool
    said: str


# -- restart ---------------------------------------------------------------------------------------------


def restart(client: ApiClient, namespace: str, name: str, *, key: str, downtime: bool = False) -> Done:
    """
    Replace its Pods one after another, as ``kubectl rollout restart`` does.

    :param key: of this restart, such as the Dag run's id: the same one never restarts twice.
    :param downtime: allowed where replacing Pods interrupts it.
    :raises WorkloadError: it must not be touched now.
    """
    found = look(client, namespace, name)
    mark = {"upkeep.dev/restart": key[:253]}
    if (found.template["metadata"].get("annotations") or {}).get("upkeep.dev/restart") == mark["upkeep.dev/restart"]:
        return Done(False, f"{found} was restarted by this run already")
    refuse(found)
    if found.has_downtime and not downtime:
        raise WorkloadError(
            f"restarting {found} interrupts it: {found.has_downtime}",
            hint="say that downtime is accepted, or give it a second replica first.",
        )
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    _patch(client, found, {"spec": {"template": {"metadata": {"annotations": {RESTARTED: at, **mark}}}}})
    return Done(True, f"{found}: {found.wanted} Pods are being replaced")


# -- scale -----------------------------------------------------------------------------------------------


def scale(client: ApiClient, namespace: str, bounds: Deployment, *, to: int, lasts: timedelta) -> Done:
    """
    At least ``to`` replicas for a while; never fewer than there are.

    Where a HorizontalPodAutoscaler rules, its ``minReplicas`` is raised: it would overwrite the Deployment's number
    within seconds. What was before is written on the object itself; ``put_back`` reads it there.

    :param bounds: of the platform file: never beyond ``most``.
    :raises WorkloadError: beyond the bounds, no room in the quota, or not to be touched now.
    """
    found = look(client, namespace, bounds.name)
    if to > bounds.most:
        raise WorkloadError(
            f"{to} replicas of {found} are more than the platform file allows ({bounds.most})",
            hint=f"ask for at most {bounds.most}, or raise `kubernetes.deployments.{bounds.name}.most`.",
        )
    if (found.scaler and found.scaler.least == 0) or found.wanted == 0:
        raise WorkloadError(
            f"{found} is switched off (0 replicas)", hint="somebody meant that: switch it on by hand if it should run."
        )
    if found.scaler:
        return _scale_autoscaled(client, found, to, lasts)
    if found.wanted >= to:
        return Done(False, f"{found} has {found.wanted} replicas already")
    refuse(found, surge=to - found.wanted, client=client)
    memory = _memory(found.raw["metadata"].get("annotations") or {}, found.wanted, to, lasts)
    # One request for the number and for what it was: whoever is killed leaves both or neither.
    _patch(client, found, {"metadata": {"annotations": {SCALED: memory}}, "spec": {"replicas": to}})
    return Done(True, f"{found}: from {found.wanted} to {to} replicas")


def _scale_autoscaled(client: ApiClient, found: Workload, to: int, lasts: timedelta) -> Done:
    scaler = found.scaler
    assert scaler is not None
    if scaler.least >= to:
        return Done(False, f"autoscaler {scaler.name} keeps at least {scaler.least} replicas already")
    if to > scaler.most:
        raise WorkloadError(
            f"{to} replicas are more than autoscaler {scaler.name} may give {found} ({scaler.most})",
            hint=f"ask for at most {scaler.most}, or raise its maxReplicas first.",
        )
    refuse(found, surge=max(0, to - found.wanted), client=client)
    memory = _memory(scaler.annotations, scaler.least, to, lasts)
    _patch_scaler(
        client, found.namespace, scaler.name,
        {"metadata": {"annotations": {SCALED: memory}}, "spec": {"minReplicas": to}},
    )  # fmt: skip
    return Done(True, f"autoscaler {scaler.name}: at least {to} instead of {scaler.least} replicas of {found}")


def _memory(annotations: Any, was: int, to: int, lasts: timedelta) -> str:
    """A second scaling up before the first is put back remembers what was before both."""
    if annotations.get(SCALED):
        was = int(json.loads(annotations[SCALED])["was"])
    return json.dumps({"was": was, "now": to, "until": (datetime.now(UTC) + lasts).isoformat(timespec="seconds")})


def due(client: ApiClient, namespace: str, name: str) -> datetime | None:
    """When its scaling is to be put back; None when nothing is."""
    found = look(client, namespace, name)
    annotations = found.scaler.annotations if found.scaler else found.raw["metadata"].get("annotations") or {}
    return datetime.fromisoformat(json.loads(annotations[SCALED])["until"]) if annotations.get(SCALED) else None


def put_back(client: ApiClient, namespace: str, name: str) -> Done:
    """What ``scale`` raised is as before, unless somebody has changed it since: then it is theirs."""
    found = look(client, namespace, name)
    scaler = found.scaler
    annotations = scaler.annotations if scaler else found.raw["metadata"].get("annotations") or {}
    if not annotations.get(SCALED):
        return Done(False, f"{found} was not scaled by Upkeep")
    memory = json.loads(annotations[SCALED])
    current = scaler.least if scaler else found.wanted
    forget: Object = {"metadata": {"annotations": {SCALED: None}}}
    if current == memory["now"]:
        forget["spec"] = {"minReplicas": memory["was"]} if scaler else {"replicas": memory["was"]}
        said = f"{found}: {memory['was']} again, after {memory['now']}"
    else:
        said = f"{found}: somebody made it {current} since it was scaled to {memory['now']}; it stays so"
    if scaler:
        _patch_scaler(client, namespace, scaler.name, forget)
    else:
        _patch(client, found, forget)
    return Done("spec" in forget, said)


# -- rollback --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A ReplicaSet to go back to, by name: its revision number changes when it is used again."""

    replica_set: str
    revision: int
    images: dict[str, str]


def earlier(client: ApiClient, namespace: str, name: str) -> Target:
    """
    The last revision before the current one that differs from it in more than a restart.

    :raises WorkloadError: there is none: ``revisionHistoryLimit`` is 0, or only restarts came since.
    """
    found = look(client, namespace, name)
    mine = _essence(found.template)
    for one in sorted(_replica_sets(client, found), key=_revision, reverse=True):
        # The controller may not have made a ReplicaSet of the last change yet; then the newest one is the one before.
        if _essence(one["spec"]["template"]) != mine:
            images = {each["name"]: each.get("image", "") for each in one["spec"]["template"]["spec"]["containers"]}
            return Target(one["metadata"]["name"], _revision(one), images)
    raise WorkloadError(
        f"{found} has no earlier revision that differs from revision {found.revision}",
        hint="its image's tag may have been moved: deploy the last good one by digest.",
    )


def undo(client: ApiClient, namespace: str, name: str, target: str) -> Done:
    """
    Back to the template of ReplicaSet ``target``, as ``earlier`` chose it before the first try.

    :raises WorkloadError: the ReplicaSet is gone, somebody changed the Deployment meanwhile, or it must not be touched.
    """
    found = look(client, namespace, name)
    sets = {one["metadata"]["name"]: one for one in _replica_sets(client, found)}
    if target not in sets:
        raise WorkloadError(
            f"{found} has no ReplicaSet {target} any more", hint="choose again: `kubectl rollout history` lists them."
        )
    template = sets[target]["spec"]["template"]
    if _essence(template) == _essence(found.template):
        return Done(False, f"{found} is at {target} already")
    # A rollout that does not get on is what rolling back is for.
    if found.owner or found.paused:
        refuse(found)
    labels = {key: value for key, value in template["metadata"]["labels"].items() if key != "pod-template-hash"}
    wanted = {**template, "metadata": {**template["metadata"], "labels": labels}}
    patch = [
        # Refused with 409 or 422 when somebody was quicker; resourceVersion changes with each Pod that comes or goes.
        {"op": "test", "path": "/metadata/generation", "value": found.raw["metadata"]["generation"]},
        {"op": "replace", "path": "/spec/template", "value": wanted},
    ]
    _patch(client, found, patch)
    return Done(True, f"{found}: from revision {found.revision} back to {target}")


def _replica_sets(client: ApiClient, found: Workload) -> list[Object]:
    uid = found.raw["metadata"]["uid"]
    return [
        one
        for one in ask(AppsV1Api(client).list_namespaced_replica_set, found.namespace)["items"]
        if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences") or [])
    ]


def _revision(replica_set: Object) -> int:
    return int((replica_set["metadata"].get("annotations") or {}).get(REVISION) or 0)


def _essence(template: Object) -> Object:
    """The template without what a restart or a ReplicaSet adds."""
    metadata = template.get("metadata") or {}
    ours = (RESTARTED, "upkeep.dev/restart")
    return {
        "labels": {key: value for key, value in (metadata.get("labels") or {}).items() if key != "pod-template-hash"},
        "annotations": {key: value for key, value in (metadata.get("annotations") or {}).items() if key not in ours},
        "spec": template["spec"],
    }


def _patch(client: ApiClient, found: Workload, patch: Any) -> None:
    ask(AppsV1Api(client).patch_namespaced_deployment, found.name, found.namespace, patch, field_manager=MANAGER)


def _patch_scaler(client: ApiClient, namespace: str, name: str, patch: Any) -> None:
    call = AutoscalingV2Api(client).patch_namespaced_horizontal_pod_autoscaler
    ask(call, name, namespace, patch, field_manager=MANAGER)
