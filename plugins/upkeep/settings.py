"""Global settings: ``include/upkeep.yaml``, each overridable by an environment variable ``UPKEEP_<KEY>``.

The only module that reads environment variables.
"""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from upkeep.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
"""The directory that holds ``dags``, ``plugins`` and ``include``."""


class Settings(BaseModel):
    """What is the same for all platforms. Environment variables win over the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    platforms: Path = ROOT / "include" / "platforms"
    """Directory of the platform files."""

    reports: str = f"file://{ROOT / 'reports'}"
    """Where reports are stored: a URL that Airflow's object storage understands (``s3://conn_id@bucket/reports``)."""

    spool: Path = ROOT / "reports" / "spool"
    """Directory for alerts while the ledger is down; on a volume that all Airflow processes share."""

    airflow_url: str = "http://localhost:8080"
    """Where people open Airflow; links in alerts and reports begin with it."""

    host_root: str = "/"
    """Where a worker sees the file trees of the platform's hosts (as node exporter's ``--path.rootfs``)."""

    connect_to: dict[str, str] = Field(default_factory=dict)
    """``{"api.studyspot.com:443": "10.0.0.7:443"}``: other addresses for hosts named in platform files; host name,
    SNI and certificate checks stay those of the name (as curl's ``--connect-to``)."""

    postgres_programs: tuple[Path, ...] = ()
    """Directories with PostgreSQL's programs (``pg_dump``, ``postgres``) that are not where packages put them."""

    scratch: Path = Path(tempfile.gettempdir())
    """Where verification builds throw-away database clusters; needs room for the largest database."""

    approvers: tuple[str, ...] = ()
    """Airflow users who may say yes where a platform names nobody."""

    @field_validator("airflow_url")
    @classmethod
    def _no_slash(cls, value: str) -> str:
        return value.rstrip("/")


@cache
def settings() -> Settings:
    """
    The settings of this process, read once.

    :raises SettingsError: the file cannot be read, or a value is wrong.
    """
    file = Path(os.environ.get("UPKEEP_SETTINGS", ROOT / "include" / "upkeep.yaml"))
    try:
        content = yaml.safe_load(file.read_text()) if file.exists() else {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as wrong:
        raise SettingsError(
            f"{file}: cannot be read: {' '.join(str(wrong).split())}",
            hint="mend it; include/upkeep.yaml is complete.",
        ) from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"{file}: settings are a mapping, got {type(content).__name__}", hint="key: value, per line."
        )
    for key in Settings.model_fields:
        if (value := os.environ.get(f"UPKEEP_{key.upper()}")) is not None:
            content[key] = yaml.safe_load(value) if key in ("connect_to", "approvers", "postgres_programs") else value
    try:
        return Settings.model_validate(content)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"{file}: `{key}` is wrong: {first['msg']}, got {first['input']!r}",
            hint="every key is described in plugins/upkeep/settings.py.",
        ) from None
