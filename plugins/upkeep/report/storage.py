"""Where reports are kept: Airflow's object storage, a directory or a bucket."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from upkeep.alerts.redact import redact
from upkeep.connections import connection
from upkeep.errors import UpkeepError
from upkeep.ledger import Ledger, Run
from upkeep.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

PAGE, DATA = "report.html", "report.json"
CAPACITY = "capacity.html"
BESIDE = re.compile(r"capacity\.html|drill-[A-Za-z0-9_]{1,60}\.html")
"""Pages that tasks keep beside their run's report, each written in one go."""

LOCAL = ("", "file", "local")


_HASHED = re.compile(r"(^|\.)[0-9a-f]{16}$")
"""What a name looks like that was made safe; somebody's own name of that look is made safe as well."""


class ReportError(UpkeepError):
    """A report could not be written or read."""


def safe(name: str) -> str:
    """
    ``name`` as one path segment of at most 120 harmless characters; different names stay different.

    A run id holds ``:`` and ``+``, which not every store and file system likes, and somebody may have chosen it
    (``../../etc``): what is replaced is made up for by a part of the name's SHA-256.
    """
    kept = re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip(".")[:100]
    if kept == name and kept and not _HASHED.search(name):
        return kept
    return f"{kept}.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}".lstrip(".")


def root() -> ObjectStoragePath:
    """
    Where all reports are.

    :raises SettingsError: the connection it names does not exist; Airflow would go on without any.
    """
    from airflow.sdk import ObjectStoragePath

    made: ObjectStoragePath = ObjectStoragePath(settings().reports)
    if made.conn_id:
        connection(made.conn_id)
    return made


def place(platform: str, dag_id: str, run_id: str) -> ObjectStoragePath:
    """The directory of one report: ``{reports}/{platform}/{dag_id}/{run_id}``."""
    made: ObjectStoragePath = root() / safe(platform) / safe(dag_id) / safe(run_id)
    return made


def page_url(platform: str, dag_id: str, run_id: str) -> str:
    """Where people open it: behind Airflow's login."""
    parts = "/".join(quote(part, safe="") for part in (platform, dag_id, run_id))
    return f"{settings().airflow_url}/upkeep/reports/{parts}/"


def announce(ledger: Ledger, run: Run, url: str) -> None:
    """Put the report's address on record, so that the page finds it. :raises LedgerError: the ledger is down."""
    with ledger.transaction() as connection:
        connection.execute(
            "insert into runs (dag_id, run_id, platform, report_url) values (%s, %s, %s, %s)"
            " on conflict (dag_id, run_id) do update set report_url = excluded.report_url",
            [run.dag_id, run.run_id, run.platform, url],
        )


def store(platform: str, dag_id: str, run_id: str, page: bytes, data: bytes) -> str:
    """
    Write both files, replacing those of an earlier try; the JSON last: where it is, the report is whole.

    :returns: the URL of their directory.
    :raises ReportError: the storage refused.
    """
    target = place(platform, dag_id, run_id)
    try:
        # A directory tree needs its directories; for an object store a key is enough (and a bucket is never made).
        if target.protocol in LOCAL:
            target.mkdir(parents=True, exist_ok=True)
        (target / DATA).unlink(missing_ok=True)
        (target / PAGE).write_bytes(page)
        (target / DATA).write_bytes(data)
    except Exception as refused:  # Each kind of storage has errors of its own; all of them mean: not written.
        raise _failed("written", target, refused) from refused
    return str(target)


def keep(platform: str, dag_id: str, run_id: str, name: str, content: bytes) -> str:
    """
    Another file beside a run's report, such as ``evidence.json``; it replaces that of an earlier try.

    :returns: its URL.
    :raises ReportError: the storage refused.
    """
    target = place(platform, dag_id, run_id)
    try:
        if target.protocol in LOCAL:
            target.mkdir(parents=True, exist_ok=True)
        (target / safe(name)).write_bytes(content)
    except Exception as refused:
        raise _failed("written", target, refused) from refused
    return str(target / safe(name))


def read(platform: str, dag_id: str, run_id: str, name: str) -> bytes | None:
    """
    ``report.html`` or ``report.json`` of one run, or a page beside it; None when it does not exist or is not whole.

    :raises ReportError: the storage refused.
    """
    beside = BESIDE.fullmatch(name)
    if name not in (PAGE, DATA) and not beside:
        return None
    source = place(platform, dag_id, run_id)
    try:
        if _outside(source / name) or not (beside or (source / DATA).is_file()):
            return None
        return bytes((source / name).read_bytes())
    except FileNotFoundError:
        return None
    except Exception as refused:
        raise _failed("read", source, refused) from refused


def _outside(path: ObjectStoragePath) -> bool:
    """Whether a symbolic link in a directory tree leads out of it."""
    if path.protocol not in LOCAL:
        return False
    return not Path(path.path).resolve().is_relative_to(Path(root().path).resolve())


def _failed(what: str, path: ObjectStoragePath, refused: Exception) -> ReportError:
    said = redact(" ".join(f"{type(refused).__name__}: {refused}".split()))[:300]
    if isinstance(refused, ImportError):
        return ReportError(
            f"the report cannot be {what} at {path}: {said}",
            hint="install what this kind of storage needs on every worker and the API server;"
            " for s3:// that is apache-airflow-providers-amazon[s3fs].",
        )
    return ReportError(
        f"the report cannot be {what} at {path}: {said}",
        hint="`reports` in include/upkeep.yaml must name a place that every worker and the API server can reach:"
        " a shared directory, or s3://connection@bucket/prefix with a connection that may write there.",
    )
