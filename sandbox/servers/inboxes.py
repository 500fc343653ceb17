"""The inboxes of PagerDuty, Slack, mail, signs of life and the CDN, and how they fail."""

from __future__ import annotations

import json
import secrets
import sys
from typing import Any

from sandbox import certificates, processes
from sandbox.faults import fault
from sandbox.home import REPOSITORY, Home
from sandbox.inboxes.client import Inbox

NAME = "inboxes"

HOSTS = ("events.pagerduty.com", "events.eu.pagerduty.com", "api.pagerduty.com", "slack.com", "hooks.slack.com")
"""Who this server pretends to be; published for whoever connects by name, as the EU region asks for."""

CHANNELS = ["ops", "alerts", "alerts", "studyspot-ops", "adaptive-learning-ops", "incidents", "maintenance", "digest"]
STRANGERS = ["general"]
"""Channels that exist without the bot: posting there is not_in_channel."""

USERS = ["upkeep@example.com", "dba@example.com", "oncall@example.com", "manager@example.com"]


def start_inboxes(home: Home) -> None:
    """Start them unless they run (what arrived before is kept), and publish the connections of alerts."""
    port, page_port = home.port(NAME, 28444), home.port(f"{NAME}.page", 28080)
    config = _config(home)
    publish(home, port, config)
    if processes.running(home, NAME):
        return
    directory = home.directory(NAME)
    certificate = certificates.issue(home, NAME, "127.0.0.1", "localhost", *HOSTS)
    processes.start(
        home,
        NAME,
        [
            *(sys.executable, "-m", "sandbox.inboxes"),
            *("--port", str(port), "--page-port", str(page_port)),
            *("--mail-port", str(home.port(f"{NAME}.mail", 28025))),
            *("--cert", certificate, "--state", directory / "journal.jsonl", "--config", directory / "config.json"),
        ],
        cwd=REPOSITORY,
        ready=lambda: processes.listening(page_port),
    )


def stop_inboxes(home: Home) -> None:
    processes.stop(home, NAME)


def _config(home: Home) -> dict[str, Any]:
    """Keys made at the first start stay, as those of an account would; channels and people are those of today."""
    file = home.directory(NAME) / "config.json"
    if file.exists():
        config = json.loads(file.read_text())
    else:
        config = {
            "routing_keys": {name: secrets.token_hex(16) for name in ("upkeep", "studyspot", "adaptive_learning")},
            "pagerduty_token": secrets.token_hex(10),
            "slack_token": f"xoxb-{secrets.randbelow(10**12):012d}-{secrets.token_hex(12)}",
            "webhooks": {f"T0UPKEEP/B0OPS/{secrets.token_hex(12)}": "ops"},
        }
        file.touch(mode=0o600)
    # Made by an earlier version, they lack what is newer.
    config.setdefault("cloudflare_zone", secrets.token_hex(16))
    config.setdefault("cloudflare_token", secrets.token_urlsafe(30))
    config |= {"channels": CHANNELS, "strangers": STRANGERS, "users": USERS}
    file.write_text(json.dumps(config, indent=1))
    return dict(config)


def publish(home: Home, port: int, config: dict[str, Any]) -> None:
    url = f"https://127.0.0.1:{port}"
    for host in HOSTS:
        home.connect_to(f"{host}:443", f"127.0.0.1:{port}")
    home.connect(
        "upkeep_pagerduty_events",
        {"conn_type": "pagerduty_events", "password": config["routing_keys"]["upkeep"], "host": url},
    )
    home.connect(
        "upkeep_pagerduty_rest",
        {"conn_type": "pagerduty", "login": USERS[0], "password": config["pagerduty_token"], "host": url},
    )
    home.connect(
        "upkeep_slack",
        {"conn_type": "slack", "password": config["slack_token"], "extra": {"base_url": f"{url}/api/"}},
    )
    home.connect(
        "upkeep_slack_webhook",
        {"conn_type": "slackwebhook", "host": f"{url}/services", "password": next(iter(config["webhooks"]))},
    )
    home.connect(
        "upkeep_smtp",
        {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": home.port(f"{NAME}.mail", 28025),
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": USERS[0]},
        },
    )
    home.connect("upkeep_heartbeat", {"conn_type": "http", "host": f"{url}/ping", "password": "a-sign-of-life"})
    home.connect(
        "studyspot_cdn",
        {
            "conn_type": "http",
            "host": f"{url}/client/v4",
            "password": config["cloudflare_token"],
            "extra": {"zone": config["cloudflare_zone"]},
        },
    )
    home.remember(NAME, routing_keys=config["routing_keys"], page=home.port(f"{NAME}.page"))


def _scripted(name: str, doc: str, *, path: str = "*", **misbehave: Any) -> None:
    fault(
        name,
        doc,
        break_=lambda home: Inbox(home).script(path, name=name, **misbehave),
        heal=lambda home: Inbox(home).unscript(name),
    )


_LIMITED = {"Retry-After": "2", "ratelimit-limit": "480", "ratelimit-remaining": "0", "ratelimit-reset": "2"}

_scripted("pagerduty_down", "PagerDuty answers 503", service="pagerduty", status=503)
_scripted("pagerduty_hangs", "PagerDuty accepts connections, never answers", service="pagerduty", hang_s=120)
_scripted("pagerduty_ratelimited", "PagerDuty answers 429", service="pagerduty", status=429, headers=_LIMITED)
_scripted("pagerduty_answers_nobody", "PagerDuty acts and never says so", path="/v2/*", accept=True, hang_s=120)
_scripted("slack_down", "Slack answers 503", service="slack", status=503)
_scripted("slack_hangs", "Slack accepts connections, never answers", service="slack", hang_s=120)
_scripted("slack_ratelimited", "Slack answers 429", service="slack", status=429, headers={"Retry-After": "2"})
_scripted("slack_refuses", "Slack answers 200, ok: false, internal_error", path="/api/*", error="internal_error")
_scripted("slack_answers_nobody", "Slack posts and never says so", path="/api/chat.*", accept=True, hang_s=120)
fault("inboxes_down", "PagerDuty and Slack refuse connections", break_=stop_inboxes, heal=start_inboxes)
