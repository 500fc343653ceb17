"""The topics of Adaptive Learning and who reads them."""

from __future__ import annotations

DAY_MS = 86_400_000

TOPICS = {"attempts.events": 7 * DAY_MS, "mastery.updates": 3 * DAY_MS, "notifications": 7 * DAY_MS}
"""``retention.ms`` of each."""

GROUPS = {"scheduler-service": "attempts.events", "mastery-updater": "mastery.updates"}
"""Which group reads which topic."""

PARTITIONS = 3
