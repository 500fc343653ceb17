"""``python -m sandbox.kubernetes``: run one cluster until SIGTERM."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path

from sandbox.kubernetes.access import Access, User
from sandbox.kubernetes.cluster import Cluster, Pace
from sandbox.kubernetes.server import Server


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.kubernetes", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path, required=True, help="PEM: key, certificate, chain")
    parser.add_argument("--directory", type=Path, required=True, help="where the state and the logs are kept")
    parser.add_argument("--tokens", type=Path, required=True, help='JSON: {token: {"name": ..., "groups": [...]}}')
    parser.add_argument("--pace", default="{}", help="JSON: fields of cluster.Pace")
    arguments = parser.parse_args()
    read = json.loads(arguments.tokens.read_text())
    tokens = {token: User(user["name"], tuple(user.get("groups", ()))) for token, user in read.items()}
    cluster = Cluster(arguments.directory, Access(tokens), Pace(**json.loads(arguments.pace)))
    server = Server(arguments.port, arguments.certificate, cluster)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    cluster.start()
    threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
    ended.wait()
    server.shutdown()
    cluster.stop()


if __name__ == "__main__":
    main()
