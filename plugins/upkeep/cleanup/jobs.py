"""Finished Jobs and Pods that nobody needs any more: labelled as ours to remove, old, and not held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Literal

import urllib3
from kubernetes.client.exceptions import ApiException

from upkeep.findings import Finding, Outcome, Severity, judged
from upkeep.health.kubernetes import Api
from upkeep.ledger import Ledger, Plan, Run
from upkeep.platforms.services import Kubernetes

CHECK = "jobs"
SEVERITY = Severity.P2
"""Of not being able to look; what could not be deleted is less."""

METRIC = "cleanup_deleted_jobs"

MOST_SHARE, MOST_TIMES_USUAL = 0.5, 3.0
"""The standing yes ends at this share of the namespace's Jobs and Pods, or at this many times the usual."""

FEW = 20
"""So few never ask a person: they carry the label that says so."""

MOST_ITEMS = 1000
"""In one run, oldest first; the rest waits for the next."""

Object = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One Job or Pod that is to go; a Job takes its Pods along."""

    kind: Literal["Job", "Pod"]
    name: str
    uid: str
    resource_version: str
    """With ``uid``: deleted only while it is exactly what was seen."""

    finished: str
    """ISO 8601."""

    ended: str
    """``Complete``, ``Failed`` or ``Succeeded``."""

    @property
    def object(self) -> str:
        """``job/report-old``."""
        return f"{self.kind.lower()}/{self.name}"


@dataclass(kw_only=True)
class JobsPlan:
    """What is to go from one namespace, and what stays."""

    namespace: str
    items: tuple[Item, ...] = ()
    due: int = 0
    objects: int = 0
    """Jobs and Pods in the namespace."""

    stays: dict[str, int] = field(default_factory=dict)
    """Labelled ones that stay, by reason."""

    beyond: str = ""

    def stay(self, reason: str) -> None:
        self.stays[reason] = self.stays.get(reason, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """The items as the ledger stores them."""
        asks = bool(self.beyond)
        return [{"namespace": self.namespace, "waits_for_a_yes": asks, **asdict(item)} for item in self.items]


def plan(api: Api, settings: Kubernetes, now: datetime, usual: float | None = None) -> JobsPlan:
    """
    What is due; only reads.

    :param usual: how many would be usual today; None before there is a history.
    :raises NotAnswered: Jobs or Pods cannot be listed.
    """
    made = JobsPlan(namespace=settings.namespace)
    jobs = api.items(f"/apis/batch/v1/namespaces/{settings.namespace}/jobs")
    pods = api.items(f"/api/v1/namespaces/{settings.namespace}/pods")
    made.objects = len(jobs) + len(pods)
    of_job: dict[str, list[Object]] = {}
    for pod in pods:
        if owner := _job_of(pod):
            of_job.setdefault(owner, []).append(pod)
    due = [item for job in jobs if (item := _due_job(job, of_job, settings, now, made))]
    due += [item for pod in pods if not _job_of(pod) and (item := _due_pod(pod, settings, now, made))]
    made.due = len(due)
    made.items = tuple(sorted(due, key=lambda item: (item.finished, item.object))[:MOST_ITEMS])
    if made.due > FEW:
        if made.due > MOST_SHARE * made.objects:
            made.beyond = f"{made.due:,} of {made.objects:,} Jobs and Pods are due ({made.due / made.objects:.0%})"
        elif usual is not None and made.due > MOST_TIMES_USUAL * usual:
            made.beyond = f"{made.due:,} Jobs and Pods are due, usual are {usual:,.0f}"
    return made


def _due_job(
    job: Object, of_job: Mapping[str, list[Object]], settings: Kubernetes, now: datetime, plan: JobsPlan
) -> Item | None:
    if not _labelled(job, settings.cleanup_label):
        return None
    pods = of_job.get(job["metadata"]["uid"], [])
    if any(_held(each, settings.hold_label) for each in (job, *pods)):
        plan.stay("held")
        return None
    ended = next(
        (
            condition
            for condition in (job.get("status") or {}).get("conditions") or []
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"
        ),
        None,
    )
    if ended is None or any(not _over(pod) for pod in pods):
        plan.stay("running")
        return None
    finished = (job["status"].get("completionTime")) or ended.get("lastTransitionTime")
    return _if_old("Job", job, ended["type"], finished, settings, now, plan)


def _due_pod(pod: Object, settings: Kubernetes, now: datetime, plan: JobsPlan) -> Item | None:
    if not _labelled(pod, settings.cleanup_label):
        return None
    if _held(pod, settings.hold_label):
        plan.stay("held")
        return None
    if not _over(pod):
        plan.stay("running")
        return None
    status = pod["status"]
    ends = [
        (container.get("state") or {}).get("terminated", {}).get("finishedAt")
        for container in status.get("containerStatuses") or []
    ]
    # An evicted Pod has no containers that ended; then its last change of condition counts.
    changes = [condition.get("lastTransitionTime") for condition in status.get("conditions") or []]
    finished = max(filter(None, ends), default=None) or max(filter(None, changes), default=None)
    return _if_old("Pod", pod, status["phase"], finished, settings, now, plan)


def _if_old(
    kind: Literal["Job", "Pod"],
    seen: Object,
    ended: str,
    finished: str | None,
    settings: Kubernetes,
    now: datetime,
    plan: JobsPlan,
) -> Item | None:
    metadata = seen["metadata"]
    if metadata.get("deletionTimestamp"):
        plan.stay("being deleted")
    elif finished is None:
        plan.stay("no time of its end")
    elif now - datetime.fromisoformat(finished) <= settings.finished_ttl:
        plan.stay("not old enough")
    else:
        return Item(
            kind=kind,
            name=metadata["name"],
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            finished=finished,
            ended=ended,
        )
    return None


def _labels(seen: Object) -> Mapping[str, str]:
    return seen["metadata"].get("labels") or {}


def _labelled(seen: Object, label: str) -> bool:
    key, _, value = label.partition("=")
    return _labels(seen).get(key) == value


def _held(seen: Object, label: str) -> bool:
    """Whatever the value: who wrote ``upkeep/hold: "yes"`` meant it."""
    return label.partition("=")[0] in _labels(seen)


def _over(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _job_of(pod: Object) -> str | None:
    """The uid of the Job that owns a Pod."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner["kind"] == "Job"), None)


# -- deleting ------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Deleted:
    """What became of planned items: ``left`` by reason, with their names."""

    deleted: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)


def apply(ledger: Ledger, run: Run, api: Api, plan: JobsPlan, stored: Plan) -> Deleted:
    """Delete exactly what was planned, each object an action of the ledger. Killed anywhere, the next run goes on."""
    done = Deleted()
    _close_records(ledger, run, plan, stored)
    for item in plan.items:
        before = {"finished": item.finished, "ended": item.ended, "uid": item.uid}
        with ledger.action(run, "cleanup", "delete", item.object, plan=stored, before=before) as action:
            reason = delete(api, plan.namespace, item)
            action.after = {"deleted": not reason}
            if not reason:
                done.deleted.append(item.object)
                continue
            action.skip(reason)
        if reason == "gone":
            done.gone.append(item.object)
        else:
            done.left.setdefault(reason, []).append(item.object)
    return done


def _close_records(ledger: Ledger, run: Run, plan: JobsPlan, stored: Plan) -> None:
    planned = {item.object for item in plan.items}

    def mine(object: str) -> bool:
        return object.startswith(("job/", "pod/")) and object not in planned

    ledger.close_records(run, "cleanup", ["delete"], mine, plan=stored)


def delete(api: Api, namespace: str, item: Item) -> str:
    """``""`` when it was deleted, otherwise why not: ``gone``, ``changed``, ``not permitted`` …"""
    group = "/apis/batch/v1" if item.kind == "Job" else "/api/v1"
    path = f"{group}/namespaces/{namespace}/{item.kind.lower()}s/{item.name}"
    headers = {**api.client.default_headers, "Accept": "application/json", "Content-Type": "application/json"}
    api.client.update_params_for_auth(headers, [], ["BearerToken"])
    try:
        api.client.rest_client.DELETE(
            api.client.configuration.host + path,
            headers=headers,
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Background",
                "preconditions": {"uid": item.uid, "resourceVersion": item.resource_version},
            },
            _request_timeout=api.timeout_s,
        )
    except ApiException as refused:
        known = {404: "gone", 409: "changed", 403: "not permitted"}
        return known.get(refused.status, f"the API answered {refused.status} {refused.reason}")
    except urllib3.exceptions.HTTPError as trouble:
        return f"no answer: {type(trouble).__name__}"
    return ""


# -- telling -------------------------------------------------------------------------------------------


def outcome(plan: JobsPlan, done: Deleted | None, *, plan_id: str) -> Outcome:
    """What to say; ``done`` is None for a dry run, or when a person has to be asked."""
    facts = {
        "due": plan.due,
        "jobs_and_pods": plan.objects,
        "deleted": len(done.deleted) if done else 0,
        "stays": plan.stays,
        "left": done.left if done else {},
        "plan": plan_id,
    }
    wrong: list[tuple[Severity, str, str]] = []
    if plan.beyond:
        wrong.append(
            (
                Severity.P2,
                f"nothing was deleted: {plan.beyond}, which is beyond the standing yes",
                f"Look at plan {plan_id} in the ledger; if it is right, raise `kubernetes.finished_ttl` for now and"
                " lower it step by step, or delete them by hand.",
            )
        )
    for reason, names in (done.left if done else {}).items():
        if reason != "changed":
            wrong.append(
                (
                    Severity.P3,
                    f"{len(names)} could not be deleted, {reason}: {', '.join(names[:5])}",
                    f"Grant `delete` on jobs and pods in namespace {plan.namespace}."
                    if reason == "not permitted"
                    else "The next run tries again; see the API server's log if it stays so.",
                )
            )
    if done and plan.due > len(plan.items):
        wrong.append((Severity.P4, f"{plan.due:,} are due, this run took {len(plan.items):,}", "The next run goes on."))
    findings = []
    if wrong:
        findings.append(
            Finding(
                check=CHECK,
                severity=min((how_bad for how_bad, _, _ in wrong), key=lambda how_bad: how_bad.rank),
                summary="; ".join(summary for _, summary, _ in wrong),
                hint=" ".join(dict.fromkeys(hint for _, _, hint in wrong)),
                facts=facts,
            )
        )
    return judged(CHECK, SEVERITY, findings, **facts)  # type: ignore[arg-type]


def usual(samples: Iterable[float]) -> float | None:
    """How many are usually deleted: the median of the runs that deleted any; None before there were five."""
    busy = [value for value in samples if value]
    return median(busy) if len(busy) >= 5 else None


def recent(ledger: Ledger, platform: str, now: datetime) -> list[float]:
    """How many were deleted by each run of the last 60 days."""
    rows = ledger.rows(
        "select value from samples where platform = %s and metric = %s and at > %s",
        [platform, METRIC, now - timedelta(days=60)],
    )
    return [row["value"] for row in rows]
