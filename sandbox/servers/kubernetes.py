"""The cluster of the sandbox: one API server for both platforms, in a namespace for each."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
from pathlib import Path
from typing import Any

import yaml

from sandbox import certificates, processes
from sandbox.faults import fault
from sandbox.home import REPOSITORY, Home, SandboxError
from sandbox.kubernetes import clock, seeds
from sandbox.kubernetes.client import Client

Object = dict[str, Any]

NAME = "kubernetes"
_STRATEGIC = "application/strategic-merge-patch+json"


def start_kubernetes(home: Home, **pace: float) -> None:
    """
    Start the cluster unless it runs; fill it when it is new; publish both platforms' connections.

    :param pace: fields of ``sandbox.kubernetes.cluster.Pace``, to make it live faster or slower.
    """
    directory = home.directory(NAME)
    port = home.port(NAME, 26443)
    tokens = home.facts(NAME).get("tokens")
    if not tokens:
        tokens = {name: secrets.token_urlsafe(24) for name in ("upkeep", "viewer")}
        home.remember(NAME, tokens=tokens)
    _write_private(
        directory / "tokens.json",
        json.dumps(
            {
                tokens["upkeep"]: {"name": "upkeep", "groups": ["system:masters"]},
                tokens["viewer"]: {"name": "viewer"},
            }
        ),
    )
    if not processes.running(home, NAME):
        certificate = certificates.issue(home, NAME, "127.0.0.1", "localhost", "kubernetes.default.svc")
        argv = [sys.executable, "-m", "sandbox.kubernetes", "--port", str(port), "--certificate", certificate]
        argv += ["--directory", directory, "--tokens", directory / "tokens.json", "--pace", json.dumps(pace)]
        processes.start(home, NAME, argv, cwd=REPOSITORY, ready=lambda: processes.listening(port))
    if not api(home).get("/api/v1/namespaces")["items"]:
        api(home).send("PATCH", "/_sandbox/metrics", {"load": seeds.LOAD})
        api(home).send("POST", "/_sandbox/objects", {"items": seeds.objects()})
    for platform, namespace in (("studyspot", seeds.STUDYSPOT), ("adaptive_learning", seeds.ADAPTIVE_LEARNING)):
        extra = {"kube_config_path": str(kubeconfig(home, namespace)), "namespace": namespace}
        home.connect(f"{platform}_kubernetes", {"conn_type": "kubernetes", "extra": extra})


def api(home: Home) -> Client:
    """For faults and tests: full rights, and the paths below ``/_sandbox/``."""
    token = home.facts(NAME)["tokens"]["upkeep"]
    return Client(f"https://127.0.0.1:{home.port(NAME)}", token, home.path / "certificates" / "ca.pem")


def kubeconfig(home: Home, namespace: str, *, user: str = "upkeep") -> Path:
    """
    Write ``kubernetes/<namespace>.kubeconfig`` and return its path.

    :param user: ``upkeep`` may do everything; ``viewer`` may look at workloads and neither write nor see secrets.
    """
    cluster = {
        "server": f"https://127.0.0.1:{home.port(NAME)}",
        "certificate-authority": str(home.path / "certificates" / "ca.pem"),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": home.facts(NAME)["tokens"][user]}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user, "namespace": namespace}}],
        "current-context": "sandbox",
    }
    suffix = "" if user == "upkeep" else f".{user}"
    target = home.directory(NAME) / f"{namespace}{suffix}.kubeconfig"
    _write_private(target, yaml.safe_dump(document, sort_keys=False))
    return target


def _write_private(target: Path, text: str) -> None:
    draft = target.with_suffix(".draft")
    draft.write_text(text)
    draft.chmod(0o600)
    draft.replace(target)


def age(home: Home, path: str, seconds: float) -> None:
    """Make an object older: its creation, and all timestamps of its status."""
    api(home).send("POST", "/_sandbox/age", {"path": path, "seconds": seconds})


def requests(home: Home) -> list[Object]:
    """The API's log: ``time, method, path, status, user`` of every request since it was last emptied."""
    return list(api(home).get("/_sandbox/requests"))


def writes(home: Home) -> list[Object]:
    """Those requests that would change something: no reads, no dry runs, no reviews of one's own rights."""
    return [
        each
        for each in requests(home)
        if each["method"] != "GET" and "dryRun=All" not in each["path"] and "accessreviews" not in each["path"]
    ]


def forget_requests(home: Home) -> None:
    api(home).send("DELETE", "/_sandbox/requests")


# -- faults ------------------------------------------------------------------------------------------------


def _deployment(namespace: str, name: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def _replace_template(home: Home, key: str, path: str, change: Object) -> None:
    """Patch a deployment's template, remembering what it was."""
    template = api(home).get(path)["spec"]["template"]
    if key not in home.facts(NAME):
        home.remember(NAME, **{key: template})
    api(home).send("PATCH", path, {"spec": {"template": change}}, media_type=_STRATEGIC)


def _put_back_template(home: Home, key: str, path: str) -> None:
    template = home.facts(NAME).get(key)
    if template is None:
        return
    patch = [{"op": "replace", "path": "/spec/template", "value": template}]
    api(home).send("PATCH", path, patch, media_type="application/json-patch+json")
    with home.change() as state:
        del state["facts"][NAME][key]


def _template_fault(name: str, doc: str, namespace: str, deployment: str, change: Object) -> None:
    path, key = _deployment(namespace, deployment), f"template before {name}"
    fault(
        name,
        doc,
        break_=lambda home: _replace_template(home, key, path, change),
        heal=lambda home: _put_back_template(home, key, path),
    )


# Six restarts already: more than the five an hour that the platform files allow.
_CRASH = {"metadata": {"annotations": {"sandbox/crash": "6"}}}
_template_fault(
    "studyspot_pod_crashloop", "a new version of studyspot-api crashes at once", "studyspot", "studyspot-api", _CRASH
)
_template_fault(
    "adaptive_learning_pod_crashloop",
    "a new version of user-service crashes at once",
    seeds.ADAPTIVE_LEARNING,
    "user-service",
    _CRASH,
)
_template_fault(
    "studyspot_image_missing",
    "a new version of studyspot-web names an image that does not exist",
    "studyspot",
    "studyspot-web",
    {"spec": {"containers": [{"name": "app", "image": "registry.example.com/studyspot/studyspot-web:broken"}]}},
)


def _pods(home: Home, app: str) -> list[str]:
    found = api(home).get(f"/api/v1/namespaces/studyspot/pods?labelSelector=app%3D{app}")["items"]
    return [f"/api/v1/namespaces/studyspot/pods/{pod['metadata']['name']}" for pod in found]


def _make_unready(home: Home) -> None:
    processes.wait_until(lambda: bool(_pods(home, "studyspot-api")), 5, "a pod of studyspot-api")
    api(home).merge(_pods(home, "studyspot-api")[0], {"metadata": {"annotations": {"sandbox/unready": "900"}}})


def _make_ready(home: Home) -> None:
    for path in _pods(home, "studyspot-api"):
        api(home).merge(path, {"metadata": {"annotations": {"sandbox/unready": None}}})


fault(
    "studyspot_pod_unready",
    "one pod of studyspot-api runs but has not been ready for 15 minutes",
    break_=_make_unready,
    heal=_make_ready,
)

_SERVICE = "/api/v1/namespaces/studyspot/services/studyspot-web"
fault(
    "studyspot_service_without_endpoints",
    "the selector of service studyspot-web matches no pod",
    break_=lambda home: api(home).merge(_SERVICE, {"spec": {"selector": {"app": "studyspot-website"}}}),
    heal=lambda home: api(home).merge(_SERVICE, {"spec": {"selector": {"app": "studyspot-web"}}}),
)


_WEB = "/apis/apps/v1/namespaces/studyspot/deployments/studyspot-web"


def _remember_scaling(home: Home, memory: str | None) -> None:
    api(home).merge(_WEB, {"metadata": {"annotations": {"upkeep.dev/before-scaling": memory}}})


fault(
    "studyspot_scaling_overdue",
    "studyspot-web was scaled up for a while that ended an hour ago, and nobody put it back",
    break_=lambda home: _remember_scaling(home, json.dumps({"was": 1, "now": 2, "until": clock.ago(3600)})),
    heal=lambda home: _remember_scaling(home, None),
)


def _set_node(home: Home, kind: str, status: str, reason: str) -> None:
    """What the kubelet or the node controller would report of node-2."""
    path = "/api/v1/nodes/node-2"
    node = api(home).get(path)
    kept = [each for each in node["status"]["conditions"] if each["type"] != kind]
    conditions = [*kept, seeds.node_condition(kind, status, reason, clock.ago(600))]
    api(home).merge(f"{path}/status", {"status": {"conditions": conditions}})


fault(
    "studyspot_node_not_ready",
    "the kubelet of node-2 has stopped posting its status",
    break_=lambda home: _set_node(home, "Ready", "Unknown", "NodeStatusUnknown"),
    heal=lambda home: _set_node(home, "Ready", "True", "KubeletReady"),
)
fault(
    "studyspot_node_disk_pressure",
    "node-2 is short of disk and evicts pods",
    break_=lambda home: _set_node(home, "DiskPressure", "True", "KubeletHasDiskPressure"),
    heal=lambda home: _set_node(home, "DiskPressure", "False", "KubeletHasNoDiskPressure"),
)


FLOOD = 60


def _pile_up(home: Home) -> None:
    api(home).send("POST", "/_sandbox/objects", {"items": seeds.flood(FLOOD)})


def _clear_away(home: Home) -> None:
    jobs = "/apis/batch/v1/namespaces/studyspot/jobs"
    for job in api(home).get(jobs)["items"]:
        if job["metadata"]["name"].startswith(seeds.FLOOD):
            api(home).send("DELETE", f"{jobs}/{job['metadata']['name']}")


fault(
    "studyspot_jobs_flood",
    f"{FLOOD} finished Jobs at once, all due: more than the standing yes to their deletion covers",
    break_=_pile_up,
    heal=_clear_away,
)


def _metrics_fault(name: str, doc: str, broken: Object, healed: Object) -> None:
    fault(
        name,
        doc,
        break_=lambda home: api(home).send("PATCH", "/_sandbox/metrics", broken),
        heal=lambda home: api(home).send("PATCH", "/_sandbox/metrics", healed),
    )


_metrics_fault(
    "studyspot_node_busy",
    "node-2 uses 97 % of its allocatable CPU",
    {"nodes": {"node-2": {"cpu": "3783m"}}},
    {"nodes": {"node-2": {"cpu": None}}},
)
_metrics_fault(
    "studyspot_image_gc",
    "the kubelet of node-2 collects images between 95 and 98 % of its disk only",
    {"nodes": {"node-2": {"configz": {"imageGCHighThresholdPercent": 98, "imageGCLowThresholdPercent": 95}}}},
    {"nodes": {"node-2": {"configz": None}}},
)
_metrics_fault(
    "kubernetes_metrics_missing", "there is no metrics-server", {"available": "missing"}, {"available": "yes"}
)

fault(
    "kubernetes_down",
    "the Kubernetes API is stopped",
    break_=lambda home: processes.stop(home, NAME),
    heal=start_kubernetes,
)


def _unhang(home: Home) -> None:
    # Stopped meanwhile: the script is gone with the process.
    if processes.running(home, NAME):
        with contextlib.suppress(SandboxError):
            api(home).send("DELETE", "/_sandbox/faults?name=kubernetes_hangs")


fault(
    "kubernetes_hangs",
    "the Kubernetes API accepts requests and never answers",
    break_=lambda home: api(home).send("POST", "/_sandbox/faults", {"name": "kubernetes_hangs", "hang": True}),
    heal=_unhang,
)
