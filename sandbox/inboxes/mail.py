"""A mail server that takes everything and delivers nothing: a double, RFC 5321 as far as senders of ours go."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import Callable
from typing import Any

MOST_BYTES = 10 * 1024 * 1024


async def serve_mail(port: int, take: Callable[[dict[str, Any]], None]) -> asyncio.Server:
    """Listen on loopback; ``take`` gets ``{"from", "to", "subject", "message_id", "body"}`` of each mail."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        sender, receivers = "", []
        try:
            await say("220 inboxes ESMTP")
            while line := await reader.readline():
                verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
                match verb.upper():
                    case "EHLO" | "HELO":
                        await say("250 inboxes")
                    case "MAIL":
                        sender, receivers = rest.partition(":")[2].strip(" <>"), []
                        await say("250 OK")
                    case "RCPT" if sender:
                        receivers.append(rest.partition(":")[2].strip(" <>"))
                        await say("250 OK")
                    case "DATA" if receivers:
                        await say("354 end with .")
                        raw = await reader.readuntil(b"\r\n.\r\n")
                        take(_read(sender, receivers, raw[:-3]))
                        await say("250 OK")
                    case "RSET" | "NOOP":
                        await say("250 OK")
                    case "QUIT":
                        await say("221 bye")
                        return
                    case _:
                        await say("503 not now")
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", port, limit=MOST_BYTES)


def _read(sender: str, receivers: list[str], raw: bytes) -> dict[str, Any]:
    found = email.message_from_bytes(raw.replace(b"\r\n..", b"\r\n."), policy=email.policy.default)
    body = found.get_body(("plain",))
    return {
        "from": sender,
        "to": receivers,
        "subject": str(found["Subject"] or ""),
        "message_id": str(found["Message-ID"] or ""),
        "body": body.get_content() if body else "",
    }
