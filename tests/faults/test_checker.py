"""Who checks the checker: each rule, broken on purpose in the evidence of a day on which all of them held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache

import msgspec
import pytest
from msgspec import structs

from horizon.core import events as ev
from horizon.store import codec
from horizon.store.memory import Log
from horizon.store.port import GENESIS_HASH, Head
from tests.faults.checker import Evidence, Findings, Kind, Lived, Outcome, Start, Try, check
from tests.faults.simulation import Day
from tests.faults.twins import TwinLog


@cache
def quiet_day() -> Day:
    return Day(next(seed for seed in range(100) if Day(seed).weather.badness == 0.0)).run()


class Forged:
    """Evidence of that day, to be changed, and its log, to be written anew."""

    def __init__(self) -> None:
        day = quiet_day()
        self.tries = [
            Try(one.mark, one.kind, one.sent, one.answered, one.outcome, one.answer) for one in day.tries
        ]
        self.events = list(day.database.log.events)
        self.evidence = Evidence(
            TwinLog(Log()),
            self.tries,
            [notes.as_file() for notes in day.notes.values()],
            leaders=list(day.database.led),
            starts=list(day.nodes.starts),
            followed=[[(one.position, one.hash) for one in self.events]],
        )

    def places(self, kind: type[ev.Event]) -> list[int]:
        return [place for place, one in enumerate(self.events) if type(one.event) is kind]

    def acknowledged(self) -> Try:
        return next(
            one for one in self.tries if one.outcome is Outcome.ACKNOWLEDGED and one.kind is Kind.SUBMIT
        )

    def sealed_again(self, epochs: dict[int, int] | None = None) -> None:
        """Hashes for what the events have become: somebody else may have written this log."""
        previous, written = GENESIS_HASH, []
        for position, one in enumerate(self.events, start=1):
            epoch = (epochs or {}).get(position, one.epoch)
            payload = ev.encode(one.event)
            one = structs.replace(one, position=position, epoch=epoch, payload=payload)
            previous = codec.header_hash(one, previous)
            written.append(structs.replace(one, hash=previous))
        self.events = written
        self.evidence.notes = []

    def check(self) -> Findings:
        day, log = quiet_day().database.log, Log()
        log.events, log.checkpoints = self.events, day.checkpoints if self.evidence.notes else {}
        last = self.events[-1]
        log.head = Head(day.head.log_id, last.epoch, last.position, last.hash, last.recorded_at_us)
        self.evidence.log = TwinLog(log)
        return asyncio.run(check(self.evidence))


def test_the_evidence_of_a_quiet_day_holds() -> None:
    findings = Forged().check()
    assert findings.all == []
    assert findings.checks > 500


def acknowledged_and_not_there(forged: Forged) -> None:
    forged.tries.append(Try("nowhere", Kind.SUBMIT, 0.0, 1.0, Outcome.ACKNOWLEDGED, b"{}"))


def twice(forged: Forged) -> None:
    first, second = [place for place, one in enumerate(forged.events) if type(one.event) is ev.JobSubmitted][
        :2
    ]
    submitted = forged.events[second].event
    mark = forged.events[first].event.spec.comment  # type: ignore[attr-defined]
    again = structs.replace(submitted, spec=structs.replace(submitted.spec, comment=mark))  # type: ignore[attr-defined]
    forged.events[second] = structs.replace(forged.events[second], event=again)
    forged.sealed_again()


def refused_and_there(forged: Forged) -> None:
    mark = forged.acknowledged().mark
    for one in forged.tries:
        if one.mark == mark:
            one.outcome = Outcome.REFUSED


def answered_otherwise(forged: Forged) -> None:
    one = forged.acknowledged()
    said = {**msgspec.json.decode(one.answer), "number": 999}
    forged.tries.append(
        Try(one.mark, one.kind, one.sent, one.answered, one.outcome, msgspec.json.encode(said))
    )


def answered_wrongly(forged: Forged) -> None:
    one = forged.acknowledged()
    said = msgspec.json.encode({**msgspec.json.decode(one.answer), "number": 999})
    for other in forged.tries:
        if other.mark == one.mark:
            other.answer = said


def with_a_gap(forged: Forged) -> None:
    del forged.events[-2]


def changed(forged: Forged) -> None:
    forged.events[3] = structs.replace(forged.events[3], actor="mallory")


def without_its_leader(forged: Forged) -> None:
    forged.events[0] = structs.replace(forged.events[1])
    forged.sealed_again()


def led_by_two(forged: Forged) -> None:
    forged.evidence.leaders.append((forged.evidence.leaders[0][0], "mallory"))


def out_of_order(forged: Forged) -> None:
    acknowledged = [
        one for one in forged.tries if one.outcome is Outcome.ACKNOWLEDGED and one.kind is Kind.SUBMIT
    ]
    for one in acknowledged[-1:]:  # as if it had been done before the first was asked
        one.sent, one.answered = -2.0, -1.0


def seen_twice(forged: Forged) -> None:
    [seen] = forged.evidence.followed
    seen.insert(5, seen[4])


def seen_and_not_there(forged: Forged) -> None:
    [seen] = forged.evidence.followed
    seen.append((len(seen) + 1, bytes(32)))


def another_state(forged: Forged) -> None:
    forged.evidence.lived.append(Lived(len(forged.events), "0" * 64))


def ahead_of_the_log(forged: Forged) -> None:
    forged.evidence.lived.append(Lived(len(forged.events) + 1, "0" * 64))


def held_twice(forged: Forged) -> None:
    forged.events = [one for one in forged.events if type(one.event) is not ev.AllocationReleased]
    forged.sealed_again()


def never_scheduled(forged: Forged) -> None:
    forged.evidence.starts.append(Start("nobody", 1, 0))


def started_too_early(forged: Forged) -> None:
    forged.evidence.starts[0] = forged.evidence.starts[0]._replace(log_end=1)


def started_twice(forged: Forged) -> None:
    forged.evidence.starts.append(forged.evidence.starts[0])


def signed_and_taken_away(forged: Forged) -> None:
    del forged.events[-1]


@pytest.mark.parametrize(
    ("break_it", "rule"),
    [
        (acknowledged_and_not_there, "I1: submit nowhere was acknowledged and is not in the log"),
        (twice, "I2: "),
        (refused_and_there, "I3: "),
        (answered_otherwise, "was answered in 2 ways"),
        (answered_wrongly, "was answered with job 999"),
        (with_a_gap, "I5: event"),
        (changed, "position 4: it has been changed"),
        (without_its_leader, "which has no leader"),
        (led_by_two, "I6: 2 schedulers led in epoch"),
        (out_of_order, "I7: "),
        (seen_twice, "I8: follower 0 saw 5 where 6"),
        (seen_and_not_there, "I8: "),
        (another_state, "I9: the log does not fold to"),
        (ahead_of_the_log, "I9: a scheduler lived at"),
        (held_twice, "and held by"),
        (never_scheduled, "I10: nobody.1 ran and was never scheduled"),
        (started_too_early, "was durable"),
        (started_twice, "was started 2 times"),
        (signed_and_taken_away, "its end was taken away, or an older backup was restored"),
    ],
)
def test_a_broken_rule_is_found(break_it: Callable[[Forged], None], rule: str) -> None:
    forged = Forged()
    break_it(forged)
    assert any(rule in finding for finding in forged.check().all), forged.check().all
