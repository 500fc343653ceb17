"""Do all brokers answer, has every partition a leader, and do the consumers keep up?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from upkeep.errors import CredentialsError, UpkeepError
from upkeep.findings import Finding, Outcome, Severity, judged, ok, unknown
from upkeep.health.kafka_lag import Lag, Membership, judge_lag
from upkeep.kafka import Admin, KafkaUnreachable, connect, within, wording
from upkeep.platforms.services import ConsumerGroup, Kafka

BROKERS, LAG, GROUP = "kafka_brokers", "kafka_lag", "kafka_group"

_LOOK_AGAIN_S = 0.5
"""How often to look again at a group that is too far behind and has not moved yet."""

_LISTED = 20
"""Partitions that a finding names in its facts."""

Place = tuple[str, int]
"""Topic and partition."""
