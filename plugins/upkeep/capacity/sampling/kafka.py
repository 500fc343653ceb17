"""Kafka: how large each topic is, one copy of it, against the policy of the platform file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from upkeep.capacity.sampling.measured import Measured, NotMeasured
from upkeep.cleanup.topics import LOG_DIRS, look, policy_of
from upkeep.platforms.services import Kafka

MOST_TOPICS = 50
"""The largest; and all that have a limit."""


def topics(settings: Kafka, config: Mapping[str, Any]) -> Iterator[Measured]:
    """:raises NotMeasured: not all brokers answered, so that some sizes would be too small."""
    seen = next(outcome for outcome in look(settings, config) if outcome.check == LOG_DIRS and not outcome.object)
    if seen.state == "unknown":
        raise NotMeasured(seen.reason, hint="`kafka_brokers` of the daily health check says more.")
    sizes: Mapping[str, int] = seen.facts["bytes"]
    largest = sorted(sizes, key=lambda topic: -sizes[topic])
    for place, topic in enumerate(largest):
        policy = policy_of(settings.topics, topic)
        most = policy.size if policy else None
        if place < MOST_TOPICS or most:
            yield Measured(metric="topic_bytes", object=topic, value=sizes[topic], most=most)
