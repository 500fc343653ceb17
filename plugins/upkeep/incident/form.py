"""What a person asks for in an incident, read strictly: nothing of it is ever run, it only chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from upkeep.errors import SettingsError
from upkeep.findings import Severity
from upkeep.incident import cdn
from upkeep.incident.cache import chosen
from upkeep.incident.naming import severity_named
from upkeep.platforms import Platform
from upkeep.platforms.conduct import Remedy

ACTIONS = ("diagnose", *(remedy.value for remedy in Remedy))

LADDER: Mapping[str, tuple[str, ...]] = {
    "errors": ("restart", "rollback"),
    "slow": ("scale", "restart"),
    "down": ("restart", "rollback"),
    "since the last release": ("rollback", "restart"),
    "old content": ("cache", "restart"),
    "unknown": ("diagnose", "restart"),
}
"""What is tried by symptom, mildest and likeliest first; one at a time, each only when the one before did not help."""

MOST_TEXT = 2000


@dataclass(frozen=True)
class Asked:
    """One thing to do, and why."""

    platform: str
    severity: Severity
    action: str
    symptom: str
    description: str
    deployment: str = ""
    replicas: int = 0
    minutes: int = 60
    """How long a scaling lasts."""

    prefixes: tuple[str, ...] = ()
    """Of keys in Redis."""

    addresses: tuple[str, ...] = ()
    """And tags, for the CDN; then nothing in Redis is cleared."""

    downtime: bool = False
    """Whether an interruption is accepted."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "severity": self.severity.value}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Asked:
        lists = {name: tuple(stored.get(name, ())) for name in ("prefixes", "addresses")}
        return cls(**{**stored, "severity": Severity(stored["severity"]), **lists})

    @property
    def object(self) -> str:
        """What the action is done to."""
        if self.action == "cache":
            return _some(self.addresses or self.prefixes)
        return self.deployment or self.platform

    @property
    def sentence(self) -> str:
        """``scale studyspot-api to at least 5 for 60 minutes``."""
        return {
            "diagnose": "look, and change nothing",
            "restart": f"restart {self.deployment}" + (", which interrupts it" if self.downtime else ""),
            "scale": f"scale {self.deployment} to at least {self.replicas} for {self.minutes} minutes",
            "cache": f"have the CDN forget {_some(self.addresses)}"
            if self.addresses
            else f"clear the cache's keys that begin with {', '.join(self.prefixes)}",
            "rollback": f"roll {self.deployment} back to the revision before",
        }[self.action]


def read(platform: Platform, params: Mapping[str, Any]) -> Asked:
    """
    :raises SettingsError: the platform has no such thing, or it is not among what its file allows.
    """
    action = str(params.get("action") or "diagnose")
    if action not in ACTIONS:
        raise SettingsError(f"no action {action[:100]!r}", hint=f"there are: {', '.join(ACTIONS)}.")
    symptom = str(params.get("symptom") or "unknown")
    if symptom not in LADDER:
        raise SettingsError(f"no symptom {symptom[:100]!r}", hint=f"there are: {', '.join(LADDER)}.")
    needs_deployment = action in ("restart", "scale", "rollback")
    deployment = _deployment(platform, str(params.get("deployment") or ""), needs_deployment)
    prefixes, addresses = _caches(platform, params) if action == "cache" else ((), ())
    return Asked(
        platform=platform.name,
        severity=severity_named(platform, str(params.get("severity") or "")[:100]),
        action=action,
        symptom=symptom,
        description=_text(str(params.get("description") or "")),
        deployment=deployment,
        replicas=_replicas(platform, deployment, params.get("replicas")) if action == "scale" else 0,
        minutes=_number(params.get("minutes") or 60, "minutes", 5, 24 * 60),
        prefixes=prefixes,
        addresses=addresses,
        downtime=params.get("downtime") is True,
    )


def preapproved(platform: Platform, asked: Asked) -> bool:
    """Whether the platform file has said yes to this action in an incident this bad."""
    if asked.action == "diagnose":
        return True
    least = platform.approvers.preapproved.get(Remedy(asked.action))
    return least is not None and asked.severity.at_least(least)


def what_next(asked: Asked) -> str:
    """The step of the ladder after one that did not help, as a hint."""
    steps = LADDER[asked.symptom]
    later = steps[steps.index(asked.action) + 1 :] if asked.action in steps else steps
    step = next((step for step in later if step != asked.action), "")
    if not step:
        return "HINT: that was the ladder's end: call the next level."
    return f"HINT: next, trigger `incident_response` again with action {step}."


def _deployment(platform: Platform, name: str, needed: bool) -> str:
    known = [one.name for one in platform.kubernetes.deployments] if platform.kubernetes else []
    if not name and needed and len(known) == 1:
        return known[0]
    if name in known or (not name and not needed):
        return name
    raise SettingsError(
        f"no deployment {name[:100]!r} of {platform.name} that may be touched" if name else "no deployment is named",
        hint=f"the platform file names: {', '.join(known) or 'none'} (`kubernetes.deployments`).",
    )


def _replicas(platform: Platform, name: str, wanted: Any) -> int:
    assert platform.kubernetes is not None
    (bounds,) = [one for one in platform.kubernetes.deployments if one.name == name]
    return _number(wanted or 0, "replicas", max(1, bounds.least), bounds.most)


def _number(value: Any, what: str, least: int, most: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise SettingsError(f"{what} is {str(value)[:40]!r}", hint=f"between {least} and {most}.")
    return number


def _caches(platform: Platform, params: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Prefixes in Redis, or addresses of the CDN."""
    prefixes, addresses = _words(params.get("prefixes")), _words(params.get("addresses"))
    if prefixes and addresses:
        raise SettingsError(
            "prefixes of Redis and addresses of the CDN together",
            hint="one at a time, or nobody knows which one helped: Redis first, it is what the CDN asks.",
        )
    if addresses:
        if platform.cdn is None:
            raise SettingsError(f"{platform.name} has no CDN", hint="its platform file has no section `cdn`.")
        return (), tuple(cdn.chosen(addresses, platform.cdn))
    if platform.redis is None:
        raise SettingsError(f"{platform.name} has no cache", hint="its platform file has no section `redis`.")
    return tuple(chosen(prefixes, platform.redis.cache_prefixes)), ()


def _words(asked: Any) -> list[str]:
    return asked.split() if isinstance(asked, str) else [str(one) for one in asked or ()]


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    few = ", ".join(one if len(one) <= 100 else f"{one[:100]}…" for one in names[:3])
    return few + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _text(said: str) -> str:
    """On one line and cut with notice; whoever shows it escapes it."""
    line = " ".join(said.split())
    return line if len(line) <= MOST_TEXT else f"{line[:MOST_TEXT]} … ({len(line)} characters)"
