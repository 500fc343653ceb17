"""Hooks where the providers' own fall short. Import it inside functions only: the providers are not light."""

from __future__ import annotations

from typing import Any

from airflow.providers.pagerduty.hooks.pagerduty_events import PagerdutyEventsHook as ProviderHook
from airflow.providers.slack.hooks.slack import SlackHook
from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
from airflow.sdk import BaseHook
from pagerduty import EventsApiV2Client
from slack_sdk.webhook import WebhookClient

from upkeep.connections import kafka_config


class PagerdutyEventsHook(ProviderHook):
    """
    The provider's hook, plus what it lacks: a base URL (EU region, test servers) and bounded time.

    The connection's host is the base URL: ``https://events.eu.pagerduty.com``; empty means PagerDuty's default.
    """

    def __init__(self, pagerduty_events_conn_id: str) -> None:
        super().__init__(pagerduty_events_conn_id=pagerduty_events_conn_id)
        host = self.get_connection(pagerduty_events_conn_id).host or ""
        self.base_url = host if "://" in host or not host else f"https://{host}"

    def get_conn(self) -> EventsApiV2Client:
        """The official client, made to try once: the outbox does the waiting, and does it durably."""
        client = EventsApiV2Client(self.integration_key, base_url=self.base_url or None)
        client.timeout = 4
        # Left alone it retries 429 without end, asleep for hours (research: pagerduty 7.2.0).
        client.retry = dict.fromkeys((429, 500, 502, 503, 504), 1)
        client.max_http_attempts = -1
        client.max_network_attempts = 0
        return client


class KafkaHook(BaseHook):
    """A connection of type ``kafka``: its extra is librdkafka configuration."""

    conn_name_attr = "kafka_conn_id"
    conn_type = "kafka"
    hook_name = "Apache Kafka"

    def __init__(self, kafka_conn_id: str) -> None:
        super().__init__()
        self.kafka_conn_id = kafka_conn_id

    def get_conn(self) -> Any:
        """An admin client whose requests are bounded without aborting the process (see ``upkeep.kafka``)."""
        from upkeep.kafka import connect

        return connect(kafka_config(self.kafka_conn_id))


def slack(conn_id: str) -> SlackHook:
    """Slack's Web API with a short time-out; retries are the outbox's."""
    return SlackHook(slack_conn_id=conn_id, timeout=4, retry_handlers=[])


def slack_webhook(conn_id: str) -> WebhookClient:
    """Slack's incoming webhook with a short time-out; retries are the outbox's."""
    return SlackWebhookHook(slack_webhook_conn_id=conn_id, timeout=4, retry_handlers=[]).client
