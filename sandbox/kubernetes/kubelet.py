"""The kubelets of all nodes: they start pods, tell how these are, and end them.

Annotations of a pod (or of a workload's template) make it ill; they are looked at all the time:

==========================  ======================================================================================
``sandbox/crash``           its first container exits with 1 again and again; a number starts the count of restarts
``sandbox/oom``             the same, killed for memory (``OOMKilled``, 137)
``sandbox/unready``         runs, but is not ready; a number: for that many seconds already
``sandbox/ready-after``     seconds until it is ready
``sandbox/stop-seconds``    seconds that it takes to end
``sandbox/log``             what its log says
==========================  ======================================================================================

An image whose tag is ``broken`` cannot be pulled.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.kubernetes import clock, containers
from sandbox.kubernetes.conditions import is_finished, is_terminating, made, node_ready
from sandbox.kubernetes.events import record
from sandbox.kubernetes.resources import NODES, PODS
from sandbox.kubernetes.store import Store

Object = dict[str, Any]

CRASH, OOM, UNREADY = "sandbox/crash", "sandbox/oom", "sandbox/unready"
ILLNESSES = {CRASH, OOM, UNREADY, "sandbox/ready-after"}
_RUNS_BEFORE_CRASH_S = 0.2
_LONGEST_BACKOFF_S = 300.0


@dataclass
class Run:
    """What a kubelet knows of one pod besides its status."""

    since: float = field(default_factory=time.monotonic)
    """Monotonic time of the pod's start, or of the last restart."""

    process: containers.Process | None = None
    restarts: int = 0
    started_at: str = field(default_factory=clock.now)
    last: Object = field(default_factory=dict)
    """``lastState`` of the first container."""

    resumes_at: float | None = None
    """Monotonic time at which the back-off ends; None while the container runs."""

    stopping: float | None = None
    address: str = ""

    steady: tuple[str, str] | None = None
    """Versions of pod and node at which nothing is left to happen by itself."""

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.since


class Kubelets:
    """One object for all nodes; ``sync`` brings every pod one step further."""

    def __init__(self, store: Store, logs: Path, *, start_s: float, backoff_s: float) -> None:
        """
        :param start_s: seconds from the binding of a pretended pod to its readiness.
        :param backoff_s: first pause of a crashing container; it doubles up to five minutes (10 s in real life).
        """
        self.store = store
        self.logs = logs
        self.start_s = start_s
        self.backoff_s = backoff_s
        self._runs: dict[str, Run] = {}
        self._addresses = 0

    def sync(self) -> None:
        pods = self.store.all(PODS)
        for pod in pods:
            if is_terminating(pod):
                self._end(pod)
            elif pod["spec"].get("nodeName") and not is_finished(pod):
                self._advance(pod)
        alive = {pod["metadata"]["uid"] for pod in pods}
        for uid in self._runs.keys() - alive:
            self._forget(uid)

    def stop(self) -> None:
        """End every process."""
        for run in self._runs.values():
            if run.process:
                run.process.end()

    # -- the life of a pod ---------------------------------------------------------------------------------

    def _advance(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._runs:
            self._runs[uid] = self._adopted(pod)
        run = self._runs[uid]
        node = self.store.find(NODES, None, pod["spec"]["nodeName"])
        versions = (_version(pod), _version(node))
        if run.steady == versions:
            return
        broken = next((each for each in pod["spec"]["containers"] if each["image"].endswith(":broken")), None)
        if broken:
            state = self._unpulled(pod, run, broken)
        elif run.elapsed < self.start_s and not run.restarts and not run.process:
            state = {"waiting": {"reason": "ContainerCreating"}}
        elif pod["spec"]["restartPolicy"] == "Always":
            state = self._pretend(pod, run)
        else:
            state = self._really_run(pod, run)
        reported = self._report(pod, run, state, node)
        idle = "running" in state and run.process is None and reported is pod
        run.steady = versions if idle and not ILLNESSES & (pod["metadata"].get("annotations") or {}).keys() else None

    def _adopted(self, pod: Object) -> Run:
        """A pod seen for the first time, or for the first time since the server was started again."""
        run = Run(address=pod["status"].get("podIP") or self._address())
        statuses = pod["status"].get("containerStatuses") or []
        if statuses and pod["status"]["phase"] == "Running":
            run.restarts = statuses[0]["restartCount"]
            run.last = statuses[0].get("lastState") or {}
            run.since -= 3600
            run.started_at = (statuses[0]["state"].get("running") or {}).get("startedAt") or clock.now()
        return run

    def _address(self) -> str:
        taken = {pod["status"].get("podIP") for pod in self.store.all(PODS)}
        while True:
            self._addresses += 1
            address = f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}"
            if address not in taken:
                return address

    def _unpulled(self, pod: Object, run: Run, container: Object) -> Object:
        image = container["image"]
        self._tell(pod, "Warning", "Failed", f'Failed to pull image "{image}": not found', once=True)
        if run.elapsed < self.backoff_s:
            return {"waiting": {"reason": "ErrImagePull", "message": f"{image}: not found"}}
        return {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}

    def _pretend(self, pod: Object, run: Run) -> Object:
        notes = pod["metadata"].get("annotations") or {}
        if not run.last and run.elapsed >= self.start_s and not (self._log(pod, run)).exists():
            self._started(pod, run, notes.get("sandbox/log", "started"))
        crash, oom = notes.get(CRASH, ""), notes.get(OOM, "")
        if not (crash or oom):
            run.resumes_at = None
            return {"running": {"startedAt": run.started_at}}
        if run.resumes_at is None:
            if run.elapsed < self.start_s + _RUNS_BEFORE_CRASH_S:
                return {"running": {"startedAt": run.started_at}}
            if not run.last and (crash or oom).isdigit():
                run.restarts = int(crash or oom)
            code, reason = (137, "OOMKilled") if oom else (1, "Error")
            containers.say(self._log(pod, run), notes.get("sandbox/log", "fatal: cannot go on"))
            self._crashed(pod, run, code, reason)
        return self._backing_off(pod, run)

    def _really_run(self, pod: Object, run: Run) -> Object:
        deadline = pod["spec"].get("activeDeadlineSeconds")
        if run.resumes_at is not None:
            state = self._backing_off(pod, run)
            if "running" not in state:
                return state
        if run.process is None:
            if pod["status"]["phase"] == "Running" and not run.restarts:
                # Its process died with the server that had started it.
                return _ended(137, "ContainerStatusUnknown", run, "The container could not be located")
            try:
                run.process = containers.start(self.store, self.logs, pod, run.restarts)
            except LookupError as missing:
                return {"waiting": {"reason": "CreateContainerConfigError", "message": str(missing)}}
            except OSError as error:
                containers.say(self._log(pod, run), f"exec: {error}")
                return _ended(128, "StartError", run, str(error))
            run.started_at = clock.now()
            self._started(pod, run, None)
        if deadline and clock.seconds_since(pod["status"].get("startTime") or run.started_at) > deadline:
            run.process.end()
            return _ended(137, "DeadlineExceeded", run)
        code = run.process.exit_code()
        if code is None:
            return {"running": {"startedAt": run.started_at}}
        if code and pod["spec"]["restartPolicy"] == "OnFailure":
            run.process = None
            self._crashed(pod, run, code, "Error")
            return self._backing_off(pod, run)
        return _ended(code, "Completed" if code == 0 else "Error", run)

    def _crashed(self, pod: Object, run: Run, code: int, reason: str) -> None:
        run.last = _ended(code, reason, run)
        run.resumes_at = time.monotonic() + min(self.backoff_s * 2**run.restarts, _LONGEST_BACKOFF_S)
        name = pod["spec"]["containers"][0]["name"]
        message = f"Back-off restarting failed container {name} in pod {pod['metadata']['name']}"
        self._tell(pod, "Warning", "BackOff", message)

    def _backing_off(self, pod: Object, run: Run) -> Object:
        if run.resumes_at is not None and time.monotonic() >= run.resumes_at:
            run.restarts += 1
            run.resumes_at = None
            run.since, run.started_at = time.monotonic() - self.start_s, clock.now()
            return {"running": {"startedAt": run.started_at}}
        name = pod["metadata"]["name"]
        message = f"back-off restarting failed container={pod['spec']['containers'][0]['name']} pod={name}"
        return {"waiting": {"reason": "CrashLoopBackOff", "message": message}}

    def _started(self, pod: Object, run: Run, line: str | None) -> None:
        if line is not None:
            containers.say(self._log(pod, run), line)
        name = pod["spec"]["containers"][0]["name"]
        self._tell(pod, "Normal", "Started", f"Started container {name}")

    def _log(self, pod: Object, run: Run) -> Path:
        return containers.log_path(self.logs, pod, pod["spec"]["containers"][0]["name"], run.restarts)

    def _tell(self, pod: Object, kind: str, reason: str, message: str, *, once: bool = False) -> None:
        if once and pod["status"].get("containerStatuses"):
            return
        record(self.store, pod, kind, reason, message, component="kubelet")

    # -- the end of a pod ----------------------------------------------------------------------------------

    def _end(self, pod: Object) -> None:
        metadata = pod["metadata"]
        run = self._runs.setdefault(metadata["uid"], Run())
        grace = float(metadata.get("deletionGracePeriodSeconds", 30))
        node = self.store.find(NODES, None, pod["spec"].get("nodeName") or "")
        if grace and node and not node_ready(node):
            return
        if run.stopping is None:
            run.stopping = time.monotonic()
            self._tell(pod, "Normal", "Killing", f"Stopping container {pod['spec']['containers'][0]['name']}")
            if run.process:
                run.process.signal(signal.SIGTERM)
        waited = time.monotonic() - run.stopping
        if run.process:
            if run.process.exit_code() is None and waited < grace:
                return
        elif waited < min(grace, float((metadata.get("annotations") or {}).get("sandbox/stop-seconds", 0.1))):
            return
        if metadata.get("finalizers"):
            return
        self._forget(metadata["uid"])
        shutil.rmtree(containers.log_directory(self.logs, metadata), ignore_errors=True)
        self.store.remove(PODS, pod)

    def _forget(self, uid: str) -> None:
        run = self._runs.pop(uid, None)
        if run and run.process:
            run.process.end()

    # -- the status ----------------------------------------------------------------------------------------

    def _report(self, pod: Object, run: Run, state: Object, node: Object | None) -> Object:
        first, *others = pod["spec"]["containers"]
        terminated = state.get("terminated")
        running = "running" in state
        ready = running and self._is_ready(pod, run)
        statuses = [_container(first, state, run, ready)]
        for other in others:
            same = {"terminated": {**terminated, "exitCode": 0, "reason": "Completed"}} if terminated else state
            statuses.append({**_container(other, same, run, running), "restartCount": 0, "lastState": {}})
        old = pod["status"]
        phase = "Pending"
        if terminated:
            phase = "Succeeded" if terminated["exitCode"] == 0 else "Failed"
        elif running or run.restarts or run.last:
            phase = "Running"
        before = old.get("conditions") or []
        reason = "PodCompleted" if phase == "Succeeded" else "" if ready else "ContainersNotReady"
        unready = f"containers with unready status: [{first['name']}]" if reason == "ContainersNotReady" else ""
        pod_ready = ready and node_ready(node)
        conditions = [
            made(before, "PodReadyToStartContainers", phase == "Running"),
            made(before, "Initialized", True, reason if phase == "Succeeded" else ""),
            self._backdated(pod, made(before, "Ready", pod_ready, reason, unready)),
            made(before, "ContainersReady", ready, reason, unready),
            made(before, "PodScheduled", True),
        ]
        status = {
            **old,
            "phase": phase,
            "conditions": conditions,
            "containerStatuses": statuses,
            "startTime": old.get("startTime") or clock.now(),
            "hostIP": _host_ip(node),
            "hostIPs": [{"ip": _host_ip(node)}],
            "podIP": run.address,
            "podIPs": [{"ip": run.address}],
        }
        if terminated and terminated["reason"] == "DeadlineExceeded":
            status["reason"], status["message"] = "DeadlineExceeded", "Pod was active on the node longer than allowed"
        if pod["spec"].get("initContainers"):
            status["initContainerStatuses"] = [_initialized(each, old) for each in pod["spec"]["initContainers"]]
        return self.store.set_status(PODS, pod, status)

    def _is_ready(self, pod: Object, run: Run) -> bool:
        notes = pod["metadata"].get("annotations") or {}
        if UNREADY in notes:
            return False
        return run.elapsed >= self.start_s + float(notes.get("sandbox/ready-after", 0)) or pod["spec"][
            "restartPolicy"
        ] in ("Never", "OnFailure")

    def _backdated(self, pod: Object, ready: Object) -> Object:
        """``sandbox/unready: "600"`` is not ready for ten minutes already."""
        seconds = (pod["metadata"].get("annotations") or {}).get(UNREADY, "")
        with contextlib.suppress(ValueError):
            if ready["status"] == "False" and clock.seconds_since(ready["lastTransitionTime"]) < float(seconds):
                return {**ready, "lastTransitionTime": clock.ago(float(seconds) + 1)}
        return ready


def _ended(code: int, reason: str, run: Run, message: str = "") -> Object:
    ended = {"exitCode": code, "reason": reason, "startedAt": run.started_at, "finishedAt": clock.now()}
    return {"terminated": {**ended, "message": message} if message else ended}


def digest(image: str) -> str:
    """The digest a registry would give: the one in the name, or one made of the name, always the same."""
    return image.partition("@")[2] or "sha256:" + hashlib.sha256(image.encode()).hexdigest()


def _container(container: Object, state: Object, run: Run, ready: bool) -> Object:
    pulled = "waiting" not in state or bool(run.restarts or run.last)
    repository = container["image"].partition("@")[0]
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{repository.rpartition(':')[0] or repository}@{digest(container['image'])}" if pulled else "",
        "containerID": f"containerd://{hashlib.sha256(run.started_at.encode()).hexdigest()}" if pulled else "",
        "ready": ready,
        "started": "running" in state,
        "restartCount": run.restarts,
        "state": state,
        "lastState": run.last,
    }


def _initialized(container: Object, old: Object) -> Object:
    moment = old.get("startTime") or clock.now()
    done = {"exitCode": 0, "reason": "Completed", "startedAt": moment, "finishedAt": moment}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "state": {"terminated": done},
        "lastState": {},
    }


def _version(obj: Object | None) -> str:
    return str(obj["metadata"]["resourceVersion"]) if obj else ""


def _host_ip(node: Object | None) -> str:
    addresses = ((node or {}).get("status") or {}).get("addresses") or []
    return next((each["address"] for each in addresses if each["type"] == "InternalIP"), "127.0.0.1")
