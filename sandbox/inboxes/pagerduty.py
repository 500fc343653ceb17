"""A PagerDuty account: services with routing keys, incidents with state, change events, and the REST basics."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sandbox.inboxes import pagerduty_events
from sandbox.inboxes.wire import Answer, Request


@dataclass
class Incident:
    """An incident with its one alert; ``state`` is triggered, acknowledged or resolved."""

    id: str
    number: int
    service: str
    key: str
    title: str
    state: str
    severity: str
    source: str
    opened: str
    changed: str
    by: str
    """Who opened it: ``events`` or the e-mail address of a REST request."""

    alerts: int = 0
    """Trigger events so far; 0 for an incident declared by REST."""

    urgency: str = "high"
    priority: dict[str, Any] | None = None
    payload: dict[str, Any] = field(default_factory=dict)
    links: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    client: str = ""
    client_url: str = ""
    log: list[dict[str, str]] = field(default_factory=list)
    """``{"time", "what", "text"}``, oldest first."""

    def note(self, now: datetime, what: str, text: str = "") -> None:
        self.changed = _iso(now)
        self.log.append({"time": self.changed, "what": what, "text": text})


class PagerDuty:
    """
    State and rules. Every answer follows from the requests and their times alone, so replaying them restores it.

    :param routing_keys: ``{"upkeep": "<32 hex>"}``, service name to integration key.
    :param token: of the REST API.
    :param users: e-mail addresses that ``From`` may name.
    """

    def __init__(self, *, routing_keys: Mapping[str, str], token: str, users: list[str]) -> None:
        self.services = {key: name for name, key in routing_keys.items()}
        self.token = token
        self.users = users
        self.incidents: list[Incident] = []
        self.changes: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    # -- what tests and people look at -------------------------------------------------------------------

    def json(self) -> dict[str, Any]:
        return {
            "incidents": [asdict(incident) for incident in self.incidents],
            "events": self.events,
            "changes": self.changes,
        }

    # -- requests ----------------------------------------------------------------------------------------

    def refusal(self, request: Request) -> Answer | None:
        """Why this sender may not ask at all; None when it may."""
        if request.path.startswith("/v2/"):
            return None
        given = request.headers.get("authorization", "")
        if given not in (f"Token token={self.token}", f"Bearer {self.token}"):
            return Answer(401, {"error": {"code": 2006, "message": "Unauthorized", "errors": ["Invalid API token"]}})
        return None

    def answer(self, request: Request, now: datetime) -> Answer:
        match request.method, request.path.strip("/").split("/"):
            case "POST", ["v2", "enqueue"]:
                return self._enqueue(request, now)
            case "POST", ["v2", "change", "enqueue"]:
                return self._change(request, now)
            case "GET", ["incidents"]:
                return self._list(request.query)
            case "POST", ["incidents"]:
                return self._create(request, now)
            case "GET", ["incidents", id_]:
                found = self._find(id_)
                return Answer(200, {"incident": _rest(found)}) if found else _rest_error(404, 2100, "Not Found")
            case "PUT", ["incidents", id_]:
                return self._update(request, id_, now)
            case "GET", ["incidents", id_, "log_entries"]:
                found = self._find(id_)
                return Answer(200, {"log_entries": found.log}) if found else _rest_error(404, 2100, "Not Found")
            case "POST", ["incidents", id_, ("notes" | "status_updates") as kind]:
                return self._note(request, id_, kind, now)
            case "GET", ["services"]:
                return _page("services", [_service(name) for name in self.services.values()], {})
            case "GET", ["users"]:
                return _page("users", [_user(email) for email in self.users], {})
            case "GET", ["priorities"]:
                return _page("priorities", [_priority(name) for name in ("P1", "P2", "P3", "P4", "P5")], {})
            case "GET", ["abilities"]:
                return Answer(200, {"abilities": ["teams", "urgencies"]})
        return _rest_error(404, 2100, "Not Found")

    # -- Events API v2 -----------------------------------------------------------------------------------

    def _enqueue(self, request: Request, now: datetime) -> Answer:
        if refused := self._invalid(request, pagerduty_events.EVENT):
            return refused
        event: dict[str, Any] = request.body
        service = self.services[event["routing_key"]]
        key = event.get("dedup_key") or _hex(f"key {len(self.events)} {now}")
        action = event["event_action"]
        found = next(
            (i for i in self.incidents if (i.service, i.key) == (service, key) and i.state != "resolved"), None
        )
        if action == "trigger":
            found = found or self._open(service, key, event["payload"], now)
            found.alerts += 1
            found.payload = event["payload"]
            found.links, found.images = event.get("links", []), event.get("images", [])
            found.client, found.client_url = event.get("client", ""), event.get("client_url", "")
            found.note(now, "triggered", event["payload"]["summary"])
        elif found:
            found.state = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
            found.note(now, found.state)
        payload = event.get("payload") or {}
        self.events.append(
            {
                "time": _iso(now),
                "service": service,
                "action": action,
                "dedup_key": key,
                "severity": payload.get("severity"),
                "summary": payload.get("summary"),
                "incident": found.id if found else None,
                "body": {name: value for name, value in event.items() if name != "routing_key"},
            }
        )
        return Answer(202, {"status": "success", "message": "Event processed", "dedup_key": key})

    def _change(self, request: Request, now: datetime) -> Answer:
        if refused := self._invalid(request, pagerduty_events.CHANGE):
            return refused
        event: dict[str, Any] = request.body
        service = self.services[event["routing_key"]]
        shown = {name: value for name, value in event.items() if name != "routing_key"}
        self.changes.append({"time": _iso(now), "service": service, **shown})
        return Answer(202, {"status": "success", "message": "Change event processed"})

    def _invalid(self, request: Request, validator: Any) -> Answer | None:
        if request.size > pagerduty_events.MOST_BYTES:
            return Answer(
                413, {"status": "invalid event", "message": "Event object is too large", "errors": ["512 KB"]}
            )
        if wrong := pagerduty_events.errors(validator, request.body):
            return Answer(400, {"status": "invalid event", "message": "Event object is invalid", "errors": wrong})
        if request.body["routing_key"] not in self.services:
            return Answer(400, "Invalid routing key")
        return None

    def _is_open(self, service: str, key: str) -> Incident | None:
        for incident in reversed(self.incidents):
            if (incident.service, incident.key) == (service, key) and incident.state != "resolved":
                return incident
        return None

    def _open(self, service: str, key: str, payload: Mapping[str, Any], now: datetime) -> Incident:
        number = len(self.incidents) + 1
        incident = Incident(
            id=f"Q{_hex(f'incident {number} {key}')[:13].upper()}",
            number=number,
            service=service,
            key=key,
            title=payload["summary"],
            state="triggered",
            severity=payload["severity"],
            source=payload["source"],
            opened=_iso(now),
            changed=_iso(now),
            by="events",
            urgency="high" if payload["severity"] in ("critical", "error") else "low",
        )
        self.incidents.append(incident)
        return incident

    # -- REST --------------------------------------------------------------------------------------------

    def _find(self, id_: str) -> Incident | None:
        return next((i for i in self.incidents if id_ in (i.id, str(i.number))), None)

    def _list(self, query: Mapping[str, str]) -> Answer:
        states = {state for name in ("statuses[]", "statuses") if name in query for state in query[name].split(",")}
        found = [
            _rest(incident)
            for incident in self.incidents
            if query.get("incident_key", incident.key) == incident.key and (not states or incident.state in states)
        ]
        return _page("incidents", found, query)

    def _requester(self, request: Request) -> str | Answer:
        email = request.headers.get("from", "")
        return email if email in self.users else _rest_error(400, 2010, "Requester User Not Found")

    def _create(self, request: Request, now: datetime) -> Answer:
        email = self._requester(request)
        if isinstance(email, Answer):
            return email
        asked = _object(request.body, "incident")
        if not asked:
            return _rest_error(400, 2001, "Invalid Input Provided", "Incident can't be blank")
        wrong = [f"{name.capitalize()} cannot be empty" for name in ("type", "title", "service") if not asked.get(name)]
        if wrong:
            return _rest_error(400, 2001, "Invalid Input Provided", *wrong)
        services = {_service(name)["id"]: name for name in self.services.values()}
        service = services.get(str(_object(asked, "service").get("id")))
        if service is None:
            return _rest_error(400, 2002, "Arguments Caused Error", "Service not found")
        key = str(asked.get("incident_key") or "") or _hex(f"rest {len(self.incidents)} {now}")
        if self._is_open(service, key):
            return _rest_error(
                400,
                2002,
                "Arguments Caused Error",
                "Open incident with matching dedup key already exists on this service",
            )
        incident = self._open(
            service, key, {"summary": str(asked["title"]), "severity": "critical", "source": email}, now
        )
        incident.by = email
        incident.urgency = asked.get("urgency", "high")
        incident.priority = asked.get("priority")
        incident.payload = {"custom_details": _object(asked, "body").get("details", "")}
        incident.note(now, "triggered", f"declared by {email}")
        return Answer(201, {"incident": _rest(incident)})

    def _update(self, request: Request, id_: str, now: datetime) -> Answer:
        email, found = self._requester(request), self._find(id_)
        if isinstance(email, Answer):
            return email
        if found is None:
            return _rest_error(404, 2100, "Not Found")
        asked = _object(request.body, "incident")
        state = asked.get("status")
        if state not in (None, "acknowledged", "resolved") or (state and found.state == "resolved"):
            return _rest_error(400, 2002, "Arguments Caused Error", "Incident Already Resolved")
        if state:
            found.state = state
            found.note(now, state, f"by {email}")
        if asked.get("title"):
            found.title = str(asked["title"])
            found.note(now, "renamed", found.title)
        return Answer(200, {"incident": _rest(found)})

    def _note(self, request: Request, id_: str, kind: str, now: datetime) -> Answer:
        email, found = self._requester(request), self._find(id_)
        if isinstance(email, Answer):
            return email
        if found is None:
            return _rest_error(404, 2100, "Not Found")
        body = {"body": request.body}
        text = _object(request.body, "note").get("content") if kind == "notes" else _object(body, "body").get("message")
        if not text or not isinstance(text, str):
            return _rest_error(400, 2001, "Invalid Input Provided", "Content cannot be empty")
        found.note(now, "note" if kind == "notes" else "status update", text)
        made = {"id": _hex(f"{found.id} {len(found.log)}")[:14].upper(), "created_at": _iso(now)}
        return Answer(201, {"note": {**made, "content": text}} if kind == "notes" else {"status_update": made})


def _object(body: Any, name: str) -> dict[str, Any]:
    """``body[name]`` when both are objects, else an empty one: anything may be sent to us."""
    value = body.get(name) if isinstance(body, dict) else None
    return value if isinstance(value, dict) else {}


def _page(name: str, found: list[dict[str, Any]], query: Mapping[str, str]) -> Answer:
    try:
        offset, limit = int(query.get("offset", 0)), min(int(query.get("limit", 25)), 100)
    except ValueError:
        return _rest_error(400, 2001, "Invalid Input Provided", "limit and offset are numbers")
    rows = found[offset : offset + limit]
    more = offset + limit < len(found)
    return Answer(200, {name: rows, "offset": offset, "limit": limit, "more": more, "total": None})


def _rest(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.id,
        "type": "incident",
        "incident_number": incident.number,
        "incident_key": incident.key,
        "title": incident.title,
        "status": incident.state,
        "urgency": incident.urgency,
        "priority": incident.priority,
        "service": _service(incident.service),
        "created_at": incident.opened,
        "last_status_change_at": incident.changed,
        "alert_counts": {"all": incident.alerts},
        "html_url": f"https://upkeep.pagerduty.com/incidents/{incident.id}",
    }


def _service(name: str) -> dict[str, Any]:
    return {"id": f"P{_hex(f'service {name}')[:6].upper()}", "type": "service_reference", "summary": name}


def _user(email: str) -> dict[str, Any]:
    return {"id": f"P{_hex(f'user {email}')[:6].upper()}", "type": "user", "name": email.split("@")[0], "email": email}


def _priority(name: str) -> dict[str, Any]:
    return {"id": f"P{_hex(f'priority {name}')[:6].upper()}", "type": "priority", "name": name}


def _rest_error(status: int, code: int, message: str, *errors: str) -> Answer:
    return Answer(status, {"error": {"message": message, "code": code, "errors": list(errors)}})


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _hex(seed: str) -> str:
    """Looks random, is not: a replay must give the same identifiers."""
    return hashlib.sha256(seed.encode()).hexdigest()[:32]
