"""Topics against their policies, on brokers of the sandbox whose configuration drifts."""

from __future__ import annotations

import base64
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from sandbox import certificates, processes
from sandbox.faults import break_it, heal_it
from sandbox.home import REPOSITORY, Home
from sandbox.kafka import orders
from sandbox.kafka.client import retain
from sandbox.servers.kafka import BROKERS, bootstrap_of, ports_of, start_kafka, stop_kafka
from upkeep.cleanup.log_dirs import LogDirsUnreadable, Scram, describe_log_dirs
from upkeep.cleanup.topics import look
from upkeep.errors import CredentialsError
from upkeep.findings import Finding, Outcome, Severity
from upkeep.platforms.services import Kafka

SETTINGS = Kafka(
    brokers=3,
    topics=(
        {"pattern": "attempts.*", "keep": "7d", "size": "1GB"},
        {"pattern": "mastery.updates", "keep": "3d"},
        {"pattern": "notifications", "keep": "7d"},
    ),
)


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


def seen(config: dict[str, str], settings: Kafka = SETTINGS) -> dict[tuple[str, str], Outcome]:
    began = time.monotonic()
    outcomes = look(settings, config)
    assert time.monotonic() - began < 5
    return {(outcome.check, outcome.object): outcome for outcome in outcomes}


def the_finding(config: dict[str, str], check: str = "kafka_retention", settings: Kafka = SETTINGS) -> Finding:
    outcome = seen(config, settings)[check, ""]
    assert outcome.state == "finding"
    (finding,) = outcome.findings
    return finding


def test_topics_that_keep_to_their_policy_are_ok(config):
    outcomes = seen(config)
    assert {place: outcome.state for place, outcome in outcomes.items()} == {
        ("kafka_retention", ""): "ok",
        ("kafka_log_dirs", ""): "ok",
    }
    sizes = outcomes["kafka_log_dirs", ""].facts
    assert sizes["bytes"]["attempts.events"] > 0
    assert sizes["bytes_with_replicas"]["attempts.events"] == 3 * sizes["bytes"]["attempts.events"]


def test_a_topic_that_keeps_its_messages_for_ever_is_a_finding_with_the_change_that_mends_it(home, config):
    break_it(home, "adaptive_learning_topic_retention")
    try:
        finding = the_finding(config)
        assert finding.object == "notifications"
        assert finding.severity is Severity.P3
        assert finding.summary == "topic notifications keeps its messages for ever; the policy says 1w"
        assert finding.facts["change"] == {"retention.ms": ["-1", "604800000"]}
        assert "--entity-name notifications --add-config retention.ms=604800000" in finding.hint
        admin = AdminClient({**config, "log_level": 0})
        (asked,) = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "notifications")]).values()
        assert asked.result(5)["retention.ms"].value == "-1", "it only looks"
    finally:
        heal_it(home, "adaptive_learning_topic_retention")
    assert seen(config)["kafka_retention", ""].state == "ok"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (30 * 86_400_000, "topic notifications keeps its messages for 30d; the policy says 1w"),
        (None, "topic notifications has no retention of its own (the brokers' default is 1w); the policy says 1w"),
    ],
)
def test_a_retention_that_is_too_long_or_not_the_topics_own_is_a_finding(home, config, value, said):
    retain(bootstrap_of(home), "notifications", value)
    try:
        assert the_finding(config).summary == said
    finally:
        heal_it(home, "adaptive_learning_topic_retention")
    assert seen(config)["kafka_retention", ""].state == "ok"


def test_a_topic_that_is_only_compacted_never_ages_out(home, config):
    admin = AdminClient({**config, "log_level": 0})

    def clean_up(policy: str) -> None:
        entry = ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET)
        topic = ConfigResource(ConfigResource.Type.TOPIC, "mastery.updates", incremental_configs=[entry])
        for altered in admin.incremental_alter_configs([topic]).values():
            altered.result(5)

    clean_up("compact")
    try:
        finding = the_finding(config)
        assert finding.summary.startswith("topic mastery.updates is only compacted, so its messages never age out")
        assert finding.hint.endswith("--add-config retention.ms=259200000,cleanup.policy=[compact,delete]")
    finally:
        clean_up("delete")
    assert seen(config)["kafka_retention", ""].state == "ok"


def test_topics_without_a_policy_and_policies_without_a_topic_are_notes(config):
    admin = AdminClient({**config, "log_level": 0})
    admin.create_topics([NewTopic("scratch", 1, 1), NewTopic("_schemas", 1, 1)])["scratch"].result(5)
    try:
        finding = the_finding(config)
        assert (finding.object, finding.severity) == ("unmatched_topics", Severity.P4)
        assert finding.summary == "1 of 4 topics match no policy: scratch"
        settings = Kafka(
            brokers=3, topics=({"pattern": "*", "keep": "7d"}, {"pattern": "mastery_updates", "keep": "3d"})
        )
        by_object = {finding.object: finding for finding in seen(config, settings)["kafka_retention", ""].findings}
        assert by_object["unused_policies"].summary == "1 topic policies match no topic: mastery_updates"
        assert by_object["scratch"].summary.startswith("topic scratch has no retention of its own")
    finally:
        for deleted in admin.delete_topics(["scratch", "_schemas"]).values():
            deleted.result(5)


def test_a_topic_larger_than_its_policy_allows_is_a_finding_with_its_bytes(home, config):
    orders.backlog(ports_of(home)[0], "notifications", 200_000)
    settings = Kafka(brokers=3, topics=({"pattern": "*", "keep": "30d", "size": "200kB"},))
    finding = the_finding(config, "kafka_log_dirs", settings)
    logs = sum(path.stat().st_size for path in (home.path / "kafka" / "logs").glob("notifications-*.log"))
    assert finding.object == "notifications"
    assert 200_000 < finding.facts["bytes"] <= logs
    assert finding.summary == f"topic notifications holds {finding.facts['bytes']:,} bytes; the policy allows 200,000"
    larger = Kafka(brokers=3, topics=({"pattern": "*", "keep": "30d", "size": "200MB"},))
    assert seen(config, larger)["kafka_log_dirs", ""].state == "ok"


def test_a_log_directory_that_failed_is_a_finding_of_the_sections_severity(home, config):
    break_it(home, "adaptive_learning_offline_partition")
    try:
        findings = seen(config)["kafka_log_dirs", ""].findings
        assert [finding.object for finding in findings] == [f"{id}/var/lib/kafka/data-1" for id in (1, 2, 3)]
        assert findings[0].summary == "log directory /var/lib/kafka/data-1 of broker 1 is offline (error 56)"
        assert {finding.severity for finding in findings} == {Severity.P1}
    finally:
        heal_it(home, "adaptive_learning_offline_partition")
    assert seen(config)["kafka_log_dirs", ""].state == "ok"


def test_a_log_directory_without_partitions_fails_unnoticed_by_the_brokers_but_not_here(home, config):
    break_it(home, "adaptive_learning_log_directory_failed")
    try:
        (finding,) = seen(config)["kafka_log_dirs", ""].findings
        assert (finding.object, finding.severity) == ("2/var/lib/kafka/data-1", Severity.P1)
    finally:
        heal_it(home, "adaptive_learning_log_directory_failed")
    assert seen(config)["kafka_log_dirs", ""].state == "ok"


def test_brokers_that_cannot_be_reached_make_everything_unknown(home, config):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(64)
        outcomes = seen({"bootstrap.servers": f"127.0.0.1:{mute.getsockname()[1]}"})
        assert {outcome.state for outcome in outcomes.values()} == {"unknown"}
        assert outcomes["kafka_retention", ""].worst is Severity.P3
        assert "no answer within 3 s" in outcomes["kafka_retention", ""].reason
        with pytest.raises(LogDirsUnreadable, match="no answer in time"):
            describe_log_dirs("127.0.0.1", mute.getsockname()[1], {}, time.monotonic() + 0.3)


def test_one_broker_that_hangs_makes_sizes_unknown_and_repairs_nothing(home, config):
    break_it(home, "adaptive_learning_kafka_broker_hangs")
    try:
        outcome = seen(config)["kafka_log_dirs", ""]
        assert (outcome.state, outcome.worst) == ("unknown", Severity.P3)
        assert outcome.reason.startswith("broker 2: log directories of 127.0.0.1:")
    finally:
        heal_it(home, "adaptive_learning_kafka_broker_hangs")


def test_sizes_are_read_through_tls_and_a_password_and_a_wrong_one_is_named(home):
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
        "security.protocol": "sasl_ssl",
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "ann",
        "sasl.password": "right",
        "ssl.ca.location": str(home.path / "certificates" / "ca.pem"),
    }

    def ask(**other: str) -> list:
        return describe_log_dirs("127.0.0.1", port, {**config, **other}, time.monotonic() + 3)

    try:
        assert [log_dir.error for log_dir in ask()] == [0, 0]
        with pytest.raises(CredentialsError, match="refuses the credentials"):
            ask(**{"sasl.password": "wrong"})
        with pytest.raises(CredentialsError, match="does not take SASL SCRAM-SHA-256"):
            ask(**{"sasl.mechanisms": "SCRAM-SHA-256"})
        with pytest.raises(LogDirsUnreadable, match="SASL GSSAPI is not spoken here"):
            ask(**{"sasl.mechanisms": "GSSAPI"})
        with pytest.raises(LogDirsUnreadable, match="hung up"):
            ask(**{"security.protocol": "plaintext"})
        with pytest.raises(LogDirsUnreadable, match="certificate verify failed"):
            ask(**{"ssl.ca.location": ""})
    finally:
        processes.stop(home, "kafka.tls")


def test_scram_says_what_the_standards_example_says():
    # The exchange of RFC 7677, section 3.
    scram = Scram("sha256", "user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    assert scram.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    final = scram.final(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode())
    assert final == f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    with pytest.raises(OSError, match="makes no sense"):
        scram.final(f"r=another,s={base64.b64encode(b'salt').decode()},i=4096".encode())
