"""Slack's Block Kit: what is valid, how long it is, and whom a text would call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

MOST_BLOCKS = 50
MOST_TEXT = 40_000
MOST_CHARACTERS = 13_200
"""Over all blocks of a message; undocumented, measured by people who met it (bolt-js issue 2509)."""


def _text(most: int, *kinds: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "text"],
        "properties": {
            "type": {"enum": list(kinds or ("mrkdwn", "plain_text"))},
            "text": {"type": "string", "minLength": 1, "maxLength": most},
        },
    }


_IMAGE = {
    "type": "object",
    "required": ["alt_text"],
    "properties": {"image_url": {"type": "string", "pattern": "^https?://", "maxLength": 3000}},
    "anyOf": [{"required": ["image_url"]}, {"required": ["slack_file"]}],
}
_ACTION = {
    "type": "object",
    "required": ["type"],
    "properties": {
        "action_id": {"type": "string", "maxLength": 255},
        "url": {"type": "string", "maxLength": 3000, "pattern": "^(https?|mailto):"},
        "value": {"type": "string", "maxLength": 2000},
        "style": {"enum": ["primary", "danger"]},
        "text": _text(75, "plain_text"),
    },
    "if": {"properties": {"type": {"const": "button"}}},
    "then": {"required": ["text"]},
}
_MANY = {"type": "array", "minItems": 1}

BLOCKS: dict[str, dict[str, Any]] = {
    "section": {
        "anyOf": [{"required": ["text"]}, {"required": ["fields"]}],
        "properties": {
            "text": _text(3000),
            "fields": {**_MANY, "maxItems": 10, "items": _text(2000)},
            "accessory": {"type": "object", "required": ["type"]},
        },
    },
    "header": {"required": ["text"], "properties": {"text": _text(150, "plain_text")}},
    "context": {
        "required": ["elements"],
        "properties": {
            "elements": {
                **_MANY,
                "maxItems": 10,
                "items": {
                    "required": ["type"],
                    "if": {"properties": {"type": {"const": "image"}}},
                    "then": _IMAGE,
                    "else": _text(3000),
                },
            }
        },
    },
    "actions": {"required": ["elements"], "properties": {"elements": {**_MANY, "maxItems": 25, "items": _ACTION}}},
    "image": _IMAGE,
    "divider": {},
    "rich_text": {"required": ["elements"], "properties": {"elements": {"type": "array"}}},
    "markdown": {"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1, "maxLength": 12_000}}},
}
"""The blocks that messages of ours may be made of, with the limits of Slack's reference."""

_VALIDATORS = {
    kind: Draft202012Validator(
        {
            **schema,
            "type": "object",
            "properties": {**schema.get("properties", {}), "block_id": {"type": "string", "maxLength": 255}},
        }
    )
    for kind, schema in BLOCKS.items()
}


def errors(blocks: Any) -> list[str]:
    """What is wrong with ``blocks``, in Slack's words with JSON pointers; empty when nothing is."""
    if not isinstance(blocks, list):
        return ["must be an array [json-pointer:/blocks]"]
    found = []
    if len(blocks) > MOST_BLOCKS:
        found.append(f"no more than {MOST_BLOCKS} items allowed [json-pointer:/blocks]")
    for index, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind not in _VALIDATORS:
            found.append(f"unsupported type: {kind} [json-pointer:/blocks/{index}/type]")
            continue
        found += [_in_words(error, index) for error in _VALIDATORS[kind].iter_errors(block)]
    names = [block["block_id"] for block in blocks if isinstance(block, dict) and block.get("block_id")]
    if len(set(names)) < len(names):
        found.append("block_id must be unique [json-pointer:/blocks]")
    return found


def _in_words(error: ValidationError, index: int) -> str:
    pointer = "/".join(["/blocks", str(index), *(str(part) for part in error.absolute_path)])
    match error.validator:
        case "maxLength":
            said = f"must be less than {error.validator_value + 1} characters"
        case "minLength":
            said = "must be more than 0 characters"
        case "maxItems":
            said = f"no more than {error.validator_value} items allowed"
        case "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            said = f"missing required field: {missing}"
        case "anyOf":
            said = "missing required field: text"
        case "enum":
            said = f"must be a valid enum value: {', '.join(map(str, error.validator_value))}"
        case _:
            said = error.message[:200]
    return f"{said} [json-pointer:{pointer}]"


def characters(blocks: Any) -> int:
    """All text that people see, over all blocks."""
    return sum(len(text) for text, _ in _texts(blocks))


def _texts(node: Any) -> Iterator[tuple[str, bool]]:
    """Every text below ``node`` and whether Slack interprets it as mrkdwn."""
    if isinstance(node, list):
        for part in node:
            yield from _texts(part)
    elif isinstance(node, dict):
        if isinstance(node.get("text"), str):
            yield node["text"], node.get("type") in ("mrkdwn", "markdown")
        for value in node.values():
            yield from _texts(value)


_CALLS = re.compile(r"<!(here|channel|everyone)(?:\|[^>]*)?>|<!subteam\^(\w+)[^>]*>|<@([UW]\w+)[^>]*>")
_BARE = re.compile(r"(?<![\w.])@(here|channel|everyone)\b")


def mentions(text: str, blocks: Any, *, link_names: bool = False) -> list[str]:
    """
    Who would be called by this message: ``["@here", "@U012"]``.

    A bare ``@channel`` calls nobody unless ``link_names`` (or ``parse=full``) asks for it. ``text`` calls even
    when blocks are shown instead of it.
    """
    texts = [text, *(part for part, interpreted in _texts(blocks) if interpreted)]
    found = [next(filter(None, match.groups())) for part in texts for match in _CALLS.finditer(part)]
    if link_names:
        found += [match[1] for part in texts for match in _BARE.finditer(part)]
    return list(dict.fromkeys(f"@{name}" for name in found))
