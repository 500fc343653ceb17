"""What faults tell the double directly: a backlog at once, a broker gone, a partition without a leader."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from sandbox.kafka.apis import CONTROL, METADATA, PRODUCE, Api
from sandbox.kafka.records import batch_of
from sandbox.kafka.wire import Reader, int32

_BATCH = 5_000


def ask(port: int, api: Api, request: dict[str, Any], *, timeout_s: float = 10.0) -> dict[str, Any]:
    """One request to one broker. :raises OSError: it is not there, or does not answer."""
    body = bytearray(struct.pack(">hhih", api.key, api.most, 1, -1))
    api.request.write(body, request, api.most)
    with socket.create_connection(("127.0.0.1", port), timeout_s) as broker:
        broker.sendall(struct.pack(">i", len(body)) + body)
        answers = broker.makefile("rb")
        (size,) = struct.unpack(">i", answers.read(4))
        reader = Reader(answers.read(size))
    int32.read(reader, 0)
    return dict(api.response.read(reader, api.most))


def control(ports: Sequence[int], **order: Any) -> None:
    """
    ``down=[3]``, ``hanging=[2]``, ``failed_dirs=[2]`` (broker ids), ``offline=[("orders", 0)]``, ``private=["group"]``;
    each replaces what was set before.

    :raises ConnectionError: no broker answers.
    """
    for port in ports:
        try:
            ask(port, CONTROL, {"order": json.dumps(order)})
        except OSError:
            continue
        return
    raise ConnectionError(f"no broker answers on {list(ports)}")


def backlog(port: int, topic: str, count: int) -> None:
    """Append ``count`` messages to the topic, evenly over its partitions, in less than a second."""
    asked = {"topics": [topic], "auto_create": False, "cluster_operations": False, "topic_operations": False}
    metadata = ask(port, METADATA, asked)
    ports = {broker["id"]: broker["port"] for broker in metadata["brokers"]}
    partitions = metadata["topics"][0]["partitions"]
    event = json.dumps({"user": "u-0", "item": "i-0", "correct": True}).encode()
    ready: dict[int, bytes] = {}
    for place, partition in enumerate(partitions):
        left = count // len(partitions) + (place < count % len(partitions))
        while left > 0:
            size = min(left, _BATCH)
            ready[size] = ready.get(size) or batch_of(event, size)
            records = [{"name": topic, "partitions": [{"index": partition["index"], "records": ready[size]}]}]
            request = {"transactional_id": None, "acks": 1, "timeout_ms": 5000, "topics": records}
            answer = ask(ports[partition["leader"]], PRODUCE, request)["topics"][0]["partitions"][0]
            if answer["error"]:
                raise ConnectionError(f"{topic}/{partition['index']}: error {answer['error']}")
            left -= size
