"""The double of Kafka, used by the official client as the real one is: from other processes, over TCP."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec

from sandbox import certificates, processes
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.kafka import orders
from sandbox.kafka.topics import GROUPS, TOPICS
from sandbox.servers.kafka import BROKERS, bootstrap_of, lag, ports_of, start_kafka, stop_kafka


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("kafka"))
    for broker in range(1, BROKERS + 1):
        home.port(f"kafka.{broker}")
    start_kafka(home)
    yield home
    stop_kafka(home)


@pytest.fixture
def admin(home: Home) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap_of(home), "log_level": 0})


@pytest.fixture
def topic(admin: AdminClient) -> Iterator[str]:
    """An empty topic of three partitions, gone afterwards."""
    name = f"test.{uuid.uuid4().hex[:8]}"
    done(admin.create_topics([NewTopic(name, 3, 3)]))
    yield name
    done(admin.delete_topics([name]))


def done(futures: dict) -> list:
    return [future.result(10) for future in futures.values()]


def refusal(futures: dict) -> str:
    with pytest.raises(KafkaException) as refused:
        done(futures)
    return refused.value.args[0].name()


def ends(admin: AdminClient, topic: str) -> list[int]:
    asked = {TopicPartition(topic, index): OffsetSpec.latest() for index in range(3)}
    return [end.offset for end in done(admin.list_offsets(asked))]


def produce(home: Home, topic: str, count: int) -> None:
    """Write ``count`` messages from a process of its own."""
    script = (
        "import sys\nfrom confluent_kafka import Producer\n"
        "producer = Producer({'bootstrap.servers': sys.argv[1], 'acks': 'all'})\n"
        "for number in range(int(sys.argv[3])): producer.produce(sys.argv[2], str(number), str(number))\n"
        "sys.exit(producer.flush(10))"
    )
    subprocess.run([sys.executable, "-c", script, bootstrap_of(home), topic, str(count)], check=True, timeout=30)


def consumer(home: Home, topic: str, group: str, **config: object) -> Consumer:
    made = Consumer(
        {
            "bootstrap.servers": bootstrap_of(home),
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 200,
            "log_level": 0,
            **config,
        }
    )
    made.subscribe([topic])
    return made


def read(consumer: Consumer, count: int, timeout_s: float = 10.0) -> list:
    """``count`` messages, or as many as came in time."""
    messages: list = []
    deadline = time.monotonic() + timeout_s
    while len(messages) < count and time.monotonic() < deadline:
        messages += [m for m in consumer.consume(count - len(messages), 0.2) if m.error() is None]
    return messages


def test_messages_of_another_process_are_read_and_committed_offsets_survive_a_restart(home, admin, topic):
    produce(home, topic, 900)
    assert sum(ends(admin, topic)) == 900
    reader = consumer(home, topic, f"{topic}.readers")
    assert len({message.value() for message in read(reader, 300)}) == 300
    committed = sum(max(partition.offset, 0) for partition in reader.commit(asynchronous=False))
    reader.close()
    assert committed == 300

    processes.stop(home, "kafka")
    start_kafka(home)
    partitions = [TopicPartition(topic, index) for index in range(3)]
    asked = [ConsumerGroupTopicPartitions(f"{topic}.readers", partitions)]
    (found,) = done(admin.list_consumer_group_offsets(asked))
    assert sum(max(p.offset, 0) for p in found.topic_partitions) == 300
    rest = consumer(home, topic, f"{topic}.readers")
    assert len(read(rest, 600)) == 600
    rest.close()


def test_two_members_share_the_partitions_and_one_takes_over_when_the_other_leaves(home, admin, topic):
    group = f"{topic}.pair"
    first, second = consumer(home, topic, group), consumer(home, topic, group)
    deadline = time.monotonic() + 10
    while not (first.assignment() and second.assignment()) and time.monotonic() < deadline:
        read(first, 1, 0.1), read(second, 1, 0.1)
    assert sorted(len(member.assignment()) for member in (first, second)) == [1, 2]
    (described,) = done(admin.describe_consumer_groups([group]))
    assert (described.state, len(described.members)) == (ConsumerGroupState.STABLE, 2)
    assert refusal(admin.delete_consumer_groups([group])) == "NON_EMPTY_GROUP"

    second.close()
    while len(first.assignment()) < 3 and time.monotonic() < deadline:
        read(first, 1, 0.1)
    assert len(first.assignment()) == 3
    first.close()
    (described,) = done(admin.describe_consumer_groups([group]))
    assert len(described.members) == 0


def test_what_real_brokers_refuse_is_refused(home, admin, topic):
    assert refusal(admin.create_topics([NewTopic(topic, 1, 1)])) == "TOPIC_ALREADY_EXISTS"
    assert refusal(admin.create_topics([NewTopic("too.many", 1, 9)])) == "INVALID_REPLICATION_FACTOR"
    assert refusal(admin.create_topics([NewTopic("not a name", 1, 1)])) == "TOPIC_EXCEPTION"
    for value in ("soon", "-2", "1.5", ""):
        wrong = NewTopic("wrong", 1, 1, config={"retention.ms": value})
        assert refusal(admin.create_topics([wrong])) == "INVALID_CONFIG", value
    assert refusal(admin.create_topics([NewTopic("x", 1, 1, config={"retention": "1"})])) == "INVALID_CONFIG"
    assert refusal(admin.delete_topics(["nowhere"])) == "UNKNOWN_TOPIC_OR_PART"
    unknown = ConfigResource(ConfigResource.Type.TOPIC, "nowhere")
    assert refusal(admin.describe_configs([unknown])) == "UNKNOWN_TOPIC_OR_PART"
    assert refusal(admin.delete_consumer_groups(["nobody"])) == "GROUP_ID_NOT_FOUND"
    (never,) = done(admin.describe_consumer_groups(["nobody"]))
    assert never.state == ConsumerGroupState.DEAD

    member = ConsumerGroupTopicPartitions("scheduler-service", [TopicPartition("attempts.events", 0, 0)])
    (kept,) = done(admin.alter_consumer_group_offsets([member]))
    assert kept.topic_partitions[0].error.name() == "UNKNOWN_MEMBER_ID", "a group in use takes commits of members only"

    failures: list[KafkaError] = []
    producer = Producer(
        {"bootstrap.servers": bootstrap_of(home), "topic.metadata.propagation.max.ms": 100, "log_level": 0}
    )
    producer.produce("nowhere", b"lost", on_delivery=lambda error, message: failures.append(error))
    producer.flush(5)
    assert [error.name() for error in failures] == ["UNKNOWN_TOPIC_OR_PART"], "topics are not made by writing to them"


def test_deleted_records_are_gone_and_an_offset_before_them_is_out_of_range(home, admin, topic):
    produce(home, topic, 90)
    (cut,) = done(admin.delete_records([TopicPartition(topic, 0, 5)]))
    assert cut.low_watermark == 5
    reader = consumer(home, topic, f"{topic}.late", **{"auto.offset.reset": "error"})
    reader.unsubscribe()
    reader.assign([TopicPartition(topic, 0, 2)])
    errors = []
    deadline = time.monotonic() + 5
    while not errors and time.monotonic() < deadline:
        message = reader.poll(0.2)
        if message is not None and message.error():
            errors.append(message.error().name())
    reader.close()
    assert errors == ["_AUTO_OFFSET_RESET"]


def test_a_backlog_is_made_of_real_records_with_right_checksums(home, admin, topic):
    began = time.monotonic()
    orders.backlog(ports_of(home)[0], topic, 50_001)
    assert time.monotonic() - began < 2
    assert ends(admin, topic) == [16_667, 16_667, 16_667]
    reader = consumer(home, topic, f"{topic}.check", **{"check.crcs": True})
    assert len(read(reader, 50_001)) == 50_001
    reader.close()


def test_when_a_broker_goes_another_leads_and_nothing_is_lost(home, admin, topic):
    produce(home, topic, 30)
    break_it(home, "adaptive_learning_kafka_broker_down")
    try:
        assert not processes.listening(ports_of(home)[2])
        metadata = AdminClient({"bootstrap.servers": bootstrap_of(home), "log_level": 0}).list_topics(timeout=5)
        assert sorted(metadata.brokers) == [1, 2]
        for partition in metadata.topics[topic].partitions.values():
            assert partition.leader in (1, 2)
            assert len(partition.isrs) == 2
        produce(home, topic, 30)
    finally:
        heal_it(home, "adaptive_learning_kafka_broker_down")
    assert sum(ends(admin, topic)) == 60
    assert processes.listening(ports_of(home)[2])


def test_the_application_keeps_up_and_the_topics_are_what_the_platform_says(home, admin):
    assert all(lag(home, group) < 100 for group in GROUPS)
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in TOPICS])
    found = {resource.name: future.result(5)["retention.ms"] for resource, future in asked.items()}
    assert {name: int(entry.value) for name, entry in found.items()} == TOPICS
    assert not any(entry.is_default for entry in found.values())
    before = sum(ends(admin, "attempts.events"))
    time.sleep(0.8)
    assert sum(ends(admin, "attempts.events")) > before, "somebody writes"
    start_kafka(home)
    assert home.state()["connections"]["adaptive_learning_kafka"]["extra"] == {"bootstrap.servers": bootstrap_of(home)}


def test_junk_on_the_wire_ends_that_connection_and_no_other(home, admin):
    port = ports_of(home)[0]
    good = struct.pack(">ihhih", 10, 3, 1, 7, -1)
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, struct.pack(">i", 2**30), good[:6], os.urandom(4096)):
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            connection.sendall(junk)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
    assert len(admin.list_topics(timeout=5).brokers) == BROKERS


def test_with_a_password_and_tls_only_the_right_user_gets_in(home):
    certificate = certificates.issue(home, "kafka", "localhost", "127.0.0.1")
    port = home.port("kafka.tls")
    command = [sys.executable, "-m", "sandbox.kafka", home.directory("kafka-tls"), port]
    arguments = ["--user", "ann:right", "--certificate", certificate]
    processes.start(
        home,
        "kafka.tls",
        [*map(str, command), *map(str, arguments)],
        cwd=REPOSITORY,
        ready=lambda: processes.listening(port),
    )
    try:
        config = {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "ann",
            "ssl.ca.location": str(home.path / "certificates" / "ca.pem"),
            "log_level": 0,
        }
        assert len(AdminClient({**config, "sasl.password": "right"}).list_topics(timeout=5).brokers) == 1
        with pytest.raises(KafkaException):
            AdminClient({**config, "sasl.password": "wrong"}).list_topics(timeout=1)
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 0}).list_topics(timeout=1)
    finally:
        processes.stop(home, "kafka.tls")
