"""Slack's mrkdwn as HTML: escaped first, then only what Slack itself would interpret."""

from __future__ import annotations

import html
import re

from markupsafe import Markup

EMOJI = {
    "white_check_mark": "✅",
    "heavy_check_mark": "✔️",
    "x": "❌",
    "warning": "⚠️",
    "rotating_light": "🚨",
    "fire": "🔥",
    "bell": "🔔",
    "no_bell": "🔕",
    "eyes": "👀",
    "hourglass": "⌛",
    "hourglass_flowing_sand": "⏳",
    "red_circle": "🔴",
    "large_orange_circle": "🟠",
    "large_orange_diamond": "🔶",
    "large_yellow_circle": "🟡",
    "large_green_circle": "🟢",
    "large_blue_circle": "🔵",
    "white_circle": "⚪",
    "information_source": "ℹ️",
    "question": "❓",
    "grey_question": "❔",
    "memo": "📝",
    "mag": "🔍",
    "wrench": "🔧",
    "hammer_and_wrench": "🛠️",
    "link": "🔗",
    "clock1": "🕐",
    "tada": "🎉",
    "arrow_up": "⬆️",
    "arrow_down": "⬇️",
    "page_facing_up": "📄",
    "bar_chart": "📊",
}

_SPANS = re.compile(r"```(?P<pre>.*?)```|`(?P<code>[^`\n]+)`|<(?P<angle>[^<>\n]*)>", re.DOTALL)
_FIRST_STAND_IN, _LAST_STAND_IN = 0xE000, 0xF8FF
"""Unicode's private use area: as many spans as one text may have; no text of ours does."""

_MOST = 6000
"""Characters shown of one text, so that at most 6,000 spans can occur: fewer than stand-ins."""

_STYLES = [
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w_])_(?=\S)([^_\n]+?)(?<=\S)_(?![\w_])"), r"<em>\1</em>"),
    (re.compile(r"(?<![\w~])~(?=\S)([^~\n]+?)(?<=\S)~(?![\w~])"), r"<s>\1</s>"),
    (re.compile(r"(?m)^&gt; ?(.*)(?:\n|$)"), r"<blockquote>\1</blockquote>"),
]


def to_html(text: str) -> Markup:
    """Bold, italics, code, quotes, links, mentions, emoji; everything else as it was written."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        # Styles may go around a link but not into it; a character that nobody types stands in for it.
        kept.append(_span(match))
        return chr(_FIRST_STAND_IN + len(kept) - 1)

    bare = "".join(char for char in text[:_MOST] if ord(char) < _FIRST_STAND_IN or ord(char) > _LAST_STAND_IN)
    made = _styled(_SPANS.sub(keep, bare))
    for index, span in enumerate(kept):
        made = made.replace(chr(_FIRST_STAND_IN + index), span)
    return Markup(made)  # every part was escaped on its way


def _span(match: re.Match[str]) -> str:
    if (pre := match["pre"]) is not None:
        return f"<pre>{_escaped(pre.strip(chr(10)))}</pre>"
    if (code := match["code"]) is not None:
        return f"<code>{_escaped(code)}</code>"
    return _angle(match["angle"])


def emoji(text: str) -> str:
    return re.sub(r":([a-z0-9_+-]+):", lambda match: EMOJI.get(match[1], match[0]), text)


def _escaped(text: str) -> str:
    """Slack texts carry & < > as entities, and only these; written raw they are shown raw."""
    return html.escape(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def _styled(text: str) -> str:
    made = emoji(_escaped(text))
    for pattern, replacement in _STYLES:
        made = pattern.sub(replacement, made)
    return made.replace("\n", "<br>")


def _angle(inside: str) -> str:
    """``<url|label>``, ``<@U1>``, ``<#C1|name>``, ``<!here>``, ``<!date^...|fallback>``."""
    target, _, label = inside.partition("|")
    if target.startswith(("http://", "https://", "mailto:")):
        return f'<a href="{_escaped(target)}" rel="noreferrer">{_escaped(label or target)}</a>'
    if target.startswith("!date^"):
        return _escaped(label or target)
    if target.startswith(("!", "@", "#")):
        sign = "#" if target.startswith("#") else "@"
        return f'<span class="call">{sign}{_escaped(label or target[1:])}</span>'
    return _escaped(f"<{inside}>")
