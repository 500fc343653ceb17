"""PagerDuty's Events API v2, as its documentation and its answers in public bug reports show it."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

MOST_BYTES = 512 * 1024

SEVERITIES = ["critical", "warning", "error", "info"]
ACTIONS = ["trigger", "acknowledge", "resolve"]

_TEXT = {"type": "string", "minLength": 1}
_LINKS = {
    "type": "array",
    "items": {"type": "object", "required": ["href"], "properties": {"href": _TEXT, "text": {"type": "string"}}},
}
_IMAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["src"],
        "properties": {"src": {"type": "string", "pattern": "^https://"}, "href": _TEXT, "alt": {"type": "string"}},
    },
}
_ROUTING_KEY = {"type": "string", "minLength": 32, "maxLength": 32, "pattern": "^[A-Za-z0-9]*$"}
_SUMMARY = {"type": "string", "minLength": 1, "maxLength": 1024}

EVENT = Draft202012Validator(
    {
        "type": "object",
        "required": ["routing_key", "event_action"],
        "properties": {
            "routing_key": _ROUTING_KEY,
            "event_action": {"enum": ACTIONS},
            "dedup_key": {"type": "string", "maxLength": 255},
            "client": {"type": "string"},
            "client_url": {"type": "string"},
            "links": _LINKS,
            "images": _IMAGES,
        },
        "if": {"properties": {"event_action": {"const": "trigger"}}},
        "then": {
            "required": ["payload"],
            "properties": {
                "payload": {
                    "type": "object",
                    "required": ["summary", "source", "severity"],
                    "properties": {
                        "summary": _SUMMARY,
                        "source": _TEXT,
                        "severity": {"enum": SEVERITIES},
                        "timestamp": {"type": "string"},
                        "component": {"type": "string"},
                        "group": {"type": "string"},
                        "class": {"type": "string"},
                        "custom_details": {"type": ["object", "string"]},
                    },
                }
            },
        },
        "else": {"required": ["dedup_key"], "properties": {"dedup_key": {"minLength": 1}}},
    }
)

CHANGE = Draft202012Validator(
    {
        "type": "object",
        "required": ["routing_key", "payload"],
        "properties": {
            "routing_key": _ROUTING_KEY,
            "payload": {
                "type": "object",
                "required": ["summary"],
                "properties": {
                    "summary": _SUMMARY,
                    "source": {"type": "string"},
                    "timestamp": {"type": "string"},
                    "custom_details": {"type": "object"},
                },
            },
            "links": _LINKS,
            "images": _IMAGES,
        },
    }
)


def errors(validator: Draft202012Validator, event: Any) -> list[str]:
    """What is wrong with ``event``, in PagerDuty's words; empty when nothing is."""
    if not isinstance(event, dict):
        return ["JSON parse error"]
    return sorted({_in_words(error) for error in validator.iter_errors(event)})


def _in_words(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path)
    match error.validator:
        case "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            return f"'{where + '.' if where else ''}{missing}' is missing or blank"
        case "minLength" | "maxLength" if where == "routing_key":
            return "Length of 'routing_key' is incorrect (should be 32 characters)"
        case "pattern" if where == "routing_key":
            return "'routing_key' cannot contain non-alphanumeric characters."
        case "minLength":
            return f"'{where}' is missing or blank"
        case "maxLength":
            return f"'{where}' is too long (maximum is {error.validator_value} characters)"
        case "enum":
            *first, last = (f"'{value}'" for value in error.validator_value)
            return f"'{where}' is invalid (must be one of the following: {', '.join(first)} or {last})"
        case "pattern":
            return f"'{where}' is invalid (must be a valid URL with https)"
    return f"'{where}' is invalid: {error.message[:200]}"
