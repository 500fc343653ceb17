"""Do the kubelets collect unused images when they should, and does it help?

Nothing is pruned from here: on a node only its kubelet knows which images are in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.health.kubernetes import Api, NotAnswered
from upkeep.platforms.services import Kubernetes

CHECK = "image_gc"
SEVERITY = Severity.P3
AT_ONCE = 8
"""Nodes asked at the same time."""

Object = Mapping[str, Any]


def look(settings: Kubernetes, api: Api) -> list[Outcome]:
    """
    Compare each kubelet's thresholds with the platform file's, and its image file system with the higher one.

    One outcome for all nodes; one per node when some could not be asked, so that those are ``unknown`` and no more.
    """
    try:
        nodes = sorted(node["metadata"]["name"] for node in api.items("/api/v1/nodes"))
    except NotAnswered as refused:
        return [unknown(CHECK, SEVERITY, _why(refused, "list nodes"))]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as threads:
        asked = list(threads.map(lambda node: _ask(settings, api, node), nodes))
    seen = {node: answer for node, answer in zip(nodes, asked, strict=True) if not isinstance(answer, NotAnswered)}
    silent = {node: answer for node, answer in zip(nodes, asked, strict=True) if isinstance(answer, NotAnswered)}
    if not silent:
        findings = [finding for found, _ in seen.values() for finding in found]
        return [judged(CHECK, SEVERITY, findings, nodes={node: facts for node, (_, facts) in seen.items()})]
    if not seen:
        first = next(iter(silent.values()))
        return [unknown(CHECK, SEVERITY, f"{_why(first, 'get nodes/proxy')} ({len(silent)} nodes)")]
    return [
        *(judged(CHECK, SEVERITY, found, object=node, node=facts) for node, (found, facts) in seen.items()),
        *(unknown(CHECK, SEVERITY, _why(why, "get nodes/proxy"), object=node) for node, why in silent.items()),
    ]


def _why(refused: NotAnswered, right: str) -> str:
    return f"{refused.reason}; the role needs `{right}`" if refused.status == 403 else refused.reason


def _ask(settings: Kubernetes, api: Api, node: str) -> tuple[list[Finding], dict[str, Any]] | NotAnswered:
    proxy = f"/api/v1/nodes/{node}/proxy"
    try:
        kubelet = api.get(f"{proxy}/configz").get("kubeletconfig") or {}
        stats = api.get(f"{proxy}/stats/summary").get("node") or {}
    except NotAnswered as refused:
        return refused
    # A kubelet that says nothing has Kubernetes' defaults.
    low = kubelet.get("imageGCLowThresholdPercent", 80) / 100
    high = kubelet.get("imageGCHighThresholdPercent", 85) / 100
    filesystem = (stats.get("runtime") or {}).get("imageFs") or {}
    capacity, free = filesystem.get("capacityBytes"), filesystem.get("availableBytes")
    used = 1 - free / capacity if capacity and free is not None else None
    facts = {
        "low": low,
        "high": high,
        "used_share": None if used is None else round(used, 4),
        "images_bytes": filesystem.get("usedBytes"),
        "log_max_size": kubelet.get("containerLogMaxSize"),
        "log_max_files": kubelet.get("containerLogMaxFiles"),
    }
    wrong: list[tuple[Severity, str, str]] = []
    wanted_low, wanted_high = settings.image_gc
    if (round(low, 4), round(high, 4)) != (round(wanted_low, 4), round(wanted_high, 4)):
        wrong.append(
            (
                SEVERITY,
                f"images are collected from {high:.0%} down to {low:.0%}, not {wanted_high:.0%} to {wanted_low:.0%}",
                "Set imageGCLowThresholdPercent and imageGCHighThresholdPercent in the kubelet's configuration.",
            )
        )
    if used is not None and used > wanted_high:
        wrong.append(
            (
                Severity.P2,
                f"the images' file system is {used:.0%} full, above the {wanted_high:.0%} where collecting begins",
                "Collecting does not keep up, or other files fill it: look at the node's kubelet log and its disk.",
            )
        )
    if not wrong:
        return [], facts
    finding = Finding(
        check=CHECK,
        object=node,
        severity=min((how_bad for how_bad, _, _ in wrong), key=lambda how_bad: how_bad.rank),
        summary="; ".join(summary for _, summary, _ in wrong),
        hint=" ".join(hint for _, _, hint in wrong),
        facts=facts,
    )
    return [finding], facts
