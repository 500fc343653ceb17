"""Do all brokers answer, has every partition a leader, and do the consumers keep up?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from upkeep.errors import CredentialsError, SettingsError, UpkeepError
from upkeep.findings import Finding, Outcome, judged, unknown
from upkeep.health.kafka_lag import GROUP, LAG, Topics, watch
from upkeep.kafka import PATIENCE_S, Admin, AskFailed, connect, within
from upkeep.platforms.services import Kafka

BROKERS = "kafka_brokers"

_LAST_WORD_S = 0.3
"""Kept back of the time allowed, for what librdkafka takes to give up."""

_LISTED = 20
"""Partitions that a finding names in its facts."""


def look(
    settings: Kafka,
    config: Mapping[str, Any],
    *,
    timeout_s: float = 3.0,
    between_looks_s: float = 1.5,
    earlier: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Outcome]:
    """
    Look at the brokers and at every consumer group; returns within ``timeout_s + between_looks_s``.

    ``config`` is librdkafka configuration, the connection's extra as it is. ``earlier`` may hold the facts of the last
    ``kafka_lag`` outcomes by their object: consumers that commit every five seconds are then seen to move.

    Outcomes: ``kafka_brokers``; for each group ``kafka_group`` (object ``group``); for each of its topics ``kafka_lag``
    (object ``group/topic``). Raises nothing on purpose: what could not be looked at is unknown.
    """
    began = time.monotonic()
    deadline = began + timeout_s + between_looks_s - _LAST_WORD_S
    try:
        admin = connect(config)
        metadata = admin.metadata(timeout_s)
    except UpkeepError as wrong:
        return [_no_cluster(settings, wrong), *_not_looked_at(settings)]
    probes = _ask_each_broker(admin, metadata)
    topics = _topics(metadata)
    with ThreadPoolExecutor(max_workers=max(1, min(16, len(settings.groups)))) as threads:
        watched = [
            threads.submit(
                watch,
                admin,
                group,
                topics,
                deadline=deadline,
                between_looks_s=between_looks_s,
                earlier=earlier or {},
            )
            for group in settings.groups
        ]
        brokers = _judge_brokers(settings, metadata, probes, deadline)
        seen = [outcome for future in watched for outcome in future.result()]
    return [brokers, *(_explained(outcome, brokers) for outcome in seen)]


def _ask_each_broker(admin: Admin, metadata: Any) -> dict[int, Any]:
    """
    A request that only this broker can answer, to each of them.

    The metadata name brokers that died or froze moments ago, and a port that accepts proves nothing.
    """
    resource, probes = admin.api.ConfigResource, {}
    for id in metadata.brokers:
        asked = admin.client.describe_configs([resource(resource.Type.BROKER, str(id))], request_timeout=PATIENCE_S)
        (probes[id],) = asked.values()
    return probes


def _silent(probes: Mapping[int, Any], deadline: float) -> dict[int, str]:
    """Brokers that did not answer, and why. A refusal is an answer."""
    silent = {}
    for id, probe in probes.items():
        try:
            within(probe, deadline - time.monotonic())
        except AskFailed as failed:
            if not failed.answered:
                silent[id] = failed.reason
    return silent


def _topics(metadata: Any) -> Topics:
    partitions = {}
    leaders = {}
    for topic in metadata.topics.values():
        if topic.error is None:
            partitions[topic.topic] = len(topic.partitions)
            leaders.update({(topic.topic, index): p.leader for index, p in topic.partitions.items()})
    return Topics(partitions, leaders)


def _judge_brokers(settings: Kafka, metadata: Any, probes: Mapping[int, Any], deadline: float) -> Outcome:
    partitions = [
        (f"{topic.topic}/{index}", partition)
        for topic in metadata.topics.values()
        for index, partition in sorted(topic.partitions.items())
    ]
    offline = [name for name, partition in partitions if partition.leader < 0]
    thin = [name for name, p in partitions if p.leader >= 0 and len(p.isrs) < len(p.replicas)]
    silent = _silent(probes, deadline)
    facts: dict[str, Any] = {
        "brokers": {str(id): f"{broker.host}:{broker.port}" for id, broker in sorted(metadata.brokers.items())},
        "answering": len(metadata.brokers) - len(silent),
        "expected": settings.brokers,
        "silent": {str(id): reason for id, reason in silent.items()},
        "partitions": len(partitions),
        "offline": offline[:_LISTED],
        "offline_count": len(offline),
        "under_replicated": thin[:_LISTED],
        "under_replicated_count": len(thin),
    }
    findings = [
        Finding(check=BROKERS, object=object, severity=settings.severity, summary=summary, hint=hint, facts=facts)
        for object, summary, hint in _troubles(facts)
    ]
    return judged(BROKERS, settings.severity, findings, **facts)


def _troubles(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Object, summary and hint of each."""
    total, thin = facts["partitions"], facts["under_replicated_count"]
    missing = facts["expected"] > facts["answering"]
    if missing or facts["silent"]:
        silent = ", ".join(f"broker {id}: {reason}" for id, reason in facts["silent"].items())
        yield (
            "brokers",
            f"{facts['answering']} of {max(facts['expected'], len(facts['brokers']))} Kafka brokers answer"
            + (f" ({silent})" if silent else "")
            + (f"; {thin} of {total} partitions are under-replicated" if thin else ""),
            "look at the missing brokers' logs and hosts; until they are back, one more loss may stop writes.",
        )
    elif thin:
        # With a broker missing this is a mere consequence, and said above.
        yield (
            "under_replicated",
            f"{thin} of {total} partitions are under-replicated: {_few(facts['under_replicated'])}",
            "a replica fell behind or lost its log directory: look at the brokers' disks and network.",
        )
    if facts["offline_count"]:
        yield (
            "offline_partitions",
            f"{facts['offline_count']} of {total} partitions have no leader: {_few(facts['offline'])}",
            "nobody can read or write them: bring back a broker that holds an in-sync replica.",
        )


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _no_cluster(settings: Kafka, wrong: UpkeepError) -> Outcome:
    if isinstance(wrong, SettingsError):
        return unknown(BROKERS, settings.severity, wrong.message)
    finding = Finding(
        check=BROKERS,
        object="credentials" if isinstance(wrong, CredentialsError) else "brokers",
        severity=settings.severity,
        summary=wrong.message,
        hint=wrong.hint,
        facts={"answering": 0, "expected": settings.brokers},
    )
    return judged(BROKERS, settings.severity, [finding], answering=0, expected=settings.brokers)


def _not_looked_at(settings: Kafka) -> Iterator[Outcome]:
    for group in settings.groups:
        places = [(GROUP, group.group), *((LAG, f"{group.group}/{topic}") for topic in group.topics)]
        for check, object in places:
            yield unknown(check, group.severity, "no broker to ask", object=object, explained_by=BROKERS)


def _explained(outcome: Outcome, brokers: Outcome) -> Outcome:
    """Nobody answered for it, and what is wrong with the brokers says why: that one alert is enough."""
    if outcome.state == "unknown" and outcome.facts.get("unanswered") and brokers.state == "finding":
        return replace(outcome, explained_by=BROKERS)
    return outcome
