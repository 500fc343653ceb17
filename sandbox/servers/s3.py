"""S3: ``rclone serve s3`` over a directory; buckets are its subdirectories.

Real bytes and checked signatures, but a part of the API only: no versions, lifecycle or object lock, and boto3 must not
ask for its newer checksums, which the published connections see to.
"""

from __future__ import annotations

import random
import secrets
from typing import Any

from sandbox import binaries, processes
from sandbox.faults import fault
from sandbox.home import Home

NAME = "s3"
PORT = 29000
BUCKETS = ("studyspot-files", "studyspot-backups", "adaptive-learning-backups", "upkeep-reports")
CONNECTIONS = ("studyspot_s3", "studyspot_backup_s3", "adaptive_learning_s3", "adaptive_learning_backup_s3")


def start_s3(home: Home) -> None:
    """One server for both platforms and for the reports."""
    if not processes.running(home, NAME):
        port = home.port(NAME, PORT)
        known = home.facts(NAME)
        key = known.get("key") or secrets.token_hex(10).upper()
        secret = known.get("secret") or secrets.token_urlsafe(30)
        root = home.directory(NAME)
        home.remember(NAME, port=port, key=key, secret=secret, endpoint_url=f"http://127.0.0.1:{port}", root=str(root))
        for bucket in BUCKETS:
            (root / bucket).mkdir(exist_ok=True)
        _upload(home)
        processes.start(
            home,
            NAME,
            # Files that are put beside it appear after the cache's time, five minutes by default.
            [binaries.rclone(), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--dir-cache-time", "2s", root],
            # Not among the arguments, which anybody may read; quoted, because rclone reads a list separated by commas.
            env={"RCLONE_AUTH_KEY": f'"{key},{secret}"', "RCLONE_CONFIG": ""},
            ready=lambda: processes.listening(port),
        )
    for conn_id in CONNECTIONS:
        home.connect(conn_id, connection_to(home))


def connection_to(home: Home) -> dict[str, Any]:
    """The server as an Airflow connection of the amazon provider."""
    facts = home.facts(NAME)
    return {
        "conn_type": "aws",
        "login": facts["key"],
        "password": facts["secret"],
        "extra": {
            "endpoint_url": facts["endpoint_url"],
            "region_name": "us-east-1",
            "config_kwargs": {
                "s3": {"addressing_style": "path"},
                "signature_version": "s3v4",
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        },
    }


def _upload(home: Home) -> None:
    """What StudySpot's users uploaded; the same files each time."""
    files = home.directory(NAME) / "studyspot-files"
    if any(files.iterdir()):
        return
    dice = random.Random("studyspot-files")
    for number in range(40):
        target = files / "avatars" / f"{dice.randbytes(8).hex()}.webp"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(dice.randbytes(dice.randrange(2_000, 60_000)))
        plan = files / "floor-plans" / f"library-{number}.svg"
        plan.parent.mkdir(exist_ok=True)
        seats = (
            f'<rect x="{dice.randrange(900)}" y="{dice.randrange(600)}" width="8" height="8"/>' for _ in range(200)
        )
        plan.write_text('<svg xmlns="http://www.w3.org/2000/svg">' + "".join(seats) + "</svg>")


fault("s3_down", "the S3 server is stopped", break_=lambda home: processes.stop(home, NAME), heal=start_s3)
