"""
The dead man's switch: a sign of life to whoever expects one, and silence when Upkeep could call nobody.

The connection `upkeep_heartbeat` says where to: host and password together are the URL (`https://hc-ping.com` and the
check's secret path), extra may hold `{"method": "POST", "headers": {…}, "body": {…}}` for services that want those.
"""

from __future__ import annotations

import logging

from upkeep.alerts.redact import redact
from upkeep.connections import connection
from upkeep.errors import SettingsError
from upkeep.ledger import Ledger

log = logging.getLogger(__name__)

HEARTBEAT = "upkeep_heartbeat"

STUCK_S = 600
"""A page that no channel has taken for so long: then silence calls somebody."""


def give_sign_of_life(ledger: Ledger) -> str:
    """
    Say that scheduler, ledger and delivery live: this runs in the one, reads the other, and asks what is stuck.

    :returns: what happened, for the log.
    """
    import httpx

    try:
        found = connection(HEARTBEAT)
    except SettingsError:
        return f"nobody expects a sign of life: no connection {HEARTBEAT}"
    if waiting := stuck(ledger):
        log.error("%d pages reach nobody; no sign of life until they do", waiting)
        return f"silent: {waiting} pages reach nobody"
    extra = found.extra_dejson
    url = "/".join(part.strip("/") for part in (found.host or "", found.password or "") if part)
    url = url if "://" in url else f"https://{url}"
    method = str(extra.get("method", "GET")).upper()
    body = extra.get("body")
    try:
        answer = httpx.request(
            method, url, timeout=4, headers=extra.get("headers"), **({"json": body} if body is not None else {})
        )
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as away:
        # The URL is a secret, and httpx quotes it.
        said = redact(str(away)).replace(url, "(its URL)")
        log.error("the sign of life did not arrive: %s", said)
        return f"did not arrive: {type(away).__name__}"
    return f"given, answered {answer.status_code}"


def stuck(ledger: Ledger) -> int:
    """Pages that nobody has heard of by any channel for ten minutes."""
    rows = ledger.rows(
        "select count(*) as number from outbox as o where o.channel = 'pagerduty' and o.event = 'trigger'"
        " and o.state <> 'delivered' and o.created_at < clock_timestamp() - make_interval(secs => %s)"
        " and exists (select from findings as f where f.key = o.key and f.state = 'open')"
        " and not exists (select from outbox as other where other.key = o.key and other.state = 'delivered'"
        " and other.created_at >= o.created_at - interval '1 minute')",
        [STUCK_S],
    )
    return int(rows[0]["number"])
