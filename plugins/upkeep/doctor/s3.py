"""S3: whether a bucket is there and may be read."""

from __future__ import annotations

from typing import Any

from upkeep.doctor.verdict import fine, missing
from upkeep.findings import Outcome
from upkeep.health.side_by_side import one_line


def look(client: Any, conn_id: str, bucket: str, *, writes: bool) -> list[Outcome]:
    """
    :param client: boto3's, for S3.
    :param writes: also say which right writing needs; nothing is written here.
    """
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        client.head_bucket(Bucket=bucket)
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as refused:
        status = refused.response["ResponseMetadata"]["HTTPStatusCode"]
        if status == 404:
            return [missing("bucket", conn_id, f"no bucket {bucket}", f"aws s3 mb s3://{bucket}, or correct the name")]
        actions = ["s3:ListBucket", "s3:GetObject", *(["s3:PutObject", "s3:DeleteObject"] if writes else [])]
        cure = f"allow {', '.join(actions)} on arn:aws:s3:::{bucket} and arn:aws:s3:::{bucket}/*, or correct the keys"
        return [missing("bucket", conn_id, f"{bucket}: {one_line(refused)}", cure)]
    except BotoCoreError as down:
        cure = f"correct endpoint_url, region or keys of connection {conn_id}"
        return [missing("connect", conn_id, one_line(down), cure)]
    return [fine("bucket", conn_id, f"s3://{bucket} may be read")]
