"""Is every topic kept as long as the policy says and no longer, and is any larger than it may be?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from upkeep.cleanup.log_dirs import LogDir, describe_log_dirs
from upkeep.errors import UpkeepError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.kafka import PATIENCE_S, Admin, AskFailed, connect, within
from upkeep.platforms.base import format_duration
from upkeep.platforms.services import Kafka, TopicPolicy

RETENTION, LOG_DIRS = "kafka_retention", "kafka_log_dirs"
DRIFT_SEVERITY = Severity.P3
"""Disks fill and data outlives its purpose within weeks, not tonight."""

UNKNOWN_TOPIC_SEVERITY = Severity.P4

_REST_S = 1.5
"""For configurations and log directories, after the metadata came."""

_OWN = 1
"""``DYNAMIC_TOPIC_CONFIG``: set on the topic itself, not by a broker or by Kafka's default."""


@dataclass(frozen=True)
class Kept:
    """What a topic's configuration says."""

    retention_ms: int
    """-1 is for ever."""

    own: bool
    """Set on the topic; otherwise the brokers' default holds, and changes with them."""

    cleanup: str
    """``delete``, ``compact`` or both."""


def look(settings: Kafka, config: Mapping[str, Any], *, timeout_s: float = 3.0) -> list[Outcome]:
    """
    Compare every topic with its policy; changes nothing. Returns within ``timeout_s`` plus 1.5 s.

    Outcomes: ``kafka_retention`` (findings by topic, ``unmatched_topics``, ``unused_policies``) and ``kafka_log_dirs``
    (findings by topic that is too large, and ``broker/path`` of a directory that failed). A topic or broker that could
    not be asked has an unknown of its own. Topics whose names begin with ``_`` are Kafka's and its tools' own.
    """
    deadline = time.monotonic() + timeout_s + _REST_S
    try:
        admin = connect(config)
        metadata = admin.metadata(timeout_s)
    except UpkeepError as wrong:
        return [
            unknown(RETENTION, DRIFT_SEVERITY, wrong.message),
            unknown(LOG_DIRS, DRIFT_SEVERITY, wrong.message, explained_by=RETENTION),
        ]
    names = sorted(name for name, topic in metadata.topics.items() if topic.error is None and name[:1] != "_")
    matched = {name: policy for name in names if (policy := policy_of(settings.topics, name))}
    brokers = {id: (broker.host, broker.port) for id, broker in metadata.brokers.items()}
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(brokers)))) as threads:
        asked = {id: threads.submit(_log_dirs_of, *address, config, deadline) for id, address in brokers.items()}
        retention = _retention(settings, admin, names, matched, deadline)
        told = {id: future.result() for id, future in asked.items()}
    return [*retention, *_sizes(settings, matched, told)]


def policy_of(policies: Iterable[TopicPolicy], topic: str) -> TopicPolicy | None:
    """The first that matches."""
    return next((policy for policy in policies if fnmatchcase(topic, policy.pattern)), None)


# -- retention -----------------------------------------------------------------------------------------------


def _retention(
    settings: Kafka, admin: Admin, names: list[str], matched: Mapping[str, TopicPolicy], deadline: float
) -> list[Outcome]:
    findings = list(_strays(settings, names, matched))
    kept = _kept(admin, list(matched), deadline)
    facts: dict[str, Any] = {"topics": len(names), "matched": len(matched)}
    unread = {name: found for name, found in kept.items() if isinstance(found, str)}
    by_topic = {
        name: finding
        for name, found in kept.items()
        if isinstance(found, Kept) and (finding := _drift(name, found, matched[name]))
    }
    findings += by_topic.values()
    if not unread:
        return [judged(RETENTION, DRIFT_SEVERITY, findings, **facts)]
    # Speaking for the whole check would call repaired what merely could not be read.
    outcomes = [judged(RETENTION, finding.severity, [finding], object=finding.object) for finding in findings]
    outcomes += [
        ok(RETENTION, DRIFT_SEVERITY, object=name) for name in kept if name not in unread and name not in by_topic
    ]
    outcomes += [unknown(RETENTION, DRIFT_SEVERITY, reason, object=name) for name, reason in unread.items()]
    return outcomes


def _kept(admin: Admin, names: list[str], deadline: float) -> dict[str, Kept | str]:
    """By topic: its configuration, or why it could not be read."""
    if not names:
        return {}
    resource = admin.api.ConfigResource
    asked = admin.client.describe_configs(
        [resource(resource.Type.TOPIC, name) for name in names], request_timeout=PATIENCE_S
    )
    kept: dict[str, Kept | str] = {}
    for described, future in asked.items():
        try:
            configs = within(future, deadline - time.monotonic())
        except AskFailed as failed:
            kept[described.name] = failed.reason
            continue
        retention = configs["retention.ms"]
        kept[described.name] = Kept(int(retention.value), retention.source == _OWN, configs["cleanup.policy"].value)
    return kept


def _drift(topic: str, kept: Kept, policy: TopicPolicy) -> Finding | None:
    wanted_ms = round(policy.keep.total_seconds() * 1000)
    says = f"the policy says {format_duration(policy.keep)}"
    if "delete" not in kept.cleanup:
        summary = f"topic {topic} is only compacted, so its messages never age out; {says}"
    elif kept.retention_ms < 0:
        summary = f"topic {topic} keeps its messages for ever; {says}"
    elif kept.retention_ms > wanted_ms:
        summary = f"topic {topic} keeps its messages for {_long(kept.retention_ms)}; {says}"
    elif not kept.own:
        summary = (
            f"topic {topic} has no retention of its own (the brokers' default is {_long(kept.retention_ms)}); {says}"
        )
    else:
        return None
    change: dict[str, tuple[str | None, str]] = {
        "retention.ms": (str(kept.retention_ms) if kept.own else None, str(wanted_ms))
    }
    if "delete" not in kept.cleanup:
        change["cleanup.policy"] = (kept.cleanup, "compact,delete")
    new = ",".join(f"{key}=[{value}]" if "," in value else f"{key}={value}" for key, (_, value) in change.items())
    return Finding(
        check=RETENTION,
        object=topic,
        severity=DRIFT_SEVERITY,
        summary=summary,
        hint=f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {new}",
        facts={
            "retention_ms": kept.retention_ms,
            "own": kept.own,
            "cleanup_policy": kept.cleanup,
            "policy_ms": wanted_ms,
            "change": {key: list(values) for key, values in change.items()},
        },
    )


def _long(milliseconds: int) -> str:
    return format_duration(timedelta(milliseconds=milliseconds))


def _strays(settings: Kafka, names: list[str], matched: Mapping[str, TopicPolicy]) -> Iterator[Finding]:
    unmatched = [name for name in names if name not in matched]
    if unmatched and settings.topics:
        yield Finding(
            check=RETENTION,
            object="unmatched_topics",
            severity=UNKNOWN_TOPIC_SEVERITY,
            summary=f"{len(unmatched)} of {len(names)} topics match no policy: {', '.join(unmatched[:10])}"
            + (" …" if len(unmatched) > 10 else ""),
            hint="give them a line in kafka.topics of the platform file, or delete them.",
            facts={"topics": unmatched},
        )
    unused = [p.pattern for p in settings.topics if not any(fnmatchcase(name, p.pattern) for name in names)]
    if unused:
        yield Finding(
            check=RETENTION,
            object="unused_policies",
            severity=UNKNOWN_TOPIC_SEVERITY,
            summary=f"{len(unused)} topic policies match no topic: {', '.join(unused[:10])}",
            hint="mend the pattern in kafka.topics of the platform file; an empty match guards nothing.",
            facts={"patterns": unused},
        )


# -- sizes ---------------------------------------------------------------------------------------------------


def _log_dirs_of(host: str, port: int, config: Mapping[str, Any], deadline: float) -> list[LogDir] | UpkeepError:
    try:
        return describe_log_dirs(host, port, config, deadline)
    except UpkeepError as wrong:
        return wrong


def _sizes(
    settings: Kafka, matched: Mapping[str, TopicPolicy], told: Mapping[int, list[LogDir] | UpkeepError]
) -> list[Outcome]:
    dirs = {id: found for id, found in told.items() if not isinstance(found, UpkeepError)}
    silent = {id: found for id, found in told.items() if isinstance(found, UpkeepError)}
    largest: dict[tuple[str, int], int] = {}
    on_disk: dict[str, int] = {}
    for found in dirs.values():
        for log_dir in found:
            for (topic, index), size in log_dir.bytes.items():
                largest[topic, index] = max(largest.get((topic, index), 0), size)
                on_disk[topic] = on_disk.get(topic, 0) + size
    sizes: dict[str, int] = {}
    for (topic, _), size in largest.items():
        sizes[topic] = sizes.get(topic, 0) + size
    findings = [*_failed(settings, dirs), *_too_large(matched, sizes, on_disk)]
    facts: dict[str, Any] = {"bytes": sizes, "bytes_with_replicas": on_disk}
    if not silent:
        return [judged(LOG_DIRS, DRIFT_SEVERITY, findings, **facts)]
    reason = "; ".join(f"broker {id}: {wrong.message}" for id, wrong in silent.items())
    # A broker that is silent is for kafka_brokers to page about; here it only means that sizes are not known.
    return [
        unknown(LOG_DIRS, DRIFT_SEVERITY, reason, **facts),
        *(judged(LOG_DIRS, finding.severity, [finding], object=finding.object) for finding in findings),
    ]


def _failed(settings: Kafka, dirs: Mapping[int, list[LogDir]]) -> Iterator[Finding]:
    for id, found in sorted(dirs.items()):
        for log_dir in found:
            if log_dir.error:
                yield Finding(
                    check=LOG_DIRS,
                    object=f"{id}{log_dir.path}",
                    severity=settings.severity,
                    summary=f"log directory {log_dir.path} of broker {id} is offline (error {log_dir.error})",
                    hint="its disk failed or is full: see the broker's log; the partitions in it have a replica less.",
                    facts={"broker": id, "path": log_dir.path, "error": log_dir.error},
                )


def _too_large(
    matched: Mapping[str, TopicPolicy], sizes: Mapping[str, int], on_disk: Mapping[str, int]
) -> Iterator[Finding]:
    for topic, policy in matched.items():
        size = sizes.get(topic, 0)
        if policy.size is not None and size > policy.size:
            yield Finding(
                check=LOG_DIRS,
                object=topic,
                severity=DRIFT_SEVERITY,
                summary=f"topic {topic} holds {size:,} bytes; the policy allows {int(policy.size):,}",
                hint="shorten its retention, or raise the size in kafka.topics of the platform file.",
                facts={"bytes": size, "limit": int(policy.size), "bytes_with_replicas": on_disk.get(topic, 0)},
            )
