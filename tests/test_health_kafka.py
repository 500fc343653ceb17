"""Kafka's health, looked at through the official client on brokers that are then broken."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from sandbox import certificates, processes
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.kafka import orders
from sandbox.servers.kafka import BROKERS, bootstrap_of, ports_of, start_kafka, stop_kafka
from upkeep.findings import Outcome, Severity
from upkeep.health.kafka import look
from upkeep.platforms.services import Kafka

SETTINGS = Kafka(
    brokers=3,
    groups=(
        {"group": "scheduler-service", "topics": ("attempts.events",)},
        {"group": "mastery-updater", "topics": ("mastery.updates",), "severity": "P2"},
    ),
)
SCHEDULER = "scheduler-service/attempts.events"
UPDATER = "mastery-updater/mastery.updates"
LONGEST_S = 5.0
BRIEFLY = {"timeout_s": 2.0, "between_looks_s": 0.5}
"""For what shows at once, so that the tests do not sit waiting for lags to fall."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("kafka"))
    for broker in range(1, BROKERS + 1):
        home.port(f"kafka.{broker}")
    start_kafka(home)
    yield home
    stop_kafka(home)


@pytest.fixture
def config(home: Home) -> dict[str, str]:
    return dict(home.state()["connections"]["adaptive_learning_kafka"]["extra"])


@pytest.fixture
def broken(home: Home, request: pytest.FixtureRequest) -> Iterator[str]:
    """One of the sandbox's faults while the test runs."""
    break_it(home, request.param)
    yield request.param
    heal_it(home, request.param)


def with_fault(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("broken", [f"adaptive_learning_{name}"], indirect=True)


def seen(config: dict[str, str], settings: Kafka = SETTINGS, **options: object) -> dict[tuple[str, str], Outcome]:
    """Every outcome by check and object; and it did not take too long."""
    began = time.monotonic()
    outcomes = look(settings, config, **options)
    assert time.monotonic() - began < LONGEST_S
    by_place = {(outcome.check, outcome.object): outcome for outcome in outcomes}
    assert len(by_place) == len(outcomes)
    return by_place


def states(outcomes: dict[tuple[str, str], Outcome]) -> dict[str, str]:
    return {object or check: outcome.state for (check, object), outcome in outcomes.items()}


ALL_WELL = {
    "kafka_brokers": "ok",
    "scheduler-service": "ok",
    SCHEDULER: "ok",
    "mastery-updater": "ok",
    UPDATER: "ok",
}


def test_a_healthy_cluster_is_ok_with_its_numbers(config):
    outcomes = seen(config)
    assert states(outcomes) == ALL_WELL
    brokers = outcomes["kafka_brokers", ""].facts
    assert (brokers["answering"], brokers["partitions"], brokers["offline_count"]) == (3, 9, 0)
    lag = outcomes["kafka_lag", SCHEDULER].facts
    assert lag["lag"] < 1000
    assert lag["written_per_s"] > 0
    assert lag["committed_per_s"] > 0
    assert sorted(lag["by_partition"]) == ["0", "1", "2"]
    assert outcomes["kafka_group", "scheduler-service"].facts == {"state": "stable", "members": 1}


@with_fault("group_hidden")
def test_a_group_that_may_not_be_described_is_unknown_by_itself(home, config, broken):
    outcomes = seen(config, **BRIEFLY)
    assert states(outcomes) == {**ALL_WELL, "mastery-updater": "unknown", UPDATER: "unknown"}
    for check, object in (("kafka_group", "mastery-updater"), ("kafka_lag", UPDATER)):
        outcome = outcomes[check, object]
        assert (outcome.worst, outcome.explained_by) == (Severity.P2, "")
        assert "Group authorization failed" in outcome.reason
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


@with_fault("consumer_stuck")
def test_a_stuck_consumer_is_a_finding_with_how_far_it_is_behind(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_lag", SCHEDULER].findings
    assert finding.severity is Severity.P1
    assert finding.facts["lag"] >= 900_000
    assert finding.facts["committed_per_s"] == 0
    assert finding.facts["members"] == 1
    assert not finding.facts["falling"]
    assert finding.summary.startswith(
        f"scheduler-service is {finding.facts['lag']:,} messages behind on attempts.events and not catching up (0/s "
    )
    assert states(outcomes) == {**ALL_WELL, SCHEDULER: "finding"}
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


@with_fault("consumer_behind_but_falling")
def test_a_consumer_far_behind_that_works_it_off_is_ok(config, broken):
    outcome = seen(config)["kafka_lag", SCHEDULER]
    assert outcome.state == "ok"
    assert outcome.facts["lag"] > 800_000
    assert outcome.facts["falling"]
    assert 60 < outcome.facts["drained_in_s"] < 1200
    assert outcome.facts["committed_per_s"] > 1000


@with_fault("consumer_gone")
def test_a_group_without_members_whose_messages_wait_is_a_finding_at_any_lag(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_lag", UPDATER].findings
    assert finding.severity is Severity.P2
    assert 0 < finding.facts["lag"] < 10_000
    assert finding.facts["state"] == "empty"
    assert finding.summary == (
        f"nobody consumes mastery.updates for mastery-updater: {finding.facts['lag']:,} messages wait"
    )
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


def test_a_group_that_never_existed_and_a_topic_that_does_not_exist_are_findings(config):
    settings = Kafka(
        brokers=3, groups=({"group": "scheduler_service", "topics": ("attempts.events", "attempt.events")},)
    )
    outcomes = seen(config, settings, **BRIEFLY)
    (never,) = outcomes["kafka_lag", "scheduler_service/attempts.events"].findings
    assert never.summary.startswith("consumer group scheduler_service does not exist: it never committed an offset")
    assert never.facts["uncommitted_partitions"] == 3
    assert never.facts["lag"] > 0, "nothing was committed, so everything waits"
    (missing,) = outcomes["kafka_lag", "scheduler_service/attempt.events"].findings
    assert missing.summary == "topic attempt.events, which scheduler_service should read, does not exist"


def test_members_that_read_other_topics_only_do_not_count_as_consumers(home, config):
    admin = AdminClient({**config, "log_level": 0})
    offset = ConsumerGroupTopicPartitions("scheduler-service", [TopicPartition("notifications", 0, 0)])
    settings = Kafka(brokers=3, groups=({"group": "scheduler-service", "topics": ("notifications",)},))
    (finding,) = seen(config, settings, **BRIEFLY)["kafka_lag", "scheduler-service/notifications"].findings
    assert finding.summary.startswith("nobody consumes notifications for scheduler-service: ")
    assert finding.facts["members"] == 1
    (kept,) = [future.result(5) for future in admin.alter_consumer_group_offsets([offset]).values()]
    assert kept.topic_partitions[0].error.name() == "UNKNOWN_MEMBER_ID", "the group is alive"


@pytest.fixture
def quiet(home: Home, config: dict[str, str]) -> Iterator[AdminClient]:
    """Topic ``quiet`` of one partition with 40,000 messages, which group ``sleepers`` read up to 100 by hand."""
    admin = AdminClient({**config, "log_level": 0})
    admin.create_topics([NewTopic("quiet", 1, 3)])["quiet"].result(5)
    orders.backlog(ports_of(home)[0], "quiet", 40_000)
    commit(admin, 100)
    yield admin
    admin.delete_consumer_groups(["sleepers"])["sleepers"].result(5)
    admin.delete_topics(["quiet"])["quiet"].result(5)


def commit(admin: AdminClient, offset: int) -> None:
    asked = ConsumerGroupTopicPartitions("sleepers", [TopicPartition("quiet", 0, offset)])
    for future in admin.alter_consumer_group_offsets([asked]).values():
        assert future.result(5).topic_partitions[0].error is None


QUIET = Kafka(brokers=3, groups=({"group": "sleepers", "topics": ("quiet",), "lag": 10_000},))


def test_an_offset_beyond_the_end_and_messages_deleted_unread_are_told_apart(config, quiet):
    quiet.delete_records([TopicPartition("quiet", 0, 25_100)])
    (lost,) = seen(config, QUIET, **BRIEFLY)["kafka_lag", "sleepers/quiet"].findings
    assert (lost.facts["lag"], lost.facts["expired"]) == (14_900, 25_000)
    commit(quiet, 40_120)
    (beyond,) = seen(config, QUIET, **BRIEFLY)["kafka_lag", "sleepers/quiet"].findings
    assert beyond.summary == "sleepers has committed 120 messages beyond the end of quiet"
    commit(quiet, 40_000)
    assert seen(config, QUIET, **BRIEFLY)["kafka_lag", "sleepers/quiet"].state == "ok", (
        "nobody reads, and nothing waits"
    )


def test_a_consumer_that_commits_seldom_is_seen_to_move_by_what_was_seen_earlier(config, quiet):
    first = seen(config, QUIET, **BRIEFLY)["kafka_lag", "sleepers/quiet"]
    assert first.facts["lag"] == 39_900
    commit(quiet, 20_000)
    earlier = {"sleepers/quiet": first.facts}
    (still,) = seen(config, QUIET, **BRIEFLY)["kafka_lag", "sleepers/quiet"].findings
    later = seen(config, QUIET, earlier=earlier, **BRIEFLY)["kafka_lag", "sleepers/quiet"]
    assert still.facts["drained_in_s"] is None
    assert later.facts["falling"]
    (nobody,) = later.findings
    assert nobody.summary.startswith("nobody consumes quiet"), "what moved earlier is no excuse for an empty group"


@with_fault("kafka_down")
def test_brokers_that_are_all_down_are_one_finding_that_explains_the_rest(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_brokers", ""].findings
    assert finding.severity is Severity.P1
    assert finding.summary.startswith(f"no Kafka broker answers at {bootstrap_of(home)}: ")
    assert "Connection refused" in finding.summary
    others = [outcome for (check, _), outcome in outcomes.items() if check != "kafka_brokers"]
    assert {(o.state, o.explained_by, o.worst) for o in others} == {("unknown", "kafka_brokers", None)}
    assert set(states(outcomes)) == set(ALL_WELL)
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


@with_fault("kafka_broker_down")
def test_one_broker_of_three_down_is_one_finding_and_the_lag_is_still_known(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_brokers", ""].findings
    assert finding.summary == "2 of 3 Kafka brokers answer; 9 of 9 partitions are under-replicated"
    assert states(outcomes) == {**ALL_WELL, "kafka_brokers": "finding"}
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


@with_fault("kafka_broker_hangs")
def test_a_broker_that_hangs_is_a_finding_and_hides_nothing_of_the_others(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_brokers", ""].findings
    assert finding.summary.startswith("2 of 3 Kafka brokers answer (broker 2: ")
    unread = outcomes["kafka_lag", SCHEDULER]
    assert (unread.state, unread.explained_by) == ("unknown", "kafka_brokers")
    assert unread.reason.startswith("end of attempts.events/1: ")
    assert sorted(unread.facts["by_partition"]) == ["0", "2"]
    # librdkafka aborts the process when a client outlives its requests' time-out and the broker comes back.
    assert not [name for name in threads() if name.startswith("rdk:")], "the client is gone, without waiting for gc"
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


def threads() -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


@with_fault("offline_partition")
def test_a_partition_without_a_leader_is_a_finding(home, config, broken):
    outcomes = seen(config)
    (finding,) = outcomes["kafka_brokers", ""].findings
    assert finding.summary == "1 of 9 partitions have no leader: attempts.events/1"
    assert finding.object == "offline_partitions"
    assert outcomes["kafka_lag", SCHEDULER].state == "unknown"
    assert outcomes["kafka_lag", SCHEDULER].explained_by == "kafka_brokers"
    assert outcomes["kafka_lag", UPDATER].state == "ok"
    heal_it(home, broken)
    assert states(seen(config, **BRIEFLY)) == ALL_WELL


def test_more_brokers_expected_than_there_are_is_a_finding(config):
    (finding,) = seen(config, Kafka(brokers=5, severity=Severity.P2))["kafka_brokers", ""].findings
    assert finding.summary == "3 of 5 Kafka brokers answer"
    assert finding.severity is Severity.P2


def test_a_server_that_accepts_and_never_answers_costs_less_than_five_seconds():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        outcomes = seen({"bootstrap.servers": f"127.0.0.1:{mute.getsockname()[1]}"})
    (finding,) = outcomes["kafka_brokers", ""].findings
    assert finding.summary.endswith("no answer within 3 s")
    assert outcomes["kafka_lag", SCHEDULER].state == "unknown"


def test_a_configuration_that_librdkafka_does_not_take_is_unknown_and_says_which_key(config):
    outcomes = seen({**config, "bootstrap.server": "typo"})
    outcome = outcomes["kafka_brokers", ""]
    assert outcome.state == "unknown"
    assert 'No such configuration property: "bootstrap.server"' in outcome.reason
    assert outcome.worst is Severity.P1
    assert outcomes["kafka_lag", SCHEDULER].explained_by == "kafka_brokers"


def test_a_wrong_password_is_told_from_brokers_that_are_down(home):
    certificate = certificates.issue(home, "kafka", "localhost", "127.0.0.1")
    port = home.port("kafka.tls")
    command = [sys.executable, "-m", "sandbox.kafka", home.directory("kafka-tls"), port]
    options = ["--user", "ann:right", "--certificate", certificate]
    processes.start(
        home,
        "kafka.tls",
        [str(part) for part in (*command, *options)],
        cwd=REPOSITORY,
        ready=lambda: processes.listening(port),
    )
    config = {
        "bootstrap.servers": f"127.0.0.1:{port}",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "ann",
        "ssl.ca.location": str(home.path / "certificates" / "ca.pem"),
    }
    try:
        assert states(seen({**config, "sasl.password": "right"}, Kafka())) == {"kafka_brokers": "ok"}
        (finding,) = seen({**config, "sasl.password": "wrong"}, Kafka(), timeout_s=1)["kafka_brokers", ""].findings
    finally:
        processes.stop(home, "kafka.tls")
    assert finding.object == "credentials"
    assert finding.summary.startswith("Kafka refuses the credentials: ")
    assert "wrong" not in finding.summary.replace("credentials", "")


def test_nothing_is_written_to_stderr_and_importing_it_costs_no_client(home):
    script = (
        "import sys\nfrom upkeep.health.kafka import look\nfrom upkeep.platforms.services import Kafka\n"
        "assert not {'confluent_kafka', 'airflow'} & set(sys.modules)\n"
        "print(look(Kafka(), {'bootstrap.servers': '127.0.0.1:1'}, timeout_s=0.5)[0].state)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("finding\n", "")
    assert not logging.getLogger("upkeep.kafka.librdkafka").propagate
