"""
The act: an application's Pods lost, then one replica more, then as few as it may have, each waited for and probed.

What each Deployment and its autoscaler were is on record before the first change, and is put back to the letter: by the
act itself, or by the janitor where the act's process died.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client import ApiClient, AppsV1Api, AutoscalingV2Api, CoreV1Api

from upkeep.drill.record import Drill
from upkeep.errors import UpkeepError
from upkeep.incident import workloads
from upkeep.incident.remedies import MANAGER
from upkeep.incident.workloads import Object, Workload, WorkloadError, ask, look, refuse
from upkeep.platforms.services import Deployment

PROBE_S = 0.5
LEAST_PROBES = 20
"""Fewer say nothing about a share."""


@dataclass(frozen=True)
class Place:
    """Where it is rehearsed."""

    client: ApiClient
    namespace: str
    deployments: Sequence[Deployment]
    everything: bool
    """All Pods of a Deployment at once (staging), or one of them (production), as its PodDisruptionBudget allows."""


@dataclass(frozen=True)
class Conduct:
    """From ``recovery.drill`` of the platform file."""

    gap_s: float = 300.0
    abort_errors: float = 0.05
    probes: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    """By name; each says what is wrong, or nothing."""


@dataclass
class Watch:
    """Probes that go on whatever the drill does; use it in a ``with``."""

    probes: Mapping[str, Callable[[], str]]
    every_s: float = PROBE_S
    seen: list[tuple[float, str, str]] = field(default_factory=list)
    """Monotonic time, probe, what was wrong."""

    gaps: list[list[float]] = field(default_factory=list)
    """Times in which the platform may be away: begin and end."""

    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stopping.set()
        if self._thread:
            self._thread.join(15)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for name, probe in self.probes.items():
                at = time.monotonic()
                try:
                    said = probe()
                except Exception as trouble:
                    # Whatever a client may raise: it could not look, and that counts as away.
                    said = f"{type(trouble).__name__}: {trouble}"
                self.seen.append((at, name, said))
            self._stopping.wait(self.every_s)

    def outside(self) -> tuple[int, list[str]]:
        """How many looks fell outside the gaps, and what was wrong in them."""
        looks = [
            one for one in list(self.seen) if not any(begin <= one[0] <= end for begin, end in self.gaps)
        ]  # fmt: skip
        return len(looks), [f"{name}: {said}" for _, name, said in looks if said]

    def breach(self, most: float) -> str:
        """Why the drill must be broken off; empty while it need not."""
        count, wrong = self.outside()
        if count >= LEAST_PROBES and len(wrong) / count > most:
            return f"{len(wrong)} of {count} probes failed outside the expected gap: {wrong[-1][:200]}"
        return ""


def rehearse(drill: Drill, place: Place, conduct: Conduct) -> None:
    """Each Deployment in turn; fills in the drill. All is as it was when it ends, or the drill says what is not."""
    found, before = [], {}
    try:
        with drill.phase("steady"):
            found = _present(drill, place)
            before = {one.name: standing(one) for one in found}
            for one in found:
                refuse(one)
                if not one.rolled_out:
                    raise WorkloadError(f"{one} is not whole: {one.available} of {one.wanted} available", hint=_WAIT)
    except UpkeepError as refused:
        drill.reason = refused.message
        drill.verdicts |= {"act": "unknown", "validation": "unknown", "cleanup": "passed"}
        return
    drill.facts["before"] = before
    times: dict[str, float] = {}
    probes = {f"deployment {one.name}": _probe(place, one.name) for one in found} | dict(conduct.probes)
    with Watch(probes) as watch:
        try:
            for one in found:
                bounds = next(each for each in place.deployments if each.name == one.name)
                drill.remember(undo(one, bounds))
                times[one.name] = _one(drill, place, conduct, watch, one, bounds)
            drill.verdicts["act"] = "passed"
        except (UpkeepError, OSError) as trouble:
            drill.fail("act", getattr(trouble, "message", str(trouble)))
        finally:
            _put_back(drill, place, conduct)
    drill.facts["times"] = times
    if drill.verdicts["act"] == "passed":
        drill.rto_s = round(max(times.values()), 3)
    _judge(drill, place, conduct, watch, before)


_WAIT = "a drill begins from a steady state: mend it, then run this again."


def _present(drill: Drill, place: Place) -> list[Workload]:
    found = []
    for bounds in place.deployments:
        try:
            found.append(look(place.client, place.namespace, bounds.name))
        except WorkloadError as gone:
            if not gone.message.startswith("404"):
                raise
            drill.deviates(f"deployment {bounds.name} is not in {place.namespace}")
    if not found:
        raise WorkloadError(
            f"none of the platform's deployments is in {place.namespace}",
            hint="correct `kubernetes.staging_namespace`, or deploy there first.",
        )
    if off := [one.name for one in found if one.wanted == 0]:
        raise WorkloadError(
            f"{off[0]} is switched off (0 replicas)", hint="somebody meant that: ask, then switch it on."
        )
    return found


def _one(drill: Drill, place: Place, conduct: Conduct, watch: Watch, was: Workload, bounds: Deployment) -> float:
    """:returns: seconds from the loss of its Pods until all of them were available again."""
    name = was.name

    def settled() -> Workload:
        return workloads.wait(
            place.client, place.namespace, name, within_s=conduct.gap_s,
            go=lambda: watch.breach(conduct.abort_errors),
        )  # fmt: skip

    with drill.phase(f"lose {name}"):
        began = time.monotonic()
        gap = [began, began + conduct.gap_s]
        watch.gaps.append(gap)
        lost = _lose(place, was)
        while _still(place, was, lost):
            if time.monotonic() > gap[1]:
                raise WorkloadError(
                    f"Pods of {was} do not go away", hint="look at their node: its kubelet may be dead."
                )
            time.sleep(0.1)
        settled()
        seconds = time.monotonic() - began
        gap[1] = time.monotonic() + PROBE_S
    drill.facts.setdefault("lost", {})[name] = len(lost)
    for step, replicas in _moves(drill, was, bounds):
        with drill.phase(f"{step} {name}"):
            _scale(place.client, was, replicas)
            _until(place, was, replicas, conduct.gap_s)
            settled()
        if said := watch.breach(conduct.abort_errors):
            raise WorkloadError(f"broken off: {said}", hint="the application does not bear what its bounds allow.")
    return round(seconds, 3)


def _lose(place: Place, was: Workload) -> set[str]:
    """Uids of the Pods that are on their way out."""
    core = CoreV1Api(place.client)
    pods = [one for one in _pods(place, was) if not one["metadata"].get("deletionTimestamp")]
    chosen = pods if place.everything else pods[:1]
    for pod in chosen:
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod["metadata"]["name"], "namespace": place.namespace},
        }
        if place.everything:
            ask(core.delete_namespaced_pod, pod["metadata"]["name"], place.namespace)
        else:
            ask(core.create_namespaced_pod_eviction, pod["metadata"]["name"], place.namespace, body)
    return {pod["metadata"]["uid"] for pod in chosen}


def _still(place: Place, was: Workload, lost: set[str]) -> bool:
    """Whether one of them is left, or the controller has not seen yet that they are gone."""
    here = {pod["metadata"]["uid"] for pod in _pods(place, was)}
    return bool(here & lost) or len(here) < was.wanted


def _pods(place: Place, was: Workload) -> list[Object]:
    labels = was.raw["spec"]["selector"].get("matchLabels") or {}
    selector = ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return list(ask(CoreV1Api(place.client).list_namespaced_pod, place.namespace, label_selector=selector)["items"])


def _moves(drill: Drill, was: Workload, bounds: Deployment) -> list[tuple[str, int]]:
    """Up by one, then down to the least, as far as the platform file and its autoscaler allow."""
    most = min(bounds.most, was.scaler.most) if was.scaler else bounds.most
    moves = []
    if was.wanted < most:
        moves.append(("up", was.wanted + 1))
    else:
        drill.deviates(f"{was.name} has {was.wanted} replicas, its most: not raised")
    if was.wanted > bounds.least:
        moves.append(("down", bounds.least))
    else:
        drill.deviates(f"{was.name} has {was.wanted} replicas, its least is {bounds.least}: not lowered")
    return moves


def _scale(client: ApiClient, was: Workload, replicas: int) -> None:
    if was.scaler:
        spec = {
            "minReplicas": replicas,
            "maxReplicas": max(replicas, was.scaler.most) if replicas > was.wanted else replicas,
        }
        _patch_scaler(client, was.namespace, was.scaler.name, spec)
        return
    _patch(client, was.namespace, was.name, replicas)


def _until(place: Place, was: Workload, replicas: int, within_s: float) -> None:
    """An autoscaler takes its time until the Deployment is told, and may go further by itself."""
    until = time.monotonic() + within_s
    up = replicas > was.wanted
    while (wanted := (found := look(place.client, place.namespace, was.name)).wanted) != replicas and (
        not was.scaler or (wanted > replicas) != up
    ):
        if time.monotonic() > until:
            raise WorkloadError(
                f"{found} has {found.wanted} replicas, and {replicas} were asked for", hint="does its autoscaler work?"
            )
        time.sleep(0.2)


def _probe(place: Place, name: str) -> Callable[[], str]:
    def available() -> str:
        found = look(place.client, place.namespace, name)
        return "" if found.available else f"none of {found.wanted} replicas is available"

    return available


def _judge(drill: Drill, place: Place, conduct: Conduct, watch: Watch, before: Mapping[str, Mapping[str, Any]]) -> None:
    count, wrong = watch.outside()
    failed = sum(bool(said) for _, _, said in watch.seen)
    drill.facts["probes"] = {"looks": len(watch.seen), "failed": failed, "outside": count, "failed_outside": len(wrong)}
    if said := watch.breach(conduct.abort_errors):
        drill.fail("validation", said)
        return
    try:
        after = {name: standing(look(place.client, place.namespace, name)) for name in before}
    except UpkeepError as away:
        drill.fail("validation", away.message)
        return
    drill.facts["after"] = after
    if drill.verdicts["act"] == "passed":
        drill.verdicts["validation"] = "passed"
    else:
        drill.verdicts["validation"] = "unknown"
    for name, was in before.items():
        if after[name] != was and drill.verdicts["cleanup"] == "passed":
            drill.fail("cleanup", f"{name} is not as it was: {after[name]}, not {was}")


# -- putting back ------------------------------------------------------------------------------------------


def standing(found: Workload) -> dict[str, Any]:
    """What must be the same before and after."""
    scaler = found.scaler
    if scaler:
        # How many there are between its bounds is its own business.
        return {"autoscaler": [scaler.name, scaler.least, scaler.most], "template": found.images}
    return {"replicas": found.wanted, "template": found.images}


def undo(was: Workload, bounds: Deployment) -> dict[str, Any]:
    """For the record: how it was, and every number that this drill may give it."""
    scaler = was.scaler
    return {
        "kind": "deployment",
        "namespace": was.namespace,
        "name": was.name,
        "replicas": was.wanted,
        "ours": [was.wanted + 1, bounds.least],
        "autoscaler": {"name": scaler.name, "least": scaler.least, "most": scaler.most} if scaler else None,
    }


def _put_back(drill: Drill, place: Place, conduct: Conduct) -> None:
    try:
        with drill.phase("put back"):
            for entry in drill.undo:
                if said := put_back(place.client, entry, within_s=conduct.gap_s):
                    drill.deviates(said)
    except (UpkeepError, OSError) as trouble:
        drill.fail("cleanup", getattr(trouble, "message", str(trouble)))
        return
    drill.verdicts["cleanup"] = "passed"
    drill.forget()


def put_back(client: ApiClient, entry: Mapping[str, Any], *, within_s: float) -> str:
    """
    Replicas and autoscaler as they were, waited for; what somebody else has changed since is left, and said.

    :raises WorkloadError: it did not become so.
    """
    found = look(client, entry["namespace"], entry["name"])
    was, ours = entry["replicas"], set(entry["ours"])
    told = ""
    if scaler := entry["autoscaler"]:
        now = found.scaler
        if now is None or now.name != scaler["name"]:
            told = f"{found}: its autoscaler {scaler['name']} is gone; it stays so"
        elif now.least not in ours | {scaler["least"]}:
            told = f"{found}: somebody made its autoscaler {now.least} to {now.most}; it stays so"
        elif (now.least, now.most) != (scaler["least"], scaler["most"]):
            spec = {"minReplicas": scaler["least"], "maxReplicas": scaler["most"]}
            _patch_scaler(client, found.namespace, now.name, spec)
    if found.wanted != was and found.wanted in ours:
        _patch(client, found.namespace, found.name, was)
    elif found.wanted != was and not scaler:
        told = told or f"{found}: somebody made it {found.wanted} replicas; it stays so"
    workloads.wait(client, found.namespace, found.name, within_s=within_s)
    return told


def _patch(client: ApiClient, namespace: str, name: str, replicas: int) -> None:
    call = AppsV1Api(client).patch_namespaced_deployment
    ask(call, name, namespace, {"spec": {"replicas": replicas}}, field_manager=MANAGER)


def _patch_scaler(client: ApiClient, namespace: str, name: str, spec: Object) -> None:
    call = AutoscalingV2Api(client).patch_namespaced_horizontal_pod_autoscaler
    ask(call, name, namespace, {"spec": spec}, field_manager=MANAGER)


def unhealthy(place: Place) -> str:
    """Which of the Deployments is not whole; empty when all of them are."""
    for bounds in place.deployments:
        try:
            found = look(place.client, place.namespace, bounds.name)
        except WorkloadError as refused:
            if refused.message.startswith("404"):
                continue
            return refused.message
        if not found.rolled_out:
            return f"{found}: {found.available} of {found.wanted} replicas are available"
    return ""
