"""Adaptive Learning's Kafka: three brokers (a double, see ``sandbox.kafka``), topics, an application that reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sandbox import processes
from sandbox.faults import fault
from sandbox.home import REPOSITORY, Home
from sandbox.kafka import orders
from sandbox.kafka.topics import GROUPS, TOPICS

BROKERS = 3
STUCK_MESSAGES = 900_000
SLOW_PER_SECOND = 5_000


def start_kafka(home: Home) -> None:
    """Brokers, topics, consumers; publishes ``adaptive_learning_kafka``."""
    ports = ports_of(home)
    processes.start(
        home,
        "kafka",
        [sys.executable, "-m", "sandbox.kafka", home.directory("kafka"), *map(str, ports)],
        cwd=REPOSITORY,
        ready=lambda: any(processes.listening(port) for port in ports),
    )
    home.connect("adaptive_learning_kafka", {"conn_type": "kafka", "extra": {"bootstrap.servers": bootstrap_of(home)}})
    from sandbox.kafka import client

    client.create_topics(bootstrap_of(home), BROKERS)
    processes.start(
        home,
        "kafka.application",
        [sys.executable, "-m", "sandbox.kafka.application", bootstrap_of(home), _moods(home)],
        cwd=REPOSITORY,
    )
    if not home.facts("kafka").get("settled"):
        _wait_until_settled(home)
        home.remember("kafka", settled=True)


def stop_kafka(home: Home) -> None:
    processes.stop(home, "kafka.application")
    processes.stop(home, "kafka")


def ports_of(home: Home) -> list[int]:
    """The port of each broker; broker ids count from 1."""
    return [home.port(f"kafka.{broker}", 29091 + broker) for broker in range(1, BROKERS + 1)]


def bootstrap_of(home: Home) -> str:
    return ",".join(f"127.0.0.1:{port}" for port in ports_of(home))


def lag(home: Home, group: str) -> int:
    """Messages that ``group`` has not committed."""
    from sandbox.kafka import client

    return client.lag(bootstrap_of(home), group)


def _moods(home: Home) -> Path:
    return home.directory("kafka") / "moods.json"


def _be(home: Home, group: str, mood: str, **details: Any) -> None:
    """Put the group's consumer in a mood, and wait until it is in it."""
    path = _moods(home)
    moods = json.loads(path.read_text()) if path.exists() else {}
    moods[group] = {"mood": mood, **details}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(moods))
    draft.replace(path)
    if processes.running(home, "kafka.application"):
        now = path.with_name(f"mood.{group}")
        wanted = json.dumps(moods[group])
        log = home.logs / "kafka.application.log"
        processes.wait_until(lambda: now.exists() and now.read_text() == wanted, 30, f"{group} to be {mood}", log)


def _wait_until_settled(home: Home) -> None:
    from sandbox.kafka import client

    log = home.logs / "kafka.application.log"
    processes.wait_until(lambda: client.settled(bootstrap_of(home)), 40, "the consumers to catch up", log)


# -- faults --------------------------------------------------------------------------------------------------


def _stick(home: Home) -> None:
    _be(home, "scheduler-service", "stuck")
    orders.backlog(ports_of(home)[0], "attempts.events", STUCK_MESSAGES)


def _crawl(home: Home) -> None:
    _be(home, "scheduler-service", "slow", per_second=SLOW_PER_SECOND)
    orders.backlog(ports_of(home)[0], "attempts.events", STUCK_MESSAGES)


def _leave(home: Home) -> None:
    from sandbox.kafka import client

    _be(home, "mastery-updater", "gone")
    processes.wait_until(lambda: client.members(bootstrap_of(home), "mastery-updater") == 0, 10, "them to leave")


def _work(home: Home) -> None:
    for mood in ("skip", "busy"):
        for group in GROUPS:
            _be(home, group, mood)
        _wait_until_settled(home)


def _down(home: Home) -> None:
    processes.stop(home, "kafka")


def _up(home: Home) -> None:
    start_kafka(home)
    _wait_until_settled(home)


def _lose_third(home: Home) -> None:
    orders.control(ports_of(home), down=[3])
    processes.wait_until(lambda: not processes.listening(ports_of(home)[2]), 5, "broker 3 to go")


def _bring_back_third(home: Home) -> None:
    orders.control(ports_of(home), down=[])
    processes.wait_until(lambda: processes.listening(ports_of(home)[2]), 5, "broker 3 to come back")


def _retain(home: Home, value: int) -> None:
    from sandbox.kafka import client

    client.retain(bootstrap_of(home), "notifications", value)


def _thaw(home: Home) -> None:
    # Broker 2 itself would not answer the order that heals it.
    orders.control(ports_of(home)[::2], hanging=[])
    _wait_until_settled(home)


fault(
    "adaptive_learning_consumer_stuck",
    f"scheduler-service is {STUCK_MESSAGES:,} messages behind on attempts.events and commits nothing",
    break_=_stick,
    heal=_work,
)
fault(
    "adaptive_learning_consumer_behind_but_falling",
    f"scheduler-service is {STUCK_MESSAGES:,} messages behind and works off {SLOW_PER_SECOND:,} a second",
    break_=_crawl,
    heal=_work,
)
fault(
    "adaptive_learning_consumer_gone",
    "nobody consumes for mastery-updater",
    break_=_leave,
    heal=_work,
)
fault("adaptive_learning_kafka_down", "all Kafka brokers are stopped", break_=_down, heal=_up)
fault(
    "adaptive_learning_kafka_broker_down",
    "broker 3 of 3 is gone: two lead its partitions, all are under-replicated",
    break_=_lose_third,
    heal=_bring_back_third,
)
fault(
    "adaptive_learning_kafka_broker_hangs",
    "broker 2 of 3 accepts connections and never answers",
    break_=lambda home: orders.control(ports_of(home), hanging=[2]),
    heal=_thaw,
)
fault(
    "adaptive_learning_offline_partition",
    "attempts.events/1 has no leader: its log directory failed on every broker",
    break_=lambda home: orders.control(ports_of(home), offline=[("attempts.events", 1)]),
    heal=lambda home: orders.control(ports_of(home), offline=[]),
)
fault(
    "adaptive_learning_topic_retention",
    "notifications keeps its messages for ever",
    break_=lambda home: _retain(home, -1),
    heal=lambda home: _retain(home, TOPICS["notifications"]),
)
fault(
    "adaptive_learning_log_directory_failed",
    "the second log directory of broker 2 has failed; no partition lay in it",
    break_=lambda home: orders.control(ports_of(home), failed_dirs=[2]),
    heal=lambda home: orders.control(ports_of(home), failed_dirs=[]),
)
fault(
    "adaptive_learning_group_hidden",
    "Upkeep has lost the right to describe the consumer group mastery-updater",
    break_=lambda home: orders.control(ports_of(home), private=["mastery-updater"]),
    heal=lambda home: orders.control(ports_of(home), private=[]),
)
