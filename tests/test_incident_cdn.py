"""Having the CDN forget: only what is the platform's own, and an answer counts by what it says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from sandbox.home import Home
from sandbox.inboxes.client import Inbox
from tests import alerts_inbox
from upkeep.connections import cdn_access
from upkeep.errors import SettingsError
from upkeep.incident import cdn, form
from upkeep.incident.cdn import Access, CdnError
from upkeep.platforms import platform

inboxes, inbox = alerts_inbox.inboxes, alerts_inbox.inbox

STUDYSPOT = platform("studyspot")
assert STUDYSPOT.cdn is not None
RULES = STUDYSPOT.cdn
PAGE = "https://www.studyspot.com/seats"
PATH = "/client/v4/*"


@pytest.fixture
def access(inboxes: Home, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_CDN", json.dumps(inboxes.state()["connections"]["studyspot_cdn"]))
    return cdn_access("studyspot_cdn", RULES.api)


def forget(access: Access, *wanted: str) -> tuple[cdn.Purged, list[float]]:
    rests: list[float] = []
    return cdn.purge(access, RULES, cdn.chosen(wanted, RULES), rests.append), rests


def test_addresses_and_tags_are_forgotten_in_requests_of_thirty(access: Access, inbox: Inbox) -> None:
    pages = [f"{PAGE}?page={number}" for number in range(65)]
    done, rests = forget(access, *pages, "tag:libraries", pages[0])
    assert (len(done.addresses), done.tags, done.requests, rests) == (65, ["libraries"], 4, [])
    asked = inbox.purged()
    assert [len(next(iter(body.values()))) for body in asked] == [30, 30, 5, 1]
    assert [url for body in asked for url in body.get("files", [])] == pages
    assert asked[-1] == {"tags": ["libraries"]}


@pytest.mark.parametrize(
    ("script", "rests"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}, "times": 2}, [7.0, 7.0]),
        ({"status": 500, "times": 1}, [2.0]),
        ({"close": True, "times": 1}, [2.0]),
        ({"status": 200, "body": "<html>maintenance</html>", "times": 4}, "200: <html>maintenance</html>"),
        ({"status": 200, "body": {"success": False, "errors": [{"code": 1, "message": "no"}]}}, "with 200: 1 no"),
        ({"status": 429, "headers": {"Retry-After": "3600"}, "times": 9}, r"429: .*\(4 tries\)"),
        ({"status": 503, "times": 9}, r"503: .*\(4 tries\); 0 of 1 are purged"),
    ],
)
def test_trouble_is_waited_out_and_a_refusal_is_never_taken_for_a_purge(
    access: Access,
    inbox: Inbox,
    script: dict[str, Any],
    rests: list[float] | str,
) -> None:
    inbox.script(PATH, **script)
    if isinstance(rests, str):
        with pytest.raises(CdnError, match=rests) as refused:
            forget(access, PAGE)
        assert "\nHINT: " in str(refused.value)
        assert inbox.purged() == []
    else:
        assert forget(access, PAGE)[1] == rests
        assert inbox.purged() == [{"files": [PAGE]}]


def test_what_was_purged_before_the_trouble_is_told(access: Access, inbox: Inbox) -> None:
    pages = [f"{PAGE}/{number}" for number in range(40)]
    forget(access, *pages[:30])
    inbox.script(PATH, status=400, times=1)
    with pytest.raises(CdnError, match="0 of 40 are purged"):
        forget(access, *pages)
    assert len(forget(access, *pages)[0].addresses) == 40, "again from the start does no harm"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"token": "guessed"}, r"403: 10000 Authentication error[\s\S]*API token"),
        ({"zone": "0" * 32}, r"404: 7003 Could not route[\s\S]*correct `zone`"),
        ({"api": "https://127.0.0.1:1"}, r"does not answer: Connect"),
    ],
)
def test_a_wrong_connection_says_what_to_correct(access: Access, wrong: dict[str, str], says: str) -> None:
    with pytest.raises(CdnError, match=says) as refused:
        forget(Access(**{"api": access.api, "zone": access.zone, "token": access.token, **wrong}), PAGE)
    assert access.token not in str(refused.value)
    assert access.token not in repr(access)


@pytest.mark.parametrize(
    "one",
    [
        "*", "https://www.studyspot.com/*", "https://evil.example/", "https://www.studyspot.com.evil.example/",
        "https://www.studyspot.com@evil.example/", "https://u:p@www.studyspot.com/", "www.studyspot.com",
        "file:///etc/passwd", "https://www.studyspot.com:8443/", "https://www.studyspot.com:x/", "$(reboot)",
        "https://www.studyspot.com/\n", "https://www.studyspot.com\\@evil.example/", "tag:", "tag:a,b", "tag:ü",
        "tag:" + "x" * 1025, "https://www.studyspot.com/" + "x" * 2000, "purge_everything", "https://[www.studyspot.com",
    ],
)  # fmt: skip
def test_only_whole_addresses_of_its_own_hosts_and_tags(one: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cdn.chosen([PAGE, one], RULES)
    assert "\nHINT: " in str(refused.value)
    assert len(str(refused.value)) < 500


def test_too_many_at_once_are_a_decision_of_their_own() -> None:
    with pytest.raises(SettingsError, match="501 addresses"):
        cdn.chosen([f"{PAGE}/{number}" for number in range(501)], RULES)


def test_the_form_clears_one_cache_at_a_time() -> None:
    asked = form.read(STUDYSPOT, {"action": "cache", "addresses": f"{PAGE}  tag:seats"})
    assert asked.sentence == f"have the CDN forget {PAGE}, tag:seats"
    assert (asked.addresses, asked.prefixes) == ((PAGE, "tag:seats"), ())
    assert form.Asked.from_dict(asked.as_dict()) == asked
    for params, says in (
        ({"addresses": PAGE, "prefixes": "cache:"}, "together"),
        ({"addresses": "https://evil.example/"}, "may not be purged"),
    ):
        with pytest.raises(SettingsError, match=says):
            form.read(STUDYSPOT, {"action": "cache", **params})
    without = STUDYSPOT.model_copy(update={"cdn": None})
    with pytest.raises(SettingsError, match="has no CDN"):
        form.read(without, {"action": "cache", "addresses": PAGE})


def test_a_connection_that_lacks_something_says_what(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STUDYSPOT_CDN", '{"conn_type": "http", "password": "t"}')
    with pytest.raises(SettingsError, match=re.escape("'studyspot_cdn' has no zone")):
        cdn_access("studyspot_cdn", RULES.api)
