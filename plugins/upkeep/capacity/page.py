"""The capacity report: one file of HTML that asks for nothing else."""

from __future__ import annotations

from datetime import datetime

from upkeep.capacity.view import View
from upkeep.report.render import environment


def render(view: View, at: datetime) -> bytes:
    """Style and pictures are inside, and everything foreign is escaped."""
    return environment().get_template("capacity/report.html").render(view=view, at=at).encode("utf-8", "replace")
