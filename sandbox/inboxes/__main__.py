"""``python -m sandbox.inboxes --port PORT --cert FILE --state FILE --config FILE [--page-port …] [--mail-port …]``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from sandbox.inboxes.server import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox.inboxes", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="HTTPS: both services, control, page")
    parser.add_argument("--page-port", type=int, help="HTTP: the page alone; browsers do not know our authority")
    parser.add_argument("--mail-port", type=int, help="SMTP, without TLS")
    parser.add_argument("--cert", type=Path, required=True, help="PEM: key, certificate, chain")
    parser.add_argument("--state", type=Path, required=True, help="journal of what arrived; kept over restarts")
    parser.add_argument("--config", type=Path, required=True, help="JSON: keys, tokens, channels, people")
    given = parser.parse_args()
    asyncio.run(
        serve(
            port=given.port,
            page_port=given.page_port,
            mail_port=given.mail_port,
            certificate=given.cert,
            state=given.state,
            config=given.config,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
