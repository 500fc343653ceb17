"""
Mail: the third way, when neither PagerDuty nor Slack takes a page.

By the standard library: the provider's SmtpHook tries five times, half a minute each.
"""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import TYPE_CHECKING

from upkeep.alerts.redact import redact
from upkeep.connections import connection
from upkeep.ledger.outbox import Message, NotDelivered

if TYPE_CHECKING:
    from airflow.sdk import Connection

TIMEOUT_S = 4


@contextmanager
def session(found: Connection) -> Iterator[smtplib.SMTP]:
    """
    A server that has taken the login. Extras as the smtp provider names them: ``disable_ssl``, ``disable_tls``.

    :raises smtplib.SMTPException: it refuses. :raises OSError: it does not answer.
    """
    extra, host = found.extra_dejson, found.host or "localhost"
    plain = str(extra.get("disable_ssl", "")).lower() == "true"
    if plain:
        server = smtplib.SMTP(host, found.port or 587, timeout=TIMEOUT_S)
    else:
        server = smtplib.SMTP_SSL(host, found.port or 465, timeout=TIMEOUT_S, context=ssl.create_default_context())
    with server:
        if plain and str(extra.get("disable_tls", "")).lower() != "true":
            server.starttls(context=ssl.create_default_context())
        if found.login:
            server.login(found.login, found.password or "")
        yield server


def send(message: Message) -> str:
    """:raises NotDelivered: no confirmation."""
    found = connection(message.payload["conn_id"])
    mail = EmailMessage()
    mail["Subject"] = message.payload["subject"]
    mail["From"] = found.extra_dejson.get("from_email") or found.login or "upkeep@localhost"
    mail["To"] = ", ".join(message.payload["to"])
    # The same at every attempt: mail programs show it once.
    mail["Message-ID"] = f"<upkeep-{message.id}-{message.created_s:.0f}@{found.host or 'localhost'}>"
    mail.set_content(message.payload["body"])
    try:
        with session(found) as server:
            server.send_message(mail)
    except (smtplib.SMTPException, OSError) as refused:
        raise NotDelivered(f"{type(refused).__name__}: {redact(str(refused))}", down=True) from refused
    return "accepted"
