"""How far a consumer group is behind, which way that is going, and whether anybody is there to read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upkeep.findings import Finding, Outcome, judged, ok, unknown
from upkeep.kafka import PATIENCE_S, Admin, AskFailed, within
from upkeep.platforms.services import ConsumerGroup

LAG, GROUP = "kafka_lag", "kafka_group"

LOOK_AGAIN_S = 0.5
"""How often to look again at a group that is too far behind and has not moved yet."""

CATCHES_UP_WITHIN_S = 86_400
"""A lag that falls, but so slowly that it lasts longer than this, is not catching up."""

EARLIER_IS_TOO_OLD_S = 3_600

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True)
class Unseen:
    """What could not be looked at."""

    reason: str
    unanswered: bool
    """Nobody answered, as when a broker is down."""


@dataclass(frozen=True)
class Look:
    """Where a group and its topics stood at one moment."""

    at: float
    """On the monotonic clock."""

    committed: Mapping[Place, int | None]
    """The next message the group will read; None where it never committed."""

    starts: Mapping[Place, int]
    ends: Mapping[Place, int]

    unseen: Mapping[Place, Unseen]
    """Partitions whose offsets could not be read, and why."""


@dataclass(frozen=True)
class Membership:
    """Who consumes, as the group's coordinator says; ``state`` is Kafka's own word."""

    state: str
    members: int
    assigned: Mapping[str, int]
    """Partitions of each topic that some member reads; empty while a rebalance is under way."""


@dataclass(frozen=True)
class Topics:
    """What the metadata says of the topics a group reads."""

    partitions: Mapping[str, int]
    """How many each has; a topic that does not exist is missing."""

    leaders: Mapping[Place, int]
    """Broker id; -1 for a partition without a leader."""


def watch(
    admin: Admin,
    group: ConsumerGroup,
    topics: Topics,
    *,
    deadline: float,
    between_looks_s: float,
    earlier: Mapping[str, Mapping[str, Any]],
) -> list[Outcome]:
    """
    Look at one group twice or more, until ``deadline`` (monotonic clock) at the latest.

    An outcome ``kafka_group`` with object ``group``, and one ``kafka_lag`` with object ``group/topic`` for each topic.
    """
    places = [(topic, index) for topic in group.topics for index in range(topics.partitions.get(topic, 0))]
    asked = admin.client.describe_consumer_groups([group.group], request_timeout=PATIENCE_S)[group.group]
    first = last = None
    trouble = Unseen("no time was left", unanswered=True)
    try:
        # A broker that hangs must leave time for a second look at what the others know.
        first = last = _look(admin, group.group, places, topics.leaders, deadline - between_looks_s)
        places = [place for place in places if place not in first.unseen]
        pause_s = between_looks_s - 0.1
        while time.monotonic() + pause_s < deadline and (last is first or _undecided(group, first, last)):
            time.sleep(pause_s)
            last = _look(admin, group.group, places, topics.leaders, deadline, earlier=first)
            pause_s = LOOK_AGAIN_S
    except AskFailed as failed:
        trouble = _unseen(failed, f"offsets of {group.group}: ")
    membership = _membership(asked, deadline)
    seen = [_group_outcome(group, membership)]
    for topic in group.topics:
        if topic not in topics.partitions:
            seen.append(_no_topic(group, topic))
        elif first is None or last is None:
            seen.append(_could_not_look(group, LAG, trouble, object=f"{group.group}/{topic}"))
        else:
            known = membership if isinstance(membership, Membership) else None
            seen.append(_judge(group, topic, first, last, known, earlier.get(f"{group.group}/{topic}", {})))
    return seen


# -- asking --------------------------------------------------------------------------------------------------


def _left(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())


def _look(
    admin: Admin,
    group: str,
    places: list[Place],
    leaders: Mapping[Place, int],
    deadline: float,
    *,
    earlier: Look | None = None,
) -> Look:
    """
    Committed offsets first, ends after: the other way round, an idle group could seem ahead of its topic.

    Where the partitions start is asked once; what ``earlier`` could not see stays unseen.
    """
    committed = _committed(admin, group, places, deadline) if places else {}
    at = time.monotonic()
    ends = _ask_offsets(admin, admin.api.OffsetSpec.latest(), places, leaders)
    starts = {} if earlier else _ask_offsets(admin, admin.api.OffsetSpec.earliest(), places, leaders)
    found_ends = _offsets(ends, places, deadline)
    found_starts = _offsets(starts, places, deadline) if not earlier else earlier.starts
    unseen = dict(earlier.unseen) if earlier else {}
    unseen.update({p: found for f in (found_ends, found_starts) for p, found in f.items() if isinstance(found, Unseen)})
    return Look(
        at,
        committed,
        {place: found for place, found in found_starts.items() if isinstance(found, int)},
        {place: found for place, found in found_ends.items() if isinstance(found, int) and place not in unseen},
        unseen,
    )


def _committed(admin: Admin, group: str, places: list[Place], deadline: float) -> dict[Place, int | None]:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    # The partitions are named, because not every broker lists them for a group by itself.
    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, index) for topic, index in places])
    future = admin.client.list_consumer_group_offsets([asked], request_timeout=PATIENCE_S)[group]
    found = within(future, _left(deadline)).topic_partitions
    for partition in found:
        if partition.error is not None:
            raise AskFailed(partition.error.str(), answered=True)
    return {(p.topic, p.partition): p.offset if p.offset >= 0 else None for p in found}


def _ask_offsets(admin: Admin, spec: Any, places: list[Place], leaders: Mapping[Place, int]) -> dict[Place, Any]:
    """One request for each leader, so that a broker that hangs does not hold back what the others know."""
    from confluent_kafka import TopicPartition

    by_leader: dict[int, list[Place]] = {}
    for place in places:
        by_leader.setdefault(leaders.get(place, -1), []).append(place)
    by_leader.pop(-1, None)
    futures: dict[Place, Any] = {}
    for led in by_leader.values():
        asked = {TopicPartition(topic, index): spec for topic, index in led}
        answers = admin.client.list_offsets(asked, request_timeout=PATIENCE_S)
        futures.update({(partition.topic, partition.partition): future for partition, future in answers.items()})
    return futures


def _offsets(futures: Mapping[Place, Any], places: list[Place], deadline: float) -> dict[Place, int | Unseen]:
    found: dict[Place, int | Unseen] = {}
    for place in places:
        if place not in futures:
            found[place] = Unseen("it has no leader", unanswered=True)
            continue
        try:
            offset = int(within(futures[place], _left(deadline)).offset)
            found[place] = offset if offset >= 0 else Unseen("no offset in the answer", unanswered=True)
        except AskFailed as failed:
            found[place] = _unseen(failed)
    return found


def _membership(asked: Any, deadline: float) -> Membership | Unseen:
    try:
        described = within(asked, _left(deadline))
    except AskFailed as failed:
        return _unseen(failed)
    assigned: dict[str, int] = {}
    for member in described.members:
        for partition in member.assignment.topic_partitions if member.assignment else ():
            assigned[partition.topic] = assigned.get(partition.topic, 0) + 1
    return Membership(described.state.name.lower(), len(described.members), assigned)


def _unseen(failed: AskFailed, what: str = "") -> Unseen:
    return Unseen(what + failed.reason, unanswered=not failed.answered)


# -- judging -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """One group on one topic at one look; offsets are sums over the partitions that could be read."""

    lag: int
    position: int
    end: int
    uncommitted: int
    expired: int
    """Messages that were deleted before the group read them."""

    beyond: int
    """Committed offsets beyond the end: the topic was recreated, or a broker lost records."""


def standing(look: Look, topic: str) -> Standing:
    lag = position = total = uncommitted = expired = beyond = 0
    for place, end in look.ends.items():
        if place[0] != topic:
            continue
        start, committed = look.starts.get(place, 0), look.committed.get(place)
        at = start if committed is None else max(committed, start)
        uncommitted += committed is None
        expired += max(0, start - committed) if committed is not None else 0
        lag, beyond = lag + max(0, end - at), beyond + max(0, at - end)
        position, total = position + at, total + end
    return Standing(lag, position, total, uncommitted, expired, beyond)


def _undecided(group: ConsumerGroup, first: Look, last: Look) -> bool:
    """Too far behind and not seen falling: consumers commit every few seconds only, so it pays to look longer."""
    for topic in group.topics:
        before, now = standing(first, topic), standing(last, topic)
        if now.lag > group.lag and now.lag >= before.lag:
            return True
    return False


def _judge(
    group: ConsumerGroup,
    topic: str,
    first: Look,
    last: Look,
    membership: Membership | None,
    earlier: Mapping[str, Any],
) -> Outcome:
    object = f"{group.group}/{topic}"
    before, now = standing(first, topic), standing(last, topic)
    seconds = max(last.at - first.at, 0.001)
    committed_per_s = (now.position - before.position) / seconds
    written_per_s = (now.end - before.end) / seconds
    fall_per_s = max((before.lag - now.lag) / seconds, _fall_since(earlier, now))
    drain_s = now.lag / fall_per_s if fall_per_s > 0 else None
    facts: dict[str, Any] = {
        "lag": now.lag,
        "limit": group.lag,
        "position": now.position,
        "end": now.end,
        "at": datetime.now(UTC).isoformat(),
        "watched_s": round(seconds, 1),
        "committed_per_s": round(committed_per_s, 1),
        "written_per_s": round(written_per_s, 1),
        "falling": fall_per_s > 0,
        "drained_in_s": None if drain_s is None else round(drain_s),
        "behind_s": round(now.lag / written_per_s) if written_per_s > 0 else None,
        "by_partition": {str(place[1]): _lag_of(last, place) for place in sorted(last.ends) if place[0] == topic},
        "uncommitted_partitions": now.uncommitted,
        "expired": now.expired,
        "state": membership.state if membership else "",
        "members": membership.members if membership else None,
    }
    for (name, index), unseen in last.unseen.items():
        if name == topic:
            reason = f"end of {topic}/{index}: {unseen.reason}; the other partitions are {now.lag:,} behind"
            return unknown(LAG, group.severity, reason, object=object, **facts, unanswered=unseen.unanswered)
    if last is first and now.lag > group.lag and not facts["falling"]:
        reason = f"{now.lag:,} messages behind, but there was no time for a second look"
        return unknown(LAG, group.severity, reason, object=object, **facts, unanswered=True)
    problem = _problem(group, topic, now, facts, membership, moved=committed_per_s > 0)
    if problem is None:
        return ok(LAG, group.severity, object=object, **facts)
    summary, hint = problem
    finding = Finding(check=LAG, object=object, severity=group.severity, summary=summary, hint=hint, facts=facts)
    return judged(LAG, group.severity, [finding], object=object, **facts)


def _problem(
    group: ConsumerGroup,
    topic: str,
    now: Standing,
    facts: Mapping[str, Any],
    membership: Membership | None,
    *,
    moved: bool,
) -> tuple[str, str] | None:
    """Summary and hint of what is wrong; None when nothing is."""
    name = group.group
    if membership and membership.state == "dead" and now.uncommitted == len(facts["by_partition"]):
        return (
            f"consumer group {name} does not exist: it never committed an offset of {topic}, {now.lag:,} messages wait",
            "compare the name with the application's group.id; a group is forgotten after a week without members.",
        )
    if now.beyond:
        return (
            f"{name} has committed {now.beyond:,} messages beyond the end of {topic}",
            "the topic was recreated or lost records: reset the group's offsets, and look for an unclean election.",
        )
    nobody = membership is not None and (
        membership.members == 0
        or (membership.state == "stable" and membership.assigned and not membership.assigned.get(topic))
    )
    if nobody and now.lag and not moved:
        return (
            f"nobody consumes {topic} for {name}: {now.lag:,} messages wait",
            "start the consumers, or look why they left: crash, failed deployment, max.poll.interval exceeded.",
        )
    if now.lag > group.lag and (facts["drained_in_s"] is None or facts["drained_in_s"] > CATCHES_UP_WITHIN_S):
        lost = f"; {now.expired:,} were deleted unread" if now.expired else ""
        return (
            f"{name} is {now.lag:,} messages behind on {topic} and not catching up "
            f"({facts['committed_per_s']:,.0f}/s committed, {facts['written_per_s']:,.0f}/s written "
            f"in {facts['watched_s']:g} s){lost}",
            "look at the consumers' logs and at what they wait for; add consumers up to the number of partitions.",
        )
    return None


def _nobody_reads(membership: Membership, topic: str) -> bool:
    if membership.members == 0:
        return True
    # Members that read other topics only; unless nobody has any assignment that can be read, as with Kafka Connect.
    return membership.state == "stable" and bool(membership.assigned) and topic not in membership.assigned


def _lag_of(look: Look, place: Place) -> int:
    start, committed = look.starts.get(place, 0), look.committed.get(place)
    return max(0, look.ends[place] - (start if committed is None else max(committed, start)))


def _fall_since(earlier: Mapping[str, Any], now: Standing) -> float:
    """Messages a second by which the lag fell since an earlier look's facts; 0 when they do not say."""
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(earlier["at"])).total_seconds()
        fell, moved = earlier["lag"] - now.lag, now.position - earlier["position"]
    except (KeyError, TypeError, ValueError):
        return 0.0
    return fell / age_s if 1 <= age_s <= EARLIER_IS_TOO_OLD_S and moved > 0 and fell > 0 else 0.0


def _group_outcome(group: ConsumerGroup, membership: Membership | Unseen) -> Outcome:
    if isinstance(membership, Unseen):
        return _could_not_look(group, GROUP, membership, object=group.group)
    return ok(GROUP, group.severity, object=group.group, state=membership.state, members=membership.members)


def _could_not_look(group: ConsumerGroup, check: str, why: Unseen, *, object: str) -> Outcome:
    return unknown(check, group.severity, why.reason, object=object, unanswered=why.unanswered)


def _no_topic(group: ConsumerGroup, topic: str) -> Outcome:
    object = f"{group.group}/{topic}"
    finding = Finding(
        check=LAG,
        object=object,
        severity=group.severity,
        summary=f"topic {topic}, which {group.group} should read, does not exist",
        hint="create it, or mend kafka.groups of the platform file.",
    )
    return judged(LAG, group.severity, [finding], object=object)
