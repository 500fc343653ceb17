"""What an API server fills in, and what it refuses, before it stores an object."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Callable
from typing import Any

from sandbox.kubernetes.errors import bad_request, invalid
from sandbox.kubernetes.resources import Resource
from sandbox.kubernetes.selectors import selects

Object = dict[str, Any]
Problem = tuple[str, str]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(r"([a-z0-9][-a-z0-9.]{0,252}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_POD_CHANGES = {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName", "schedulingGates"}
_ADDRESSES = itertools.count(10)


def admit(resource: Resource, obj: Object) -> None:
    """
    Fill in the defaults of a new or changed object, in place, and validate it.

    :raises ApiError: 422, with every problem found.
    """
    if fill := _DEFAULTS.get(resource.kind):
        fill(obj)
    metadata = obj["metadata"]
    problems = [*_name_problems(resource, metadata["name"]), *_label_problems("metadata.labels", metadata)]
    if check := _CHECKS.get(resource.kind):
        problems += check(obj)
    if problems:
        raise invalid(resource.kind, metadata["name"], *problems)


def admit_change(resource: Resource, old: Object, new: Object) -> None:
    """:raises ApiError: 422, the change touches what is fixed for the life of an object."""
    was, now = old.get("spec") or {}, new.get("spec") or {}
    fixed = {
        "Deployment": ["selector"],
        "ReplicaSet": ["selector"],
        "DaemonSet": ["selector"],
        "StatefulSet": ["selector", "serviceName", "volumeClaimTemplates", "podManagementPolicy"],
        "Job": ["selector", "template", "completionMode"],
        "Service": ["clusterIP"],
        "PersistentVolumeClaim": ["accessModes", "storageClassName", "volumeName"],
    }.get(resource.kind, [])
    problems = [
        (f"spec.{field}", "Invalid value: field is immutable")
        for field in fixed
        if was.get(field) and was.get(field) != now.get(field)
    ]
    if resource.kind == "Pod" and _pod_frozen(was) != _pod_frozen(now):
        problems.append(
            ("spec", "Forbidden: pod updates may not change fields other than images, tolerations and deadlines")
        )
    if resource.kind in ("ConfigMap", "Secret") and old.get("immutable") and old.get("data") != new.get("data"):
        problems.append(("data", "Forbidden: field is immutable when `immutable` is set"))
    if problems:
        raise invalid(resource.kind, old["metadata"]["name"], *problems)


def _pod_frozen(spec: Object) -> Object:
    kept = {key: value for key, value in spec.items() if key not in _POD_CHANGES}
    for field in ("containers", "initContainers"):
        kept[field] = [{**item, "image": None} for item in spec.get(field) or []]
    return kept


# -- defaults ----------------------------------------------------------------------------------------------


def _pod_spec(spec: Object) -> None:
    for key, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("schedulerName", "default-scheduler"),
        ("serviceAccountName", "default"),
        ("securityContext", {}),
    ):
        spec.setdefault(key, value)
    for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        image = container.get("image", "")
        latest = image.endswith(":latest") or ":" not in image.rpartition("/")[2]
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _pod(obj: Object) -> None:
    _pod_spec(obj.setdefault("spec", {}))
    obj["spec"].setdefault("enableServiceLinks", True)


def _template(obj: Object) -> None:
    template = obj.setdefault("spec", {}).setdefault("template", {})
    template["metadata"] = template.get("metadata") or {}
    template["metadata"].pop("creationTimestamp", None)
    _pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Object) -> None:
    _template(obj)
    spec = obj["spec"]
    if spec.get("replicas") is None:
        spec["replicas"] = 1
    strategy = spec["strategy"] = spec.get("strategy") or {}
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy["rollingUpdate"] = strategy.get("rollingUpdate") or {}
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _replica_set(obj: Object) -> None:
    _template(obj)
    if obj["spec"].get("replicas") is None:
        obj["spec"]["replicas"] = 1


def _stateful_set(obj: Object) -> None:
    _replica_set(obj)
    spec = obj["spec"]
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    spec.setdefault("revisionHistoryLimit", 10)


def _daemon_set(obj: Object) -> None:
    _template(obj)
    obj["spec"].setdefault(
        "updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    )
    obj["spec"].setdefault("revisionHistoryLimit", 10)


def _job(obj: Object) -> None:
    _template(obj)
    spec, uid = obj["spec"], obj["metadata"]["uid"]
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    if not spec.get("manualSelector"):
        labels = spec["template"]["metadata"].setdefault("labels", {})
        labels.update({"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid})
        labels.update(dict.fromkeys(("batch.kubernetes.io/job-name", "job-name"), obj["metadata"]["name"]))
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _cron_job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName" and not spec.get("clusterIP"):
        at = next(_ADDRESSES)
        spec["clusterIP"] = f"10.96.{at // 250}.{at % 250 + 1}"
    spec.setdefault("clusterIPs", [spec.get("clusterIP", "")])
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


def _autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    utilization = {"type": "Utilization", "averageUtilization": 80}
    spec.setdefault("metrics", [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}])


def _secret(obj: Object) -> None:
    obj.setdefault("type", "Opaque")
    for key, value in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def _namespace(obj: Object) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"]["name"]
    obj.setdefault("spec", {"finalizers": ["kubernetes"]})


_DEFAULTS: dict[str, Callable[[Object], None]] = {
    "Pod": _pod,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "CronJob": _cron_job,
    "Service": _service,
    "HorizontalPodAutoscaler": _autoscaler,
    "Secret": _secret,
    "Namespace": _namespace,
}


# -- checks ------------------------------------------------------------------------------------------------


def _name_problems(resource: Resource, name: str) -> list[Problem]:
    if resource.group == "rbac.authorization.k8s.io":
        return [] if name and "/" not in name else [("metadata.name", f'Invalid value: "{name}"')]
    pattern, most = (_DNS_LABEL, 63) if resource.plural in ("services", "namespaces") else (_SUBDOMAIN, 253)
    if pattern.fullmatch(name) and len(name) <= most:
        return []
    rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
    return [("metadata.name", f'Invalid value: "{name}": {rule}')]


def _label_problems(field: str, metadata: Object) -> list[Problem]:
    return [
        (field, f'Invalid value: "{key}={value}"')
        for key, value in (metadata.get("labels") or {}).items()
        if not (isinstance(value, str) and _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value))
    ]


def _check_pod_spec(field: str, spec: Object) -> list[Problem]:
    problems: list[Problem] = []
    if not spec.get("containers"):
        problems.append((f"{field}.containers", "Required value"))
    for at, container in enumerate(spec.get("containers") or []):
        if not _DNS_LABEL.fullmatch(container.get("name") or ""):
            problems.append((f"{field}.containers[{at}].name", "Required value"))
        if not container.get("image"):
            problems.append((f"{field}.containers[{at}].image", "Required value"))
    if spec["restartPolicy"] not in ("Always", "OnFailure", "Never"):
        problems.append((f"{field}.restartPolicy", f'Unsupported value: "{spec["restartPolicy"]}"'))
    return problems


def _check_pod(obj: Object) -> list[Problem]:
    return _check_pod_spec("spec", obj["spec"])


def _check_workload(obj: Object) -> list[Problem]:
    spec = obj["spec"]
    template = spec["template"]
    problems = _check_pod_spec("spec.template.spec", template["spec"])
    problems += _label_problems("spec.template.metadata.labels", template["metadata"])
    if not spec.get("selector"):
        problems.append(("spec.selector", "Required value"))
    elif not selects(spec["selector"], template["metadata"].get("labels") or {}):
        problems.append(("spec.template.metadata.labels", "Invalid value: `selector` does not match template `labels`"))
    if template["spec"]["restartPolicy"] != "Always":
        problems.append(("spec.template.spec.restartPolicy", 'Unsupported value: supported values: "Always"'))
    if not isinstance(spec.get("replicas", 0), int) or spec.get("replicas", 0) < 0:
        problems.append(("spec.replicas", "Invalid value: must be greater than or equal to 0"))
    return problems


def _check_job(obj: Object) -> list[Problem]:
    spec = obj["spec"]["template"]["spec"]
    problems = _check_pod_spec("spec.template.spec", spec)
    if spec["restartPolicy"] == "Always":
        problems.append(("spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'))
    return problems


def _check_autoscaler(obj: Object) -> list[Problem]:
    spec = obj["spec"]
    problems: list[Problem] = []
    if not isinstance(spec.get("maxReplicas"), int) or spec["maxReplicas"] < 1:
        problems.append(("spec.maxReplicas", "Invalid value: must be greater than 0"))
    elif spec["maxReplicas"] < spec["minReplicas"]:
        problems.append(("spec.maxReplicas", "Invalid value: must be greater than or equal to `minReplicas`"))
    if spec["minReplicas"] < 1:
        problems.append(("spec.minReplicas", "Invalid value: must be greater than or equal to 1"))
    return problems


def _check_budget(obj: Object) -> list[Problem]:
    spec = obj.setdefault("spec", {})
    if "minAvailable" in spec and "maxUnavailable" in spec:
        return [("spec", "Invalid value: minAvailable and maxUnavailable cannot be both set")]
    return []


_CHECKS: dict[str, Callable[[Object], list[Problem]]] = {
    "Pod": _check_pod,
    "Deployment": _check_workload,
    "ReplicaSet": _check_workload,
    "StatefulSet": _check_workload,
    "DaemonSet": _check_workload,
    "Job": _check_job,
    "HorizontalPodAutoscaler": _check_autoscaler,
    "PodDisruptionBudget": _check_budget,
}


def check_body(resource: Resource, body: Any) -> None:
    """:raises ApiError: 400, the body is not an object of this kind."""
    if not isinstance(body, dict):
        raise bad_request("the body of the request must be an object")
    for key, right in (("kind", resource.kind), ("apiVersion", resource.api_version)):
        if body.get(key) and body[key] != right:
            raise bad_request(f"{key} in the body ({body[key]}) does not match the path ({right})")
