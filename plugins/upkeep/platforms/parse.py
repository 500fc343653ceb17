"""From a file to plain values, whatever somebody put into it: bounded in time and memory."""

from __future__ import annotations

import json
import stat
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from upkeep.errors import SettingsError
from upkeep.platforms.redaction import redact

MOST_BYTES = 256 * 1024
"""A platform file is some kilobytes; a larger one is not read at all."""

MOST_NODES = 20_000
"""Values in one file; aliases count each time they are used (a YAML bomb is small on disk)."""

MOST_DEPTH = 50
MOST_CHARACTERS = 8_000
"""In one value; `1:1:1:…` of some 100 KB is a number to YAML, and takes seconds to compute."""

HINT = "every key is described in plugins/upkeep/platforms/; include/platforms/studyspot.yaml is complete."


def parse(file: Path) -> dict[str, Any]:
    """
    What a file says: JSON values only, keys are text.

    :raises SettingsError: it cannot be read, is no YAML, or is no mapping.
    """
    try:
        text = _text(file)
        _refuse_bombs(file, text)
        content = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as wrong:
        said = " ".join(str(getattr(wrong, "problem", None) or wrong).split())
        mark = getattr(wrong, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"{file.name}{where}: not readable as YAML: {redact(said)[:200]}", hint="mend the YAML first."
        ) from None
    if not isinstance(content, dict):
        raise SettingsError(f"{file.name}: a platform is a mapping, got {type(content).__name__}", hint=HINT)
    return content


def as_json(file: Path, content: dict[str, Any]) -> str:
    """:raises SettingsError: it contains something that JSON does not know."""
    try:
        return json.dumps(content, default=_day)
    except TypeError as wrong:
        raise SettingsError(f"{file.name}: {wrong}", hint="write plain words, numbers, lists and mappings.") from None


def _day(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a platform file has no place for a {type(value).__name__}")


def _text(file: Path) -> str:
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            # Reading a pipe would wait for ever, reading a device never end.
            raise SettingsError(f"{file.name}: not a regular file", hint="a platform is a text file.")
        with file.open("rb") as opened:
            raw = opened.read(MOST_BYTES + 1)
    except OSError as gone:
        raise SettingsError(
            f"{file.name}: cannot be read: {gone.strerror}", hint="look at its mode and owner, and at where it points."
        ) from None
    if len(raw) > MOST_BYTES:
        raise SettingsError(
            f"{file.name}: {file.stat().st_size} bytes; at most {MOST_BYTES} are read",
            hint="a platform takes some kilobytes; is this the right file?",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise SettingsError(
            f"{file.name}: not UTF-8 text: byte {wrong.start} is {raw[wrong.start]:#04x}", hint="save it as UTF-8."
        ) from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, and refuses a key that is written twice: YAML would silently keep the last one."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    loader.flatten_mapping(node)
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            # YAML takes on, off, yes and no for truth values.
            shown = key_node.value if isinstance(key_node, yaml.ScalarNode) else f"a {type(key).__name__}"
            raise yaml.constructor.ConstructorError(
                None, None, f"a key is a plain word, got {shown} (quote it if you mean it)", key_node.start_mark
            )
        if key in made:
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", key_node.start_mark)
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


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
            if len(event.value) > MOST_CHARACTERS:
                line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
                raise SettingsError(
                    f"{file.name}{line}: a value of {len(event.value)} characters; at most {MOST_CHARACTERS} are read",
                    hint=HINT,
                )
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            total += 1
            open_anchors.append((event.anchor, total))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            anchor, before = open_anchors.pop()
            if anchor:
                weights[anchor] = total - before + 1
        if total > MOST_NODES or len(open_anchors) > MOST_DEPTH:
            raise SettingsError(
                f"{file.name}: more than {MOST_NODES} values or {MOST_DEPTH} levels once its aliases are unfolded",
                hint="write out what you need, without nested aliases.",
            )
