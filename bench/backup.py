"""
A backup of 1.2 GB with digests of its snapshot and upload, against the handbook's dump to a file, gzip and upload.

Ours is a process of its own, so that its memory can be told. Beside it, for judging the cost of proof:
a bare ``pg_dump -Fc -Z0`` to nowhere, and a plain ``pg_dump -Fc -Z zstd:1`` that is uploaded when it is done.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.baselines.backup import back_up
from bench.server import Server, server
from bench.timing import RUNS
from sandbox import data
from sandbox.home import REPOSITORY
from sandbox.servers import s3

BUCKET = "studyspot-backups"
SCALE = 20

WORKER = """
import json, resource, sys, time
from pathlib import Path
from bench.backup import client
from upkeep.backup import dump, programs
from upkeep.backup.store import Store

said = json.loads(sys.argv[1])
directories = [Path(said["programs"])]
store = Store(client(said["s3"]), "studyspot-backups")
job = dump.Job("studyspot", said["conninfo"], store, "database/")
began = time.monotonic()
made = dump.dump(job, lambda version: programs.client(version, directories))
print(json.dumps({
    "id": made.manifest.id,
    "bytes": made.manifest.size,
    "source_bytes": made.manifest.database.source_bytes,
    "seconds": time.monotonic() - began,
    "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "children_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
}))
"""


def client(connection: dict[str, Any]) -> Any:
    """As ``upkeep.connections.s3_client`` makes it, without Airflow."""
    import boto3
    from botocore.config import Config

    settings = connection["extra"]["config_kwargs"]
    return boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        endpoint_url=connection["extra"]["endpoint_url"],
        region_name="us-east-1",
        config=Config(**{**settings, "s3": {**settings["s3"], "payload_signing_enabled": False}}),
    )


@contextmanager
def prepared(scale: int) -> Iterator[Server]:
    """StudySpot's sample data, and an S3 server."""
    with server(shared_buffers="256MB") as made:
        s3.start_s3(made.home)
        data.load(made.application, "studyspot", scale)
        yield made


def ours(made: Server) -> dict[str, Any]:
    """One backup by a process of its own."""
    said = {
        "conninfo": made.maintenance,
        "s3": s3.connection_to(made.home),
        "programs": str(made.programs),
    }
    done = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps(said)],
        env={**made.env, "PYTHONPATH": ".:plugins"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def backup(scale: int = SCALE) -> dict[str, Any]:
    """All in turn, medians."""
    with prepared(scale) as made, tempfile.TemporaryDirectory() as place:
        s3_client = client(s3.connection_to(made.home))
        dump, url = str(made.programs / "pg_dump"), made.superuser
        reports: list[dict[str, Any]] = []

        def plain_zstd() -> None:
            file = Path(place) / "plain.dump"
            subprocess.run([dump, "-Fc", "-Z", "zstd:1", "-f", file, url], env=made.env, check=True)
            s3_client.upload_file(str(file), BUCKET, "plain.dump")

        def reported() -> dict[str, Any]:
            reports.append(ours(made))
            return reports[-1]

        rivals: dict[str, Callable[[], Any]] = {
            "ours": reported,
            "baseline": lambda: back_up(s3_client, dump, url, made.env, Path(place), BUCKET, "handbook.sql.gz"),
            "bare_pg_dump": lambda: subprocess.run(
                f"'{dump}' -Fc -Z0 '{url}' > /dev/null", shell=True, env=made.env, check=True
            ),
            "plain_zstd_and_upload": plain_zstd,
        }
        seen: dict[str, list[float]] = {name: [] for name in rivals}
        for number in range(RUNS + 1):
            for name, rival in rivals.items():
                if number or name in ("ours", "bare_pg_dump"):  # the first round only warms up
                    began = time.perf_counter()
                    report = rival()
                    if number:
                        # Starting Python and importing boto3 is in nobody's time.
                        took = report["seconds"] if name == "ours" else time.perf_counter() - began
                        seen[name].append(took)
            for one in s3_client.list_objects_v2(Bucket=BUCKET, Prefix="database/").get("Contents", ()):
                s3_client.delete_object(Bucket=BUCKET, Key=one["Key"])
        compressed = s3_client.head_object(Bucket=BUCKET, Key="handbook.sql.gz")["ContentLength"]
    medians = {name: round(statistics.median(times), 2) for name, times in seen.items()}
    return {
        **medians,
        "ratio": round(statistics.median(a / b for a, b in zip(seen["ours"], seen["baseline"], strict=True)), 3),
        "over_bare_pg_dump": round(medians["ours"] / medians["bare_pg_dump"], 2),
        "scale": scale,
        "database_mb": round(reports[-1]["source_bytes"] / 1e6),
        "ours_mb": round(reports[-1]["bytes"] / 1e6),
        "baseline_mb": round(compressed / 1e6),
        "ours_memory_mb": round(max(one["memory_mb"] for one in reports)),
        "pg_dump_memory_mb": round(max(one["children_mb"] for one in reports)),
        "runs": RUNS,
    }
