"""A short-lived admin client for Kafka's checks: silent, bounded, and clear about why it could not look."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from upkeep.errors import CredentialsError, SettingsError, UpkeepError

T = TypeVar("T")

_silent = logging.getLogger("upkeep.kafka.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False
"""librdkafka writes to stderr whatever it is told to, unless it is given a logger; what matters comes as errors."""

_REFUSALS = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE")


class KafkaUnreachable(UpkeepError):
    """No broker answered in time."""


class AskFailed(Exception):
    """A request that brought no result; ``answered`` is False when nobody answered at all."""

    def __init__(self, reason: str, *, answered: bool) -> None:
        super().__init__(reason)
        self.reason, self.answered = reason, answered


PATIENCE_S = 600.0
"""
``request_timeout`` of every request; how long we wait is up to ``within``.

librdkafka must never be the first to give up: when a request for a broker that hangs times out and the broker comes
back while the client lives, librdkafka 2.16 aborts the whole process (``eonce->refcnt > 0``, its issue 4605), and
``list_offsets`` reports success with an offset of -1001. Clients that are dropped with requests under way are well.
"""


@dataclass
class Admin:
    """The official admin client, and the errors that it met in the background."""

    client: Any
    api: Any
    """Module ``confluent_kafka.admin``; half of its names are not exported in the eyes of a type checker."""

    bootstrap: str
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Name and text of each: ``("_TRANSPORT", "127.0.0.1:9092/bootstrap: Connect to … failed")``."""

    def metadata(self, timeout_s: float) -> Any:
        """
        ``confluent_kafka.admin.ClusterMetadata``: brokers, topics, partitions.

        :raises CredentialsError: the brokers refuse the connection's user or certificate.
        :raises KafkaUnreachable: nobody answered within ``timeout_s`` seconds.
        """
        from confluent_kafka import KafkaException

        try:
            return self.client.list_topics(timeout=timeout_s)
        except KafkaException as failed:
            raise self._explained(timeout_s) from failed

    def _explained(self, timeout_s: float) -> UpkeepError:
        # Callbacks run while polling only; the reason is known here, the exception says no more than "timed out".
        while self.client.poll(0.05):
            pass
        refusals = [text for name, text in self.errors if name in _REFUSALS]
        if refusals:
            return CredentialsError(
                f"Kafka refuses the credentials: {refusals[-1]}",
                hint="compare sasl.username, sasl.password and sasl.mechanism of the connection with the brokers'.",
            )
        telling = [text for name, text in self.errors if name != "_ALL_BROKERS_DOWN"]
        reason = telling[-1] if telling else f"no answer within {timeout_s:g} s"
        return KafkaUnreachable(
            f"no Kafka broker answers at {self.bootstrap}: {reason}",
            hint="look whether the brokers run and whether their listeners can be reached from here.",
        )


def connect(config: Mapping[str, Any]) -> Admin:
    """
    An admin client with this librdkafka configuration; nothing is sent yet.

    :raises SettingsError: librdkafka does not take the configuration.
    """
    from confluent_kafka import KafkaException

    api: Any = import_module("confluent_kafka.admin")
    errors: list[tuple[str, str]] = []
    ours: dict[str, Any] = {
        "client.id": "upkeep",
        # When a client ends, librdkafka forgets its logger and writes to stderr again.
        "log_level": 0,
        # A look lives for seconds: a broker that comes back meanwhile should be seen.
        "reconnect.backoff.max.ms": 500,
        "error_cb": lambda error: errors.append((error.name(), error.str())),
    }
    try:
        client = api.AdminClient({**ours, **config}, logger=_silent)
    except (KafkaException, TypeError, ValueError) as wrong:
        raise SettingsError(
            f"librdkafka does not take the Kafka connection's configuration: {wording(wrong)}",
            hint="the extra of the connection is librdkafka configuration, key by key.",
        ) from wrong
    return Admin(client, api, str(config.get("bootstrap.servers", "")), errors)


def within(future: Future[T], timeout_s: float) -> T:
    """
    The result of a request that was sent with ``PATIENCE_S``.

    :raises AskFailed: not within ``timeout_s`` seconds, or the broker or the client says no.
    """
    try:
        failed = future.exception(max(0.05, timeout_s))
    except TimeoutError:
        raise AskFailed("no answer in time", answered=False) from None
    # Not raised itself: with the traceback it would keep this frame, and so the client, alive.
    if failed is not None:
        raise AskFailed(wording(failed), answered=_answered(failed))
    return future.result()


def wording(error: BaseException) -> str:
    """What a KafkaException, or any other exception, says: ``Broker: Group authorization failed``."""
    inner = error.args[0] if error.args else error
    return str(inner.str() if hasattr(inner, "str") else inner)


def _answered(error: BaseException) -> bool:
    """True when ``error`` came from a broker; False when nobody answered: time-out, no connection."""
    code = getattr(error.args[0] if error.args else None, "code", None)
    # librdkafka's own errors are negative; -165 says that the broker, which it had reached, is too old to be asked.
    return bool(callable(code) and (code() >= 0 or code() == -165))
