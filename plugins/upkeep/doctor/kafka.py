"""Kafka: whether the brokers answer, and let us describe groups and topics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from upkeep.doctor.verdict import fine, missing, unseen
from upkeep.errors import UpkeepError
from upkeep.findings import Outcome
from upkeep.kafka import PATIENCE_S, Admin, AskFailed, connect, within
from upkeep.platforms.services import Kafka


def look(config: Mapping[str, Any], conn_id: str, settings: Kafka, timeout_s: float = 5.0) -> list[Outcome]:
    """:param config: librdkafka configuration."""
    deadline = time.monotonic() + timeout_s
    try:
        admin = connect(config)
        metadata = admin.metadata(timeout_s)
    except UpkeepError as wrong:
        return [missing("connect", conn_id, wrong.message, f"{wrong.hint} Connection: {conn_id}")]
    user = f"User:{config.get('sasl.username') or 'ANONYMOUS'}"
    outcomes = [fine("connect", conn_id, f"{len(metadata.brokers)} brokers, {len(metadata.topics)} topics")]
    if len(metadata.brokers) < settings.brokers:
        said = f"{len(metadata.brokers)} of {settings.brokers} brokers are in the cluster"
        outcomes.append(missing("brokers", conn_id, said, "start the others, or correct `kafka.brokers`"))
    return [
        *outcomes,
        *_groups(admin, conn_id, settings, user, deadline),
        *_topics(admin, metadata, conn_id, settings, user, deadline),
    ]


def _groups(admin: Admin, conn_id: str, settings: Kafka, user: str, deadline: float) -> Iterator[Outcome]:
    names = [group.group for group in settings.groups]
    if not names:
        return
    asked = admin.client.describe_consumer_groups(names, request_timeout=PATIENCE_S)
    for name, future in asked.items():
        try:
            within(future, deadline - time.monotonic())
        except AskFailed as failed:
            cure = f"kafka-acls.sh --add --allow-principal {user} --operation Describe --group {name}"
            yield _refused("groups", conn_id, f"group {name}: {failed.reason}", cure, failed)
            return
    yield fine("groups", conn_id, f"may describe {', '.join(names)}")


def _topics(
    admin: Admin, metadata: Any, conn_id: str, settings: Kafka, user: str, deadline: float
) -> Iterator[Outcome]:
    named = sorted({topic for group in settings.groups for topic in group.topics})
    absent = [topic for topic in named if topic not in metadata.topics]
    for topic in absent:
        cure = (
            "correct `kafka.groups`, create the topic, or:\n"
            f"kafka-acls.sh --add --allow-principal {user} --operation Describe --topic {topic}"
        )
        yield missing("topics", conn_id, f"no topic {topic}, or it may not be described", cure)
    resource = admin.api.ConfigResource
    wanted = [resource(resource.Type.TOPIC, topic) for topic in named if topic in metadata.topics]
    if not wanted:
        return
    for asked, future in admin.client.describe_configs(wanted, request_timeout=PATIENCE_S).items():
        try:
            within(future, deadline - time.monotonic())
        except AskFailed as failed:
            cure = f"kafka-acls.sh --add --allow-principal {user} --operation DescribeConfigs --topic {asked.name}"
            yield _refused("topics", conn_id, f"settings of {asked.name}: {failed.reason}", cure, failed)
            return
    if not absent:
        yield fine("topics", conn_id, f"may describe the settings of {len(wanted)}")


def _refused(check: str, conn_id: str, said: str, cure: str, failed: AskFailed) -> Outcome:
    # A broker that is silent refuses nothing.
    return missing(check, conn_id, said, cure) if failed.answered else unseen(check, conn_id, said, cure)
