"""Disk and memory of the platform's hosts, and its failed requests, as Prometheus knows them; never the worker's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlencode

import httpcore

from upkeep.findings import Finding, Outcome, judged, unknown
from upkeep.health.http import said
from upkeep.health.side_by_side import PAUSE_S, Probe, look_side_by_side
from upkeep.health.wire import Wire, trusted
from upkeep.platforms.base import Threshold, format_duration
from upkeep.platforms.services import Metrics

MOST_SECONDS = 7.0
"""Of both tries together, so that the health area as a whole ends within ten."""

TIMEOUT_S = 3.0

HINTS = {
    "disk": "find what grows: WAL held back by a slot, logs, images; make room or grow the volume before it is full.",
    "memory": "find which process grew (`systemd-cgtop`, `kubectl top pod`); the kernel ends the largest one.",
    "errors": "look at the newest release and at what failing requests share; `incident_response`, symptom errors.",
}

SAYS = {
    "disk": "{share:.1%} of the disk of {object} is in use",
    "memory": "{share:.1%} of the memory of {object} is in use",
    "errors": "{share:.1%} of the requests to {object} fail",
}

GONE = "last_over_time(({query})[1h:1m]) unless ({query})"
"""What was there within the last hour and is not any more: a host that fell silent, and is not thereby well."""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class _Series:
    """One result of an instant query."""

    labels: Labels
    value: float


class NoAnswer(Exception):
    """Prometheus did not answer, or refused the question."""


def look(settings: Metrics, *, connect_to: Mapping[str, str], now: datetime | None = None) -> list[Outcome]:
    """
    ``disk`` of each ``instance:mountpoint``, ``memory`` of each ``instance``, ``errors`` of each service.

    :param connect_to: other addresses for ``host:port``, as curl's ``--connect-to``.
    :param now: against which the age of samples is judged.
    """
    prometheus = _Prometheus(settings.prometheus, connect_to)
    moment = now or datetime.now(UTC)
    asked = (("disk", settings.disk_query, settings.disk), ("memory", settings.memory_query, settings.memory))
    probes = [
        Probe(check, threshold.critical_severity, partial(_look, settings, prometheus, check, query, threshold, moment))
        for check, query, threshold in asked
    ]
    if settings.errors_query:
        probes.append(
            Probe("errors", settings.errors.critical_severity, partial(_errors, settings, prometheus, moment))
        )
    return look_side_by_side(probes, deadline_s=MOST_SECONDS + 0.5)


def disk_in_use(settings: Metrics, *, connect_to: Mapping[str, str]) -> float | None:
    """Share of the fullest of the platform's disks whose share is known now; None when no one's is."""
    outcomes = _look(
        settings, _Prometheus(settings.prometheus, connect_to), "disk", settings.disk_query, settings.disk,
        datetime.now(UTC),
    )  # fmt: skip
    return max((float(outcome.facts["share"]) for outcome in outcomes if outcome.state != "unknown"), default=None)


def least(settings: Metrics, query: str, *, connect_to: Mapping[str, str], now: datetime | None = None) -> float:
    """
    The least value among the series of a query.

    :raises NoAnswer: Prometheus is silent, there is no such series, or a sample behind one is too old to go by.
    """
    prometheus = _Prometheus(settings.prometheus, connect_to)
    values = [each.value for each in prometheus.instant(query) if each.value == each.value]
    if not values:
        raise NoAnswer(f"no series for {query}")
    moment = (now or datetime.now(UTC)).timestamp()
    for selector in selectors(query):
        for each in prometheus.instant(f"timestamp({selector})"):
            if (age_s := moment - each.value) > settings.fresh.total_seconds():
                raise NoAnswer(f"its newest sample is {age_s:.0f} s old")
    return min(values)


def now_of(settings: Metrics, query: str, *, connect_to: Mapping[str, str], ask: str = "{query}") -> dict[str, float]:
    """
    Each series of a query by its object, ``{"db-0:9100:/": 0.38}``; those that are no number are left out.

    :param ask: what is asked about the query: ``quantile_over_time(0.95, ({query})[1d:5m])``.
    :raises NoAnswer: Prometheus is silent, there is no such series, or nobody measures them any more.
    """
    prometheus = _Prometheus(settings.prometheus, connect_to)
    found = prometheus.instant(ask.format(query=query))
    if not found:
        raise NoAnswer(f"no series for {query}")
    moment, fresh_s = datetime.now(UTC).timestamp(), settings.fresh.total_seconds()
    ages = [
        (each.labels, moment - each.value)
        for selector in selectors(query)
        for each in prometheus.instant(f"timestamp({selector})")
    ]
    stale = [labels for labels, age_s in ages if age_s > fresh_s]
    values = {
        _object(each.labels): each.value
        for each in found
        if each.value == each.value and not any(_belongs(labels, each.labels) for labels in stale)
    }
    if not values:
        raise NoAnswer(f"what {query} reads is older than {format_duration(settings.fresh)}")
    return values


def _look(
    settings: Metrics, prometheus: _Prometheus, check: str, query: str, threshold: Threshold, now: datetime
) -> list[Outcome]:
    severity = threshold.critical_severity
    try:
        series = prometheus.instant(query)
        gone = prometheus.instant(GONE.format(query=query))
        ages = [
            (each.labels, now.timestamp() - each.value)
            for selector in selectors(query)
            for each in prometheus.instant(f"timestamp({selector})")
        ]
    except NoAnswer as trouble:
        return [unknown(check, severity, f"Prometheus: {trouble}")]
    if not series:
        # Nothing found is nothing known, and one trouble however many disks there were.
        lost = f" any more; it had {len(gone)} within the last hour" if gone else ""
        return [unknown(check, severity, f"Prometheus has no series for {query}{lost}")]
    outcomes, name = [], NAMES[check]
    for each in series:
        object = name(each.labels)
        age_s = max((age for labels, age in ages if _belongs(labels, each.labels)), default=None)
        if each.value != each.value:
            outcomes.append(unknown(check, severity, "its share is no number", object=object))
        elif age_s is not None and age_s > settings.fresh.total_seconds():
            reason = f"its newest sample is {age_s:.0f} s old; more than {format_duration(settings.fresh)} is too old"
            outcomes.append(unknown(check, severity, reason, object=object, last_share=round(each.value, 4)))
        else:
            outcomes.append(_judge(check, threshold, object, each.value, age_s))
    seen = {outcome.object for outcome in outcomes}
    for each in gone:
        if (object := name(each.labels)) not in seen:
            reason = f"it has stopped reporting within the last hour (last: {each.value:.1%})"
            outcomes.append(unknown(check, severity, reason, object=object, last_share=round(each.value, 4)))
    return outcomes


def _errors(settings: Metrics, prometheus: _Prometheus, now: datetime) -> list[Outcome]:
    """A share of hardly any requests is no verdict."""
    check, severity = "errors", settings.errors.critical_severity
    outcomes = _look(settings, prometheus, check, settings.errors_query, settings.errors, now)
    if not settings.requests_query or all(outcome.state == "unknown" for outcome in outcomes):
        return outcomes
    try:
        volume = {_service(each.labels): each.value for each in prometheus.instant(settings.requests_query)}
    except NoAnswer as trouble:
        return [unknown(check, severity, f"Prometheus: {trouble}")]
    judged_ = []
    for outcome in outcomes:
        requests = volume.get(outcome.object)
        if requests is not None and requests < settings.least_requests:
            # Nothing divided by nothing is no number, and at night no trouble.
            facts = {**outcome.facts, "requests_per_s": round(requests, 3), "said": "too few requests to judge by"}
            judged_.append(judged(check, severity, [], object=outcome.object, **facts))
        elif requests is None and outcome.state != "unknown":
            reason = f"{settings.requests_query} has no series for it"
            judged_.append(unknown(check, severity, reason, object=outcome.object))
        else:
            judged_.append(outcome)
    return judged_


def _judge(check: str, threshold: Threshold, object: str, share: float, age_s: float | None) -> Outcome:
    facts: dict[str, Any] = {"share": round(share, 4), "age_s": None if age_s is None else round(age_s, 1)}
    findings = []
    if severity := threshold.severity(share):
        findings.append(
            Finding(
                check=check,
                object=object,
                severity=severity,
                summary=SAYS[check].format(share=share, object=object),
                hint=HINTS[check],
                facts=facts,
            )
        )
    return judged(check, threshold.critical_severity, findings, object=object, **facts)


def _belongs(source: Labels, result: Labels) -> bool:
    """Whether a series that went into a query is behind one of its results: it has all labels that the result kept."""
    return all(source.get(name) == value for name, value in result.items())


def _object(labels: Labels) -> str:
    """``instance:mountpoint``, ``instance``, or whatever tells one result from the next."""
    if "instance" in labels:
        return ":".join(labels[name] for name in ("instance", "mountpoint") if name in labels)
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()) if name != "__name__")


def _service(labels: Labels) -> str:
    return labels.get("service") or _object(labels)


NAMES = {"disk": _object, "memory": _object, "errors": _service}
"""What each result is called: any series may carry ``service`` and ``instance``; the check knows which one counts."""


# -- PromQL --------------------------------------------------------------------------------------------

_STRING = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`"
_TOKEN = re.compile(
    rf"(?P<string>{_STRING})"
    # by (instance), on (…): names of labels, not of metrics.
    r"|(?P<labels>\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\))"
    # sum by (…) (…): only an aggregation stands before these words.
    r"|(?P<aggregation>\b[a-zA-Z_]\w*(?=\s+(?:by|without)\b))"
    r"|(?P<function>\b[a-zA-Z_]\w*\s*\()"
    r"|(?P<word>\b(?:and|or|unless|bool|offset|inf|nan|by|without|on|ignoring|group_left|group_right)\b)"
    rf"|(?P<selector>(?:[a-zA-Z_:][\w:]*\s*)?\{{(?:[^}}\"'`]|{_STRING})*\}}|[a-zA-Z_:][\w:]*)"
    # 1e9, [5m], 0x1f: letters that are no names.
    r"|(?P<number>\b\d[\w.]*|\[[^\]]*\])",
    re.IGNORECASE,
)


def selectors(query: str) -> list[str]:
    """
    The series a query reads: ``sum by (x) (rate(a{b="c"}[5m])) / d`` → ``['a{b="c"}', 'd']``.

    ``timestamp()`` of an expression is when it was evaluated; only that of a plain selector tells a sample's age.
    """
    found = (match.group("selector") for match in _TOKEN.finditer(query))
    return list(dict.fromkeys(" ".join(each.split()) for each in found if each))


# -- its HTTP API --------------------------------------------------------------------------------------


class _Prometheus:
    """Instant queries; see https://prometheus.io/docs/prometheus/latest/querying/api/."""

    def __init__(self, url: str, connect_to: Mapping[str, str]) -> None:
        self.url = url.rstrip("/")
        self.connect_to = connect_to
        self.trust = trusted()
        self.deadline = time.monotonic() + MOST_SECONDS

    def instant(self, query: str) -> list[_Series]:
        """:raises NoAnswer: twice no answer, or a question that it does not understand."""
        url = f"{self.url}/api/v1/query?{urlencode({'query': query})}"
        for last in (False, True):
            try:
                wait_s = max(0.1, min(TIMEOUT_S, self.deadline - time.monotonic()))
                answer = Wire(self.connect_to, wait_s, self.trust).get(url)
                return _series(json.loads(answer.body), answer.status)
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as trouble:
                if last or self.deadline - time.monotonic() < PAUSE_S:
                    raise NoAnswer(said(trouble)) from None
            except (ValueError, KeyError, TypeError):
                raise NoAnswer(f"{self.url} does not answer like Prometheus (HTTP {answer.status})") from None
            time.sleep(PAUSE_S)
        return []


def _series(answer: Any, status: int) -> list[_Series]:
    if answer.get("status") != "success":
        raise NoAnswer(f"{answer.get('errorType')}: {answer.get('error')} (HTTP {status})")
    data: Mapping[str, Any] = answer["data"]
    if data["resultType"] != "vector":
        raise NoAnswer(f"the query gives a {data['resultType']}, not a vector")
    results: Sequence[Mapping[str, Any]] = data["result"]
    return [_Series(each["metric"], float(each["value"][1])) for each in results]
