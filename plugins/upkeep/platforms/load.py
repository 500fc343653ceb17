"""Reading platform files, and saying precisely what is wrong with a bad one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from upkeep.errors import SettingsError
from upkeep.platforms.model import Platform
from upkeep.settings import settings

MOST_BYTES = 256 * 1024
"""A platform file is some kilobytes; a larger one is not read at all."""

MOST_NODES = 20_000
"""Values in one file; aliases count each time they are used (a YAML bomb is small on disk)."""

HINT = "every key is described in plugins/upkeep/platforms/; include/platforms/studyspot.yaml is complete."


@dataclass(frozen=True)
class Broken:
    """A platform file that could not be read."""

    file: Path
    error: SettingsError


def platform_files() -> list[Path]:
    """The platform files, by name."""
    return sorted(settings().platforms.glob("*.yaml"))


def read_all() -> tuple[list[Platform], list[Broken]]:
    """Every platform file: the good ones as models, the others with what is wrong."""
    good: list[Platform] = []
    broken: list[Broken] = []
    for file in platform_files():
        try:
            good.append(load_file(file))
        except SettingsError as error:
            broken.append(Broken(file, error))
    return good, broken


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
    for file in platform_files():
        if file.stem == name:
            return load_file(file)
    known = ", ".join(file.stem for file in platform_files()) or "none"
    raise SettingsError(
        f"no platform {name!r}; there are: {known}",
        hint=f"add {name}.yaml to {settings().platforms}, or correct the name.",
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
            f"{file.name}: cannot be read: {gone.strerror}", hint="look at its mode and owner."
        ) from gone
    return _load(file, stat.st_mtime_ns, stat.st_size)


@cache
def _load(file: Path, mtime_ns: int, size: int) -> Platform:
    if size > MOST_BYTES:
        raise SettingsError(f"{file.name}: {size} bytes; at most {MOST_BYTES} are read", hint=HINT)
    content = _parse(file)
    try:
        found = Platform.model_validate(content)
    except ValidationError as wrong:
        raise SettingsError(_explain(file, wrong), hint=HINT) from None
    if found.name != file.stem:
        raise SettingsError(
            f"{file.name}: `name` is wrong: it equals the file name, got {found.name!r}",
            hint=f"write `name: {file.stem}`, or rename the file to {found.name}.yaml.",
        )
    return found


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, and refuses a key that is written twice: YAML would silently keep the last one."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    made: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (list, dict)):
            raise yaml.constructor.ConstructorError(None, None, "a key is a plain word", key_node.start_mark)
        if key in made:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parse(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        _refuse_bombs(file, text)
        content = yaml.load(text, Loader=_Loader)
    except OSError as gone:
        raise SettingsError(
            f"{file.name}: cannot be read: {gone.strerror}", hint="look at its mode and owner."
        ) from gone
    except UnicodeDecodeError as wrong:
        raise SettingsError(f"{file.name}: not UTF-8 text (byte {wrong.start})", hint="save it as UTF-8.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as wrong:
        said = " ".join(str(getattr(wrong, "problem", None) or wrong).split())[:200]
        mark = getattr(wrong, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{file.name}{where}: not readable as YAML: {said}", hint="mend the YAML first.") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{file.name}: a platform is a mapping, got {type(content).__name__}", hint=HINT)
    return content


def _refuse_bombs(file: Path, text: str) -> None:
    """Count the values that the text would become, aliases unfolded, before it becomes them."""
    total = 0
    weights: dict[str, int] = {}
    open_anchors: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            total += weights.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                weights[event.anchor] = 1
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            total += 1
            open_anchors.append((event.anchor, total))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = open_anchors.pop()
            if anchor:
                weights[anchor] = total - before + 1
        if total > MOST_NODES or len(open_anchors) > 50:
            raise SettingsError(
                f"{file.name}: more than {MOST_NODES} values or 50 levels once its aliases are unfolded",
                hint="write out what you need, without nested aliases.",
            )


_SECRET = re.compile(r"(?i)(password|passwd|secret|token|api_?key|private_?key|credential)")


def _explain(file: Path, wrong: ValidationError) -> str:
    """One line per mistake: file, key, what is the matter, value."""
    lines = []
    for error in wrong.errors(include_url=False)[:20]:
        key = ".".join(str(part) for part in error["loc"]) or "(whole file)"
        leaf = str(error["loc"][-1]) if error["loc"] else ""
        if error["type"] == "extra_forbidden" and _SECRET.search(leaf):
            # The value may be a real secret: it is not repeated.
            lines.append(
                f"{file.name}: `{key}` is a secret; secrets live in Airflow connections, never in platform files"
            )
            continue
        said = error["msg"].removeprefix("Value error, ")
        said = "no such key" if error["type"] == "extra_forbidden" else said[:1].lower() + said[1:]
        value = "" if error["type"] == "missing" else f", got {_short(error['input'])}"
        lines.append(f"{file.name}: `{key}` is wrong: {said}{value}")
    more = wrong.error_count() - len(lines)
    return "\n".join(lines) + (f"\n… and {more} more" if more > 0 else "")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "…"
