"""
Having a content delivery network forget some addresses or tags.

Everything at once is never asked for: it sends every visitor to the origin, which is ill already. An answer counts by
what it says, not by its status: Cloudflare refuses with ``"success": false``, which may come with status 200.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upkeep.errors import SettingsError, UpkeepError
from upkeep.platforms.conduct import Cdn

if TYPE_CHECKING:
    import httpx

MOST = 500
"""Addresses and tags in one go; whoever needs more means everything, and that is a decision of its own."""

MOST_TAGS = 30
"""Tags per request: https://developers.cloudflare.com/cache/how-to/purge-cache/purge-by-tags/"""

TRIES = 4
LONGEST_REST_S = 60.0
TIMEOUT_S = 15.0
_TAG = re.compile(r"[!-+\--~]{1,1024}")
"""Printable ASCII without blanks and commas."""


class CdnError(UpkeepError):
    """The CDN did not forget all of it."""


@dataclass(frozen=True)
class Access:
    """Whom to ask, and as whom."""

    api: str
    zone: str
    token: str = field(repr=False)


@dataclass
class Purged:
    """What the CDN said it has forgotten."""

    addresses: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    requests: int = 0
    seconds: float = 0.0


def chosen(asked: Sequence[str], cdn: Cdn) -> list[str]:
    """
    What will be forgotten: ``https://www.studyspot.com/seats``, ``tag:libraries``.

    :raises SettingsError: not an address of the platform's own hosts, nor a tag; or too many.
    """
    if len(asked) > MOST:
        raise SettingsError(
            f"{len(asked):,} addresses", hint=f"at most {MOST} at once; give pages of one kind a tag and name that."
        )
    for one in asked:
        if one.startswith("tag:"):
            if not _TAG.fullmatch(one[4:]):
                raise SettingsError(f"no tag: {one[:100]!r}", hint="a tag has no blanks and no commas: tag:libraries.")
        elif not _is_own(one, cdn):
            raise SettingsError(
                f"{one[:100]!r} may not be purged",
                hint=f"whole addresses of {', '.join(cdn.hosts)} may (`cdn.hosts`), https://{cdn.hosts[0]}/page,"
                " and tags, tag:libraries; everything at once never is.",
            )
    return list(dict.fromkeys(asked))


def _is_own(address: str, cdn: Cdn) -> bool:
    try:
        parts = urlsplit(address)
        whole = parts.scheme in ("http", "https") and not parts.username and parts.port in (None, 80, 443)
    except ValueError:
        return False
    fit = len(address) <= 2000 and address.isascii() and address.isprintable() and not re.search(r"[\s*#\\]", address)
    return whole and fit and parts.hostname in cdn.hosts


def purge(access: Access, cdn: Cdn, wanted: Sequence[str], rest: Callable[[float], None] = time.sleep) -> Purged:
    """
    Ask until all of it is forgotten. Done again it does no harm.

    :param wanted: as ``chosen`` gives it.
    :param rest: how to wait before another try, in seconds.
    :raises CdnError: refused, or away; says what was forgotten before.
    """
    import httpx

    done, began = Purged(), time.monotonic()
    url = f"{access.api.rstrip('/')}/zones/{access.zone}/purge_cache"
    with httpx.Client(headers={"Authorization": f"Bearer {access.token}"}, timeout=TIMEOUT_S) as client:
        for body in _bodies(wanted, cdn):
            try:
                _ask(client, url, body, rest)
            except CdnError as refused:
                so_far = f"{len(done.addresses) + len(done.tags)} of {len(wanted)} are purged"
                raise CdnError(f"{refused.message}; {so_far}", hint=refused.hint) from None
            done.addresses += body.get("files", [])
            done.tags += body.get("tags", [])
            done.requests += 1
    done.seconds = round(time.monotonic() - began, 3)
    return done


def _bodies(wanted: Sequence[str], cdn: Cdn) -> Iterator[dict[str, list[str]]]:
    tags = [one[4:] for one in wanted if one.startswith("tag:")]
    for kind, all_, most in (
        ("files", [one for one in wanted if not one.startswith("tag:")], cdn.most_urls),
        ("tags", tags, MOST_TAGS),
    ):
        for start in range(0, len(all_), most):
            yield {kind: all_[start : start + most]}


def _ask(client: httpx.Client, url: str, body: dict[str, list[str]], rest: Callable[[float], None]) -> None:
    import httpx

    for attempt in range(1, TRIES + 1):
        wait = 2.0**attempt
        try:
            answer = client.post(url, json=body)
        except (httpx.TransportError, httpx.InvalidURL) as away:
            said = f"the CDN does not answer: {type(away).__name__}: {away}"
            hint = "look at its status page, then run it again."
        else:
            if _succeeded(answer):
                return
            said, hint = f"the CDN refused with {answer.status_code}: {_errors(answer)}", _hint(answer.status_code)
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                raise CdnError(said, hint=hint)
            asked = answer.headers.get("Retry-After", "")
            wait = min(float(asked), LONGEST_REST_S) if asked.isdigit() else wait
        if attempt < TRIES:
            rest(wait)
    raise CdnError(f"{said} ({TRIES} tries)", hint=hint)


def _succeeded(answer: httpx.Response) -> bool:
    said = _json(answer)
    return answer.is_success and isinstance(said, dict) and said.get("success") is True


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _errors(answer: httpx.Response) -> str:
    said = _json(answer)
    errors = said.get("errors") if isinstance(said, dict) else None
    if isinstance(errors, list) and errors:
        return "; ".join(f"{one.get('code')} {one.get('message')}" for one in errors if isinstance(one, dict))[:500]
    return " ".join(answer.text.split())[:200] or "nothing"


def _hint(status: int) -> str:
    if status in (401, 403):
        return "the password of the connection is an API token that may purge the cache of this zone."
    if status == 404:
        return "correct `zone` in the connection's extra: the id stands on the zone's overview."
    if status == 429:
        return "too many purges: wait a minute and run it again; name a tag instead of many addresses."
    return "read what it says; what was purged before stays purged."
