"""What the outside world sees: each endpoint's answer, and the certificate it shows."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpcore

from upkeep.findings import Finding, Outcome, Severity, judged, unknown
from upkeep.health import certificates
from upkeep.health.side_by_side import PAUSE_S, Probe, look_side_by_side, one_line
from upkeep.health.wire import Answer, Wire, trusted
from upkeep.platforms.base import format_duration
from upkeep.platforms.services import Endpoint, Http

MOST_SECONDS = 7.0
"""Of both tries together, so that the health area as a whole ends within ten."""

SLOW_SEVERITY = Severity.P3
REDIRECTS = (301, 302, 303, 307, 308)


def look(http: Http, *, connect_to: Mapping[str, str], now: datetime | None = None) -> list[Outcome]:
    """
    ``http`` for each endpoint by its name, ``tls`` for each ``host:port`` that speaks it; all at once.

    :param connect_to: other addresses for ``host:port``, as curl's ``--connect-to``; names are verified all the same.
    :param now: against which certificates are judged.
    """
    now = now or datetime.now(UTC)
    # One for all: reading the system's authorities takes some 80 ms.
    trust = trusted()
    probes = [
        Probe("http", each.severity, partial(_endpoint, each, connect_to, trust), object=each.name)
        for each in http.endpoints
    ]
    for address, endpoints in _by_address(http.endpoints).items():
        severity = min((each.severity for each in endpoints), key=lambda s: s.rank)
        shown = partial(
            certificates.look,
            http,
            address,
            severity,
            trust,
            connect_to=connect_to,
            timeout_s=max(each.timeout for each in endpoints).total_seconds(),
            now=now,
        )
        probes.append(Probe("tls", severity, shown, object=address))
    return _explained(http, look_side_by_side(probes, deadline_s=MOST_SECONDS + 0.5))


def _by_address(endpoints: Sequence[Endpoint]) -> dict[str, list[Endpoint]]:
    """Endpoints that speak TLS, by ``host:port``."""
    found: dict[str, list[Endpoint]] = {}
    for each in endpoints:
        if address := _address(each):
            found.setdefault(address, []).append(each)
    return found


def _address(endpoint: Endpoint) -> str | None:
    parts = urlsplit(endpoint.url)
    return f"{parts.hostname}:{parts.port or 443}" if parts.scheme == "https" else None


def _explained(http: Http, outcomes: list[Outcome]) -> list[Outcome]:
    """
    One trouble, one alert.

    An untrusted certificate is told as ``tls``, and nobody answering as ``http``; never does each point at the other.
    """
    address = {each.name: _address(each) for each in http.endpoints}
    bad = [o for o in outcomes if o.check == "http" and o.state != "ok" and not o.explained_by]
    silent = {address[o.object] for o in bad if "status" not in o.facts}
    trusted = {o.object for o in outcomes if o.check == "tls" and o.state == "ok"}
    mended = []
    for outcome in outcomes:
        if outcome.check == "tls" and outcome.state == "unknown" and outcome.object in silent:
            outcome = replace(outcome, explained_by="http")
        if outcome.check == "http" and outcome.explained_by and address[outcome.object] in trusted:
            outcome = replace(outcome, explained_by="")
        mended.append(outcome)
    return mended


# -- one endpoint --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tried:
    """What one request came to."""

    seconds: float
    answer: Answer | None = None
    wrong: str = ""
    """What is wrong with it; empty for nothing."""

    distrust: str = ""
    """Why the certificate was refused; then nobody knows how the endpoint is."""


def _endpoint(endpoint: Endpoint, connect_to: Mapping[str, str], trust: ssl.SSLContext) -> list[Outcome]:
    """Ask once; ask again before it counts as wrong or slow: a single blip pages nobody."""
    began = time.monotonic()
    timeout_s = endpoint.timeout.total_seconds()
    first = tried = _try(endpoint, connect_to, timeout_s, trust)
    if tried.wrong or _is_slow(endpoint, tried):
        time.sleep(PAUSE_S)
        left_s = MOST_SECONDS - (time.monotonic() - began)
        tried = _try(endpoint, connect_to, min(timeout_s, left_s), trust)
    facts: dict[str, Any] = {"url": endpoint.url, "seconds": round(tried.seconds, 3)}
    if tried.answer:
        facts |= {"status": tried.answer.status, "bytes": len(tried.answer.body)}
    if tried is not first:
        facts["first_try"] = first.wrong or f"took {first.seconds:.2f} s"
    if tried.distrust:
        return [unknown("http", endpoint.severity, tried.distrust, object=endpoint.name, explained_by="tls", **facts)]
    findings = []

    def found(severity: Severity, summary: str, hint: str) -> None:
        findings.append(
            Finding(check="http", object=endpoint.name, severity=severity, summary=summary, hint=hint, facts=facts)
        )

    if tried.wrong:
        found(endpoint.severity, tried.wrong, _hint(endpoint, tried))
    elif _is_slow(endpoint, tried) and _is_slow(endpoint, first):
        found(
            SLOW_SEVERITY,
            f"answered after {tried.seconds:.2f} s; more than {format_duration(endpoint.slow)} is slow",
            "look at what it waits for: database, cache, or too few replicas.",
        )
    return [judged("http", endpoint.severity, findings, object=endpoint.name, **facts)]


def _is_slow(endpoint: Endpoint, tried: _Tried) -> bool:
    return tried.answer is not None and tried.seconds > endpoint.slow.total_seconds()


def _try(endpoint: Endpoint, connect_to: Mapping[str, str], timeout_s: float, trust: ssl.SSLContext) -> _Tried:
    began = time.monotonic()
    try:
        answer = Wire(connect_to, timeout_s, trust).get(endpoint.url)
    except httpcore.TimeoutException:
        within = format_duration(timedelta(seconds=round(timeout_s, 1)))
        return _Tried(time.monotonic() - began, wrong=f"no whole answer within {within}")
    except (httpcore.ConnectError, httpcore.NetworkError, httpcore.ProtocolError) as trouble:
        seconds = time.monotonic() - began
        refused = certificates.refusal(trouble)
        if refused:
            return _Tried(seconds, distrust=refused)
        return _Tried(seconds, wrong=said(trouble))
    return _Tried(time.monotonic() - began, answer, wrong=_wrong(endpoint, answer))


def said(trouble: Exception) -> str:
    """What went wrong with a request, in words."""
    if isinstance(trouble, httpcore.TimeoutException):
        return "no whole answer in time"
    cause: BaseException = trouble
    while (cause.__cause__ or cause.__context__) is not None:
        cause = cause.__cause__ or cause.__context__ or cause
    if isinstance(cause, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS session: {one_line(cause)}"
    if isinstance(trouble, httpcore.ConnectError):
        return f"no connection: {one_line(cause)}"
    return f"the connection broke before the whole answer had come: {one_line(cause)}"


def _wrong(endpoint: Endpoint, answer: Answer) -> str:
    """What is wrong with an answer that came in time; empty for nothing."""
    if answer.status != endpoint.expect_status:
        to = f" to {answer.location[:200]}" if answer.status in REDIRECTS and answer.location else ""
        return f"answered {answer.status}{to} instead of {endpoint.expect_status}"
    if answer.cut and (endpoint.expect_json or endpoint.expect_text):
        return f"the body is larger than {len(answer.body)} bytes; a health answer is small"
    text = answer.body.decode("utf-8", errors="replace")
    if endpoint.expect_text and endpoint.expect_text not in text:
        return f"answered {answer.status}, but the body lacks {endpoint.expect_text!r}"
    if endpoint.expect_json:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return f"answered {answer.status}, but the body is not JSON"
        if differences := _differences(endpoint.expect_json, body):
            return f"answered {answer.status}, but the body says {'; '.join(differences[:5])}"
    return ""


def _differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where ``found`` does not carry ``expected``; keys that are not expected may say what they like."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for key, value in expected.items()
            for line in (
                _differences(value, found[key], f"{path}{key}.")
                if key in found
                else [f"no {path}{key} (expected {value!r})"]
            )
        ]
    # 1 == True in Python, not in JSON.
    if expected == found and isinstance(expected, bool) == isinstance(found, bool):
        return []
    return [f"{path.rstrip('.') or 'body'} = {json.dumps(found)[:80]} (expected {json.dumps(expected)[:80]})"]


def _hint(endpoint: Endpoint, tried: _Tried) -> str:
    if tried.answer is None:
        return f"try `curl -v {endpoint.url}`; then look at the load balancer, and at the pods behind it."
    if tried.answer.status in REDIRECTS:
        return "redirects are not followed: name the final address in the platform file, or mend the redirect."
    return f"try `curl {endpoint.url}`; then read the application's log of the last minutes."
