"""Reading platform files, and saying precisely what is wrong with a bad one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from upkeep.errors import SettingsError
from upkeep.platforms.explain import explain, shown
from upkeep.platforms.model import Platform
from upkeep.platforms.parse import HINT, as_json, parse
from upkeep.platforms.redaction import HIDDEN, find, redact
from upkeep.settings import settings

SECRET = (
    "put it into an Airflow connection, and change it wherever it is valid: it has been written down. "
    "`python -m upkeep check` lists the connections."
)


@dataclass(frozen=True)
class Broken:
    """A platform file that could not be read."""

    file: Path
    error: SettingsError


def platform_files() -> list[Path]:
    """The platform files, by name."""
    return [file for file in _files() if file.suffix == ".yaml"]


def read_all() -> tuple[list[Platform], list[Broken]]:
    """Every platform file: the good ones as models, the others with what is wrong."""
    good: list[Platform] = []
    broken: list[Broken] = []
    try:
        files = _files()
    except SettingsError as error:
        return [], [Broken(settings().platforms, error)]
    for file in files:
        try:
            if file.suffix != ".yaml":
                raise SettingsError(
                    f"{file.name}: platform files end in .yaml, this one is not read",
                    hint=f"rename it to {file.stem}.yaml.",
                )
            good.append(load_file(file))
        except SettingsError as error:
            broken.append(Broken(file, error))
    return good, broken


def _files() -> list[Path]:
    """Whatever was meant as a platform file; editors' hidden files are not. :raises SettingsError: no directory."""
    directory = settings().platforms
    try:
        files = list(directory.iterdir())
    except OSError as gone:
        raise SettingsError(
            f"{directory}: no directory with platform files: {gone.strerror}",
            hint="set `platforms` in include/upkeep.yaml, or UPKEEP_PLATFORMS.",
        ) from None
    return sorted(f for f in files if f.suffix.lower() in (".yaml", ".yml") and not f.name.startswith("."))


def platforms() -> list[Platform]:
    """
    The platforms for which this process builds Dags.

    A task's process needs one Dag, so it reads only that Dag's platform: parsing stays cheap with a hundred
    of them. Broken files are left out here; ``dags/platform_files.py`` shows them.
    """
    wanted = _dag_wanted()
    if wanted is None:
        return read_all()[0]
    # The longest name wins: "shop_eu_daily_maintenance" is Dag of shop_eu, not of shop.
    files = [file for file in platform_files() if wanted.startswith(f"{file.stem}_")]
    if not files:
        return read_all()[0]
    try:
        return [load_file(max(files, key=lambda file: len(file.stem)))]
    except SettingsError:
        return []


def _dag_wanted() -> str | None:
    from airflow.sdk import (
        get_parsing_context,
    )  # the one thing asked of Airflow here; absent from a plain shell

    return get_parsing_context().dag_id


def platform(name: str) -> Platform:
    """:raises SettingsError: there is no such platform, or its file is wrong."""
    names = {file.stem: file for file in platform_files()}
    if name in names:
        return load_file(names[name])
    raise SettingsError(
        f"no platform {shown(name)}; there are: {', '.join(names) or 'none'}",
        hint=f"add {name}.yaml to {settings().platforms}, or correct the name."
        if re.fullmatch("[a-z][a-z0-9_]{0,39}", name)
        else "a name is lower-case letters, digits and underscores.",
    )


def load_file(file: Path) -> Platform:
    """
    One platform.

    :raises SettingsError: with file, key, value and cure.
    """
    try:
        stat = file.stat()
    except OSError as gone:
        raise SettingsError(
            f"{file.name}: cannot be read: {gone.strerror}", hint="look at its mode and owner, and at where it points."
        ) from None
    return _load(file, stat.st_mtime_ns, stat.st_size)


@cache
def _load(file: Path, mtime_ns: int, size: int) -> Platform:
    content = parse(file)
    # As JSON, because its strict mode is the right one for people: "3" and true are no numbers, a list may be a tuple.
    text = as_json(file, content)
    if leaks := list(find(content)):
        keys = ", ".join(f"`{redact('.'.join(map(str, at)))}`" for at in leaks[:5])
        raise SettingsError(f"{file.name}: {keys} holds a secret, got {HIDDEN}", hint=SECRET)
    try:
        made = Platform.model_validate_json(text, strict=True)
    except ValidationError as wrong:
        told = explain(file.name, wrong, content, Platform)
        raise SettingsError(told, hint=SECRET if "` is a secret;" in told else HINT) from None
    if made.name != file.stem:
        raise SettingsError(
            f"{file.name}: `name` is wrong: it equals the file name, got {made.name!r}",
            hint=f"write `name: {file.stem}`, or rename the file to {made.name}.yaml.",
        )
    return made
