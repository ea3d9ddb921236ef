"""Random lives under audit: a hundred or two here, thousands every night (``make nightly``)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from horizon.core import events as ev
from horizon.core.model import JobState
from tests.core.checker import Broken, Checker
from tests.core.worlds import Life, live

LIVES = 120
A_BATCH = 10
WELL_KNOWN = 60
"""So many of them are looked at in other ways, too."""


@cache
def known(seed: int) -> Life:
    return live(seed)


@pytest.mark.parametrize("first", range(0, LIVES, A_BATCH))
def test_the_rules_hold_through_random_lives(first: int) -> None:
    for seed in range(first, first + A_BATCH):
        known(seed) if seed < WELL_KNOWN else live(seed)


def test_random_lives_make_every_move_and_see_every_kind_of_event() -> None:
    """What never happens in them is not tested by them."""
    moves: set[tuple[JobState, JobState]] = set()
    seen: Counter[str] = Counter()
    for seed in range(WELL_KNOWN):
        life = known(seed)
        moves |= life.world.moves
        seen.update(life.checker.seen)
    q, s, r, p = JobState.QUEUED, JobState.SCHEDULED, JobState.RUNNING, JobState.PREEMPTED
    completed, failed, cancelled = JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED
    reachable = {
        (q, s), (q, cancelled), (q, failed), (s, r), (s, q), (s, failed), (s, cancelled),
        (r, completed), (r, failed), (r, p), (r, q), (r, cancelled), (p, q),
    }  # fmt: skip
    assert moves == reachable
    # Leaders and their keys are of the service; what is kept and what is not has tests of its own.
    elsewhere = {"LeaderElected", "SigningKeySet", "BlobsErased", "PartitionArchived"}
    assert {kind.__name__ for kind in ev.EVENT_TYPES} - seen.keys() == elsewhere


# --- who audits the auditor ---------------------------------------------------------------------------

Log = list[ev.Recorded]


def forged(log: Log, at: int, event: ev.Event) -> Log:
    """The log with another event in this place."""
    return [*log[:at], msgspec.structs.replace(log[at], event=event), *log[at + 1 :]]


def without(log: Log, at: int) -> Log:
    """The log as if this had never been recorded."""
    moved = [msgspec.structs.replace(one, position=one.position - 1) for one in log[at + 1 :]]
    return [*log[:at], *moved]


def places(log: Log, kind: type[ev.Event]) -> list[int]:
    return [index for index, recorded in enumerate(log) if type(recorded.event) is kind]


def more_devices(log: Log, at: int) -> Log:
    event = log[at].event
    assert isinstance(event, ev.JobScheduled)
    first = event.allocation[0]
    given = msgspec.structs.replace(first, gpu_ids=(*first.gpu_ids, "GPU-of-nobody"))
    return forged(log, at, msgspec.structs.replace(event, allocation=(given, *event.allocation[1:])))


def another_amount(log: Log, at: int) -> Log:
    event = log[at].event
    assert isinstance(event, ev.PreemptionRequested | ev.JobPreempted)
    return forged(log, at, msgspec.structs.replace(event, lost_gpu_us=event.lost_gpu_us + 1))


FORGERIES: dict[str, tuple[type[ev.Event], Callable[[Log, int], Log]]] = {
    "a start that is not in the log": (ev.JobScheduled, without),
    "an end that is not in the log": (ev.AllocationReleased, without),
    "a job that nobody submitted": (ev.JobSubmitted, without),
    "a device more than was asked for": (ev.JobScheduled, more_devices),
    "another amount of work lost": (ev.PreemptionRequested, another_amount),
    "another amount lost in the end": (ev.JobPreempted, another_amount),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_checker_sees_a_forged_log(forgery: str) -> None:
    kind, forge = FORGERIES[forgery]
    rng = random.Random(forgery)
    tried = 0
    for seed in range(0, WELL_KNOWN, 4):
        log = known(seed).world.log
        where = places(log, kind)[:-1]  # nobody misses a last job that was never heard of again
        for at in rng.sample(where, min(2, len(where))):
            tried += 1
            with pytest.raises(Broken):
                read(forge(log, at))
    assert tried


def read(log: Log) -> None:
    checker = Checker()
    for recorded in log:
        checker.see(recorded)
    checker.at_the_end()
