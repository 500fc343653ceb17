"""
``python -m sandbox.kafka.application BOOTSTRAP MOODS``: what a platform does with its topics, all day long.

Writes a few events a second, and one consumer for each group reads them and commits. How a consumer behaves stands
in the file MOODS, ``{"scheduler-service": {"mood": "slow", "per_second": 5000}}``, and may change at any time:
``busy`` (the default), ``slow``, ``stuck`` (a member that commits nothing), ``gone``, or ``skip`` (whatever waits is
dropped, as when an operator resets the offsets to the end). The file ``mood.<group>`` beside it says which mood a
consumer is in now, written before it acts in it.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from sandbox.kafka.topics import GROUPS, TOPICS

_PER_SECOND = 4
_TURN_S = 0.25

log = logging.getLogger("application")


def produce(bootstrap: str, stopped: threading.Event) -> None:
    """A few events per second on each topic."""
    producer = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 5000, **_PATIENT}, logger=log)
    number = 0
    while not stopped.wait(1 / _PER_SECOND):
        number += 1
        event = json.dumps({"user": f"u-{number % 997}", "item": f"i-{number % 89}", "correct": number % 3 != 0})
        for topic in TOPICS:
            producer.produce(topic, event.encode(), key=f"u-{number % 997}".encode())
        producer.poll(0)
    producer.flush(1)


def consume(bootstrap: str, group: str, topic: str, moods: Path, stopped: threading.Event) -> None:
    """Read, and commit what was read, in the mood of the moment."""
    consumer: Consumer | None = None
    before: dict[str, Any] = {}
    while not stopped.is_set():
        mood = _mood(moods, group)
        if mood != before:
            moods.with_name(f"mood.{group}").write_text(json.dumps(mood))
        if mood["mood"] == "gone":
            if consumer is not None:
                consumer.close()
                consumer = None
            before = mood
            stopped.wait(_TURN_S)
            continue
        if consumer is None:
            consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **_CONSUMER}, logger=log)
            consumer.subscribe([topic])
        try:
            if before.get("mood") == "stuck" != mood["mood"]:
                # Not at every turn: each time, librdkafka throws away what it has fetched ahead.
                consumer.resume(consumer.assignment())
            before = mood
            _turn(consumer, mood)
        except KafkaException as trouble:
            log.warning("%s: %s", group, trouble)
            stopped.wait(_TURN_S)
    if consumer is not None:
        consumer.close()


def _turn(consumer: Consumer, mood: dict[str, Any]) -> None:
    began = time.monotonic()
    assigned = consumer.assignment()
    if mood["mood"] == "stuck":
        if assigned:
            consumer.pause(assigned)
        _messages(consumer, 1)
        return
    if mood["mood"] == "skip":
        ends = [TopicPartition(p.topic, p.partition, consumer.get_watermark_offsets(p)[1]) for p in assigned]
        for end in ends:
            consumer.seek(end)
        if ends:
            consumer.commit(offsets=ends, asynchronous=False)
    slow = mood["mood"] == "slow"
    messages = _messages(consumer, int(mood["per_second"] * _TURN_S) if slow else 50_000)
    newest: dict[tuple[str, int], int] = {}
    for message in messages:
        newest[message.topic(), message.partition()] = message.offset() + 1
    if newest:
        offsets = [TopicPartition(topic, index, offset) for (topic, index), offset in newest.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
    if slow:
        time.sleep(max(0.0, _TURN_S - (time.monotonic() - began)))


def _messages(consumer: Consumer, most: int) -> list[Any]:
    return [message for message in consumer.consume(most, _TURN_S) if message.error() is None]


def _mood(moods: Path, group: str) -> dict[str, Any]:
    try:
        return {"mood": "busy", **json.loads(moods.read_text()).get(group, {})}
    except FileNotFoundError:
        return {"mood": "busy"}


_PATIENT = {"reconnect.backoff.max.ms": 500, "log_level": 2}
_CONSUMER = {
    **_PATIENT,
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 500,
    "max.poll.interval.ms": 60000,
    "fetch.wait.max.ms": 100,
    # A backlog is compressed a hundred times: without these, one fetch would unpack all of it.
    "fetch.message.max.bytes": 20_000,
    "queued.min.messages": 10_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.kafka.application", description=__doc__)
    parser.add_argument("bootstrap")
    parser.add_argument("moods", type=Path)
    arguments = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    threads = [threading.Thread(target=produce, args=(arguments.bootstrap, stopped))]
    for group, topic in GROUPS.items():
        threads.append(
            threading.Thread(target=consume, args=(arguments.bootstrap, group, topic, arguments.moods, stopped))
        )
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    main()
