"""What the sandbox itself does with the official client: topics, their configuration, how far a group is."""

from __future__ import annotations

from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from sandbox.kafka.topics import GROUPS, PARTITIONS, TOPICS

_SETTLED = 1_000
"""Fewer messages behind than this is an ordinary moment."""


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def create_topics(bootstrap: str, replicas: int) -> None:
    """Those that are missing."""
    admin = _admin(bootstrap)
    known = admin.list_topics(timeout=10).topics
    missing = [
        NewTopic(name, PARTITIONS, replicas, config={"retention.ms": str(keep), "min.insync.replicas": "2"})
        for name, keep in TOPICS.items()
        if name not in known
    ]
    if missing:
        for created in admin.create_topics(missing).values():
            created.result(10)


def retain(bootstrap: str, topic: str, value: int | None) -> None:
    """Set ``retention.ms``; None takes the topic's own setting away."""
    operation = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
    entry = ConfigEntry("retention.ms", None if value is None else str(value), incremental_operation=operation)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = _admin(bootstrap)
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result(10)


def lag(bootstrap: str, group: str) -> int:
    """Messages of its topic that the group has not committed; an uncommitted partition counts whole."""
    admin = _admin(bootstrap)
    partitions = [TopicPartition(GROUPS[group], index) for index in range(PARTITIONS)]
    asked = ConsumerGroupTopicPartitions(group, partitions)
    committed = admin.list_consumer_group_offsets([asked])[group].result(10).topic_partitions
    ends = admin.list_offsets({partition: OffsetSpec.latest() for partition in partitions})
    at = {partition.partition: end.result(10).offset for partition, end in ends.items()}
    return sum(at[c.partition] - max(c.offset, 0) for c in committed)


def settled(bootstrap: str) -> bool:
    """Every group has members that agree who reads what, has committed, and is hardly behind."""
    admin = _admin(bootstrap)
    try:
        described = [asked.result(5) for asked in admin.describe_consumer_groups(list(GROUPS)).values()]
        return all(
            group.state == ConsumerGroupState.STABLE
            and len(group.members) == 1
            and lag(bootstrap, group.group_id) < _SETTLED
            for group in described
        )
    except (KafkaException, TimeoutError):
        return False


def members(bootstrap: str, group: str) -> int:
    admin = _admin(bootstrap)
    return len(admin.describe_consumer_groups([group])[group].result(5).members)
