"""The form of an incident: what it accepts, what it refuses, and what it says yes to by itself."""

from __future__ import annotations

from typing import Any

import pytest

from upkeep.errors import SettingsError
from upkeep.findings import Severity
from upkeep.incident import form
from upkeep.incident.form import ACTIONS, LADDER, Asked
from upkeep.incident.naming import severity_named
from upkeep.platforms import Platform, platform
from upkeep.platforms.conduct import Approvers, Remedy

STUDYSPOT = platform("studyspot")


def read(subject: Platform = STUDYSPOT, **params: Any) -> Asked:
    return form.read(subject, params)


def test_an_empty_form_only_looks() -> None:
    asked = read()
    assert (asked.action, asked.severity, asked.sentence) == ("diagnose", Severity.P1, "look, and change nothing")
    assert form.preapproved(STUDYSPOT, asked)


def test_each_action_says_what_it_will_do() -> None:
    assert read(action="restart", deployment="studyspot-web").sentence == "restart studyspot-web"
    interrupting = read(action="restart", deployment="studyspot-web", downtime=True)
    assert interrupting.sentence == "restart studyspot-web, which interrupts it"
    scaled = read(action="scale", deployment="studyspot-api", replicas=5, minutes=90)
    assert scaled.sentence == "scale studyspot-api to at least 5 for 90 minutes"
    assert read(action="cache").sentence == "clear the cache's keys that begin with cache:"
    assert read(action="rollback", deployment="studyspot-api").object == "studyspot-api"


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"action": "drop"}, r"no action 'drop'[\s\S]*diagnose, restart, scale, cache, rollback"),
        ({"action": "restart; rm -rf /"}, "no action"),
        ({"symptom": "bored"}, "no symptom 'bored'"),
        ({"action": "restart"}, r"no deployment is named[\s\S]*studyspot-api"),
        ({"action": "restart", "deployment": "../studyspot-api"}, "no deployment '../studyspot-api'"),
        ({"action": "restart", "deployment": "auth-service"}, "no deployment 'auth-service' of studyspot"),
        ({"action": "restart", "deployment": "x" * 5000}, "no deployment 'x{100}'"),
        ({"action": "scale", "deployment": "studyspot-api"}, r"replicas is '0'[\s\S]*between \d+ and \d+"),
        ({"action": "scale", "deployment": "studyspot-api", "replicas": 1000}, "replicas is '1000'"),
        ({"action": "scale", "deployment": "studyspot-api", "replicas": "$(reboot)"}, r"replicas is '\$\(reboot\)'"),
        ({"action": "scale", "deployment": "studyspot-api", "replicas": 5, "minutes": 1}, "minutes is '1'"),
        ({"action": "cache", "prefixes": "session:"}, r"'session:' may not be cleared[\s\S]*cache:"),
        ({"action": "cache", "prefixes": ["*"]}, "may not be cleared"),
    ],
)
def test_what_the_platform_file_does_not_allow_is_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refused:
        read(**params)
    assert "\nHINT: " in str(refused.value)
    assert len(str(refused.value)) < 1000


def test_a_platform_without_a_cache() -> None:
    with pytest.raises(SettingsError, match="has no cache"):
        read(STUDYSPOT.model_copy(update={"redis": None}), action="cache")


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("P0", "P0"), ("p3", "P2"), (" P1 Critical ", "P0"), ("p1   critical", "P0"), ("", "P1"), ("SEV-9", "P1"),
        ("'; drop table incidents; --", "P1"),
    ],
)  # fmt: skip
def test_severity_by_any_name_and_unknown_is_p1(said: str, means: str) -> None:
    assert severity_named(STUDYSPOT, said) == Severity(means)


def test_both_platforms_own_names_mean_one_scale() -> None:
    for name in ("studyspot", "adaptive_learning"):
        subject = platform(name)
        for severity, level in subject.severity.levels.items():
            assert severity_named(subject, level.name) == severity


def test_a_description_of_a_megabyte_is_cut_with_notice() -> None:
    asked = read(description="it is\n<!channel> down " * 60_000)
    assert asked.description.endswith(" characters)")
    assert len(asked.description) < 2100
    assert "\n" not in asked.description


def test_what_was_asked_survives_the_way_to_the_next_task() -> None:
    asked = read(action="scale", deployment="studyspot-api", replicas=5, severity="P0", description="‘quotes’ \"'")
    assert Asked.from_dict(asked.as_dict()) == asked


def test_the_file_says_yes_only_to_what_it_names_and_only_when_it_is_bad_enough() -> None:
    subject = STUDYSPOT.model_copy(update={"approvers": Approvers(preapproved={Remedy.restart: Severity.P0})})
    worst = read(subject, action="restart", deployment="studyspot-web", severity="P0")
    assert form.preapproved(subject, worst)
    assert not form.preapproved(STUDYSPOT, worst)
    assert not form.preapproved(subject, read(subject, action="restart", deployment="studyspot-web", severity="P2"))
    assert not form.preapproved(subject, read(subject, action="rollback", deployment="studyspot-web", severity="P0"))


@pytest.mark.parametrize("symptom", LADDER)
def test_the_ladder_goes_up_one_step_at_a_time_and_ends(symptom: str) -> None:
    assert set(LADDER[symptom]) <= set(ACTIONS)
    last = read(symptom=symptom, action="cache")
    last = Asked.from_dict({**last.as_dict(), "action": LADDER[symptom][-1]})
    assert form.what_next(last) == "HINT: that was the ladder's end: call the next level."
    first = Asked.from_dict({**last.as_dict(), "action": LADDER[symptom][0]})
    assert form.what_next(first).endswith(f"again with action {LADDER[symptom][1]}.")


def test_the_form_offers_what_is_read() -> None:
    from tests.test_dags import BAG

    params = BAG.dags["incident_response"].params
    assert tuple(params.get_param("action").schema["enum"]) == ACTIONS
    assert set(params.get_param("symptom").schema["enum"]) == set(LADDER)
    assert "studyspot" in params.get_param("platform").schema["enum"]
