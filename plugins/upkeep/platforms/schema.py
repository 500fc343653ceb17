"""The JSON schema of platform files, for editors: completion, descriptions, and red lines while typing."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from upkeep.platforms.base import Section, format_duration
from upkeep.platforms.model import Platform

FILE = "platform.schema.json"
"""Beside the platform files, whose first line names it."""


class _Generate(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # the key itself, in capitals

    def encode_default(self, dft: Any) -> Any:
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def schema() -> dict[str, Any]:
    """Draft 2020-12. ``x-least`` and ``x-most`` are the bounds of a duration, which JSON schema cannot compare."""
    made = Platform.model_json_schema(schema_generator=_Generate)
    for model in _models(Section):
        node = made["$defs"].get(model.__name__) if model is not Platform else made
        for key, said in _docstrings(model).items():
            if node is not None:
                # ``T | None`` keeps its description beside the choice, where editors look.
                node["properties"][key]["description"] = said
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _models(root: type[Section]) -> Iterator[type[Section]]:
    for model in root.__subclasses__():
        yield model
        yield from _models(model)


def _docstrings(model: type[Section]) -> dict[str, str]:
    """``{field: the text under it}``, as one line each."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for field, under in pairwise(declared.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(under, ast.Expr)
            and isinstance(under.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(under.value.value).split())
    return found


def text() -> str:
    """As it stands in the file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def write(directory: Path) -> Path:
    """Write the file, if it differs."""
    file = directory / FILE
    if not file.exists() or file.read_text(encoding="utf-8") != text():
        file.write_text(text(), encoding="utf-8")
    return file
