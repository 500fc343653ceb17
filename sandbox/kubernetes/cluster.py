"""The whole cluster: store, controllers and kubelets in one loop, and the file that keeps them."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.kubernetes.access import Access
from sandbox.kubernetes.autoscaling import Autoscaler, sync_budgets
from sandbox.kubernetes.deployments import sync_deployments
from sandbox.kubernetes.endpoints import sync_endpoints
from sandbox.kubernetes.faults import Faults
from sandbox.kubernetes.kubelet import Kubelets
from sandbox.kubernetes.metrics import Settings
from sandbox.kubernetes.replicas import sync_replica_sets
from sandbox.kubernetes.resources import CLAIMS, NAMESPACES, RESOURCES
from sandbox.kubernetes.scheduler import schedule
from sandbox.kubernetes.store import Store
from sandbox.kubernetes.workloads import sync_daemon_sets, sync_jobs, sync_stateful_sets

Object = dict[str, Any]

_TICK_S = 0.1
_SAVE_S = 2.0
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Pace:
    """How fast this cluster lives; real ones are slower."""

    start_s: float = 0.3
    """From a pod's binding to its readiness."""

    backoff_s: float = 0.5
    """First pause of a crashing container; 10 s in real clusters."""

    autoscale_s: float = 2.0
    """Between two rounds of the HPAs; 15 s in real clusters."""

    bookmark_s: float = 5.0
    """Between two bookmarks of a watch; about a minute in real clusters."""


class Cluster:
    """One cluster in ``directory``: ``state.json`` and the logs of its containers."""

    def __init__(self, directory: Path, access: Access, pace: Pace) -> None:
        self.directory = directory
        self.access = access
        self.pace = pace
        self.store = Store()
        self.settings = Settings()
        self.faults = Faults()
        self.paused: set[str] = set()
        """Names of controllers that stand still: a generation that nobody observes."""
        self.logs = directory / "logs"
        self.kubelets = Kubelets(self.store, self.logs, start_s=pace.start_s, backoff_s=pace.backoff_s)
        self._autoscaler = Autoscaler(self.store, self.settings)
        self._settled, self._settled_at = 0, 0.0
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._run, name="controllers", daemon=True)
        self._controllers: dict[str, Callable[[], None]] = {
            "namespaces": self._sync_namespaces,
            "jobs": lambda: sync_jobs(self.store),
            "statefulsets": lambda: sync_stateful_sets(self.store),
            "daemonsets": lambda: sync_daemon_sets(self.store),
            "deployments": lambda: sync_deployments(self.store),
            "replicasets": lambda: sync_replica_sets(self.store),
            "scheduler": lambda: schedule(self.store),
            "endpoints": lambda: sync_endpoints(self.store),
            "budgets": lambda: sync_budgets(self.store),
            "claims": self._bind_claims,
        }

    # -- running -------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            kept = json.loads(self._file.read_text())
            self.store.load(kept["store"])
            for name, value in kept["settings"].items():
                setattr(self.settings, name, value)
        self._loop.start()

    def stop(self) -> None:
        """End the controllers and all processes, and keep the state."""
        self._stopping.set()
        self._loop.join()
        self.kubelets.stop()
        self.save()

    def _run(self) -> None:
        saved, saved_at, autoscaled_at = self.store.version, time.monotonic(), 0.0
        while not self._stopping.is_set():
            with self.store.lock:
                self._step("kubelets", self.kubelets.sync)
                if time.monotonic() - autoscaled_at >= self.pace.autoscale_s:
                    autoscaled_at = time.monotonic()
                    self._step("autoscalers", self._autoscaler.sync)
                self._settle()
            if self.store.version != saved and time.monotonic() - saved_at > _SAVE_S:
                saved, saved_at = self.store.version, time.monotonic()
                self.save()
            self._stopping.wait(_TICK_S)

    def _settle(self) -> None:
        """Let the controllers answer each other until nothing changes; each sees what the others did."""
        now = time.monotonic()
        # What waits for time alone (deadlines, minReadySeconds) is looked at once a second.
        if self.store.version == self._settled and now - self._settled_at < 1.0:
            return
        for _ in range(_ROUNDS):
            before = self.store.version
            for name, sync in self._controllers.items():
                self._step(name, sync)
            if self.store.version == before:
                break
        self._settled, self._settled_at = self.store.version, now

    def _step(self, name: str, sync: Callable[[], None]) -> None:
        """One controller's crash must not stop the others; the log tells."""
        if name in self.paused:
            return
        try:
            sync()
        except Exception:
            print(f"controller {name}:", file=sys.stderr)
            traceback.print_exc()

    @property
    def _file(self) -> Path:
        return self.directory / "state.json"

    def save(self) -> None:
        kept = {"store": self.store.dump(), "settings": dataclasses.asdict(self.settings)}
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps(kept))
        draft.replace(self._file)

    # -- the smallest controllers --------------------------------------------------------------------------

    def _sync_namespaces(self) -> None:
        for namespace in self.store.all(NAMESPACES):
            if "deletionTimestamp" not in namespace["metadata"]:
                continue
            left = 0
            for resource in RESOURCES.values():
                for obj in self.store.all(resource, namespace["metadata"]["name"]) if resource.namespaced else []:
                    left += 1
                    if "deletionTimestamp" not in obj["metadata"]:
                        self.store.delete(resource, obj)
            if not left:
                self.store.remove(NAMESPACES, namespace)

    def _bind_claims(self) -> None:
        for claim in self.store.all(CLAIMS):
            if not (claim.get("status") or {}).get("phase"):
                spec = claim["spec"]
                capacity = dict((spec.get("resources") or {}).get("requests") or {})
                status = {"phase": "Bound", "accessModes": spec.get("accessModes", []), "capacity": capacity}
                self.store.set_status(CLAIMS, claim, status)
