"""Names that outsiders take: of severities as people say them, of Slack channels as Slack wants them."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from upkeep.findings import Severity
from upkeep.platforms import Platform

MOST = 80
"""Characters of a Slack channel's name."""


def severity_named(platform: Platform, said: str) -> Severity:
    """
    The severity that a platform's people mean: its own names first, whole or by their first word.

    StudySpot's ``P1`` is Adaptive Learning's ``P0``. Then the one scale's: ``P0`` means one thing on StudySpot, too.
    What nobody knows counts as P1, never as less.
    """
    word = " ".join(said.split()).lower()
    for severity, level in platform.severity.levels.items():
        name = level.name.lower()
        if word and word in (name, name.split()[0], name.split()[-1]):
            return severity
    return next((one for one in Severity if one.value.lower() == word), Severity.P1)


def channel_name(id: str, title: str) -> str:
    """``inc-studyspot-7-checkout-answers-500``: lower case, digits and dashes, at most 80 characters, never empty."""
    plain = unicodedata.normalize("NFKD", f"inc-{id}-{title[:500]}").encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(slug) <= MOST:
        return slug
    # Cut at a word; the id stands in front, so no two are the same.
    return slug[:MOST].rsplit("-", 1)[0] if "-" in slug[len(id) + 5 : MOST] else slug[:MOST].strip("-")


def incident_key(id: str) -> str:
    """PagerDuty's key for it: the same at every attempt."""
    return f"upkeep-incident-{hashlib.sha256(id.encode()).hexdigest()[:24]}"
