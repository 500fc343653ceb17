"""S3: the bytes of a bucket's current objects, by listing it; never without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from upkeep.capacity.sampling.measured import Measured, NotMeasured

MOST_OBJECTS = 1_000_000

MOST_SECONDS = 120.0


def bucket(client: Any, name: str) -> Iterator[Measured]:
    """:raises NotMeasured: it holds more than is worth listing every day."""
    size = count = 0
    deadline = time.monotonic() + MOST_SECONDS
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        objects = page.get("Contents") or []
        size, count = size + sum(each["Size"] for each in objects), count + len(objects)
        if count >= MOST_OBJECTS or time.monotonic() > deadline:
            if page.get("IsTruncated"):
                raise NotMeasured(
                    f"bucket {name} holds more than {count:,} objects, too many to list every day",
                    hint="look at the store's own metrics (S3: BucketSizeBytes); its sample stays a gap.",
                )
            break
    yield Measured(metric="bucket_bytes", object=name, value=size)
    yield Measured(metric="bucket_objects", object=name, value=count)
