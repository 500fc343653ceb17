"""Kubernetes quantities: ``250m`` of a CPU, ``128Mi`` of memory."""

from __future__ import annotations

import math
import re

_SUFFIXES = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)([numkMGTP]?i?)")


def number(quantity: str | int | float) -> float:
    """Cores or bytes. :raises ValueError: not a quantity."""
    if isinstance(quantity, int | float):
        return float(quantity)
    match = _QUANTITY.fullmatch(quantity.strip())
    if not match or match[2] not in _SUFFIXES:
        raise ValueError(f"not a quantity: {quantity!r}")
    return float(match[1]) * _SUFFIXES[match[2]]


def cpu(cores: float) -> str:
    """As metrics-server writes it: nanocores."""
    return f"{round(cores * 1e9)}n"


def memory(size: float) -> str:
    """As metrics-server writes it: kibibytes."""
    return f"{math.ceil(size / 1024)}Ki"


def scaled(value: int | str, whole: int, *, up: bool) -> int:
    """``maxSurge`` and its like: a number, or a percentage of ``whole`` rounded up or down."""
    if isinstance(value, str) and value.endswith("%"):
        share = whole * int(value[:-1]) / 100
        return math.ceil(share) if up else math.floor(share)
    return int(value)
