"""The report: what one run of one platform saw, did and told, as one page and as JSON."""

from __future__ import annotations

from upkeep.report.gather import gather
from upkeep.report.model import Report
from upkeep.report.render import render_html, render_json, summary_text

__all__ = ["Report", "gather", "render_html", "render_json", "summary_text"]
