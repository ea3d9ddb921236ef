"""Explains one job whole: where it stands, what keeps it, what would start it, when it is likely to. Pure.

It asks the code that decides: a cycle is run on the state as it is, up to the job and past it, and what that
finds is told. Nothing is recorded and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Struct

from horizon._placement import Plan
from horizon.core import dependencies
from horizon.core import events as ev
from horizon.core.explain import Room, before_the_queue, sentence, survey
from horizon.core.model import DependencyKind, JobState, Priority
from horizon.core.policy import UNLIMITED, Order
from horizon.core.schedule import Cycle, Hindrance, Reservation, Round, Verdict
from horizon.core.state import SECOND_US, Estimates, Job, Request, State
from horizon.core.words import moment, span

AHEAD_SHOWN: Final = 10
FORECAST_JOBS: Final = 256
"""How many jobs of the queue are planned for to say when one of them starts."""
RANK_MAX: Final = 100_000
SHORTEST_S: Final = 60


class Ahead(Struct, frozen=True):
    """A job that comes before this one, and what its owner holds."""

    position: int
    number: int
    user_id: str
    account: str
    priority: Priority
    gpu_count: int
    owner_gpus_held: int


class Condition(Struct, frozen=True):
    """Something the job depends on; ``holds`` is None while that is open."""

    number: int
    kind: DependencyKind
    state: JobState
    holds: bool | None


class Quota(Struct, frozen=True):
    """The bound of an account that the job would break."""

    account: str
    max_gpus: int
    gpus_held: int
    """With what is promised to its jobs."""
    gpus_asked: int


class Change(Struct, frozen=True):
    """One thing that, were it otherwise, would let the job start or others make way for it; or let it fit."""

    field: str
    value: str
    sentence: str


class Happening(Struct, frozen=True):
    """Something that somebody, or another job, did to this one."""

    at_us: int
    what: str
    by: str
    reason: str
    lost_gpu_us: int = 0


class Why(Struct, frozen=True):
    """All that can be said of why a job is where it is."""

    job_id: str
    number: int
    state: JobState
    at_position: int
    now_us: int
    summary: str
    position: int | None = None
    """Its place in the order, from 1."""
    waiting: int = 0
    """How many stand in the queue."""
    ahead: tuple[Ahead, ...] = ()
    """Those in front, the first ones."""
    nodes: dict[str, int] = {}
    """Nodes by the first reason why it does not fit there now."""
    quota: Quota | None = None
    conditions: tuple[Condition, ...] = ()
    reservation: Reservation | None = None
    start_us: int | None = None
    """When it starts if all that run use their time limits and nothing else is submitted."""
    estimates: Estimates | None = None
    """How good such estimates have been."""
    changes: tuple[Change, ...] = ()
    """What would start it now, the least change first; for what never fits, what would fit."""
    history: tuple[Happening, ...] = ()


def why(state: State, job: Job, events: Iterable[ev.Recorded], now_us: int) -> Why:
    """Explains the job; ``events`` is its history. O(a few cycles + ``FORECAST_JOBS`` reservations)."""
    base = Why(
        job.id,
        job.number,
        job.state,
        state.position,
        now_us,
        "",
        waiting=len(state.queue),
        conditions=tuple(_conditions(state, job)),
        estimates=state.estimates,
        history=tuple(_history(state, events)),
    )
    if job.number in state.arrays:
        return msgspec.structs.replace(base, summary=_array_summary(state, job))
    if job.state is not JobState.QUEUED:
        return msgspec.structs.replace(base, summary=_summary(state, job))
    kept = before_the_queue(state, job)
    if kept is not None:
        return msgspec.structs.replace(base, summary=kept, changes=tuple(_let_in(state, job)))
    return _of_a_waiting_job(state, job, base)


# --- jobs that do not stand in the queue ----------------------------------------------------------------


def _summary(state: State, job: Job) -> str:
    where = ", ".join(placement.node for placement in job.allocation)
    match job.state:
        case JobState.SCHEDULED:
            return f"is being started on {where}"
        case JobState.RUNNING if job.stop is not None:
            return f"is being stopped: {job.stop}" + _for_whom(state, job)
        case JobState.RUNNING:
            until = f", until {moment(job.expected_us)} at most" if job.time_limit_s else ""
            return f"runs on {where} since {moment(job.started_at_us)}{until}"
        case JobState.COMPLETED:
            return "has completed"
        case _:
            return job.reason or f"is {job.state}"


def _for_whom(state: State, job: Job) -> str:
    other = state.jobs.get(job.stopped_by)
    if other is not None:
        return f" by job {other.number} of {other.spec.user_id}"
    return f" by {job.stopped_by}" if job.stopped_by else ""


def _array_summary(state: State, job: Job) -> str:
    array = state.arrays[job.number]
    counts = ", ".join(f"{count} {state.value}" for state, count in array.counts.items() if count)
    return f"an array of {array.total} tasks: {counts}; ask about one of them, such as {job.number}_INDEX"


def _conditions(state: State, job: Job) -> Iterator[Condition]:
    for dependency in job.spec.depends_on:
        other = state.jobs[dependency.job_id]
        holds = dependencies.verdict(other, dependency.kind)
        yield Condition(other.number, dependency.kind, other.state, holds)


def _let_in(state: State, job: Job) -> Iterator[Change]:
    if job.held:
        yield Change("hold", "false", "release it")
    if job.begin_pending:
        yield Change("begin_at", moment(job.begin_at_us), f"wait until {moment(job.begin_at_us)}")


_TOLD: Final[dict[type[ev.Event], str]] = {
    ev.PreemptionRequested: "asked to make way",
    ev.JobPreempted: "preempted",
    ev.RequeueRequested: "asked to go back to the queue",
    ev.JobRequeued: "requeued",
    ev.JobCancelled: "cancelled",
    ev.TimeLimitReached: "reached its time limit",
    ev.JobHeld: "held",
    ev.JobReleased: "released",
}


def _history(state: State, events: Iterable[ev.Recorded]) -> Iterator[Happening]:
    """What was done to the job, by whom and why; what it did itself is in its events."""
    for recorded in events:
        event: Any = recorded.event
        what = _TOLD.get(type(event))
        if what is None:
            continue
        by = getattr(event, "by", "") or recorded.actor
        other = state.jobs.get(by)
        if other is not None:
            by = f"job {other.number} of {other.spec.user_id}"
        lost_gpu_us = getattr(event, "lost_gpu_us", 0)
        yield Happening(recorded.recorded_at_us, what, by, getattr(event, "reason", ""), lost_gpu_us)


# --- a job in the queue ---------------------------------------------------------------------------------


def _of_a_waiting_job(state: State, job: Job, base: Why) -> Why:
    now_us, fifo = base.now_us, state.policy.order is Order.FIFO
    cycle = Round(state, now_us).run()
    room = Room(state, now_us, to_come=True)
    position = state.queue.rank(job.number, now_us, RANK_MAX, fifo) or None
    verdict = cycle.verdict_of(state, job)
    starts = any(isinstance(one, ev.JobScheduled) and one.job_id == job.id for one in cycle.events)
    summary = "there is room: it starts in the next cycle"
    if not starts:
        verdict = verdict or _verdict_at_its_turn(state, job, now_us)
        summary = sentence(state, cycle, room, job, verdict)
    reservation = next((one for one in cycle.reservations if one.number == job.number), None)
    request = state.shapes[job.shape].request
    ever = bool(state.cluster.nodes_for(request))
    return msgspec.structs.replace(
        base,
        summary=summary,
        position=position,
        ahead=tuple(_ahead(state, now_us, position, fifo)),
        nodes=survey(state, room.plan, job),
        quota=_quota(state, job, verdict),
        reservation=reservation,
        start_us=now_us if starts else _forecast(state, job, cycle, now_us),
        changes=() if starts else tuple(_changes(state, job, verdict, now_us, ever)),
    )


def _ahead(state: State, now_us: int, position: int | None, fifo: bool) -> Iterator[Ahead]:
    shown = AHEAD_SHOWN if position is None else min(AHEAD_SHOWN, position - 1)
    for place, number in enumerate(state.queue.order(shown, now_us, fifo), start=1):
        other = state.numbered[number - 1]
        spec = other.spec
        held = state.shares[other.share].gpus_held
        yield Ahead(place, number, spec.user_id, spec.account, other.priority, spec.gpu_count, held)


def _quota(state: State, job: Job, verdict: Verdict | None) -> Quota | None:
    if verdict is None or verdict.hindrance is not Hindrance.QUOTA:
        return None
    share = state.shares[verdict.share]
    return Quota(share.path, share.max_gpus, verdict.held, job.spec.gpu_count)


def _forecast(state: State, job: Job, cycle: Cycle, now_us: int) -> int | None:
    """When the job starts if all that run use their time limits, with all ahead of it planned for, too."""
    for reservation in cycle.reservations:
        if reservation.number == job.number:
            return reservation.start_us
    every = msgspec.structs.replace(
        state.policy,
        reservation_depth=UNLIMITED,
        strict=False,
        preemption=False,
        examined_max=FORECAST_JOBS,
    )
    planned = Round(state, now_us, every).run()
    return next((one.start_us for one in planned.reservations if one.number == job.number), None)


# --- what would start it --------------------------------------------------------------------------------


class _Asking:
    """Asks a plan what would become of the job were its request another."""

    def __init__(self, state: State, plan: Plan, job: Job, fits: Callable[[Plan, int], bool]) -> None:
        self._state = state
        self._plan = plan
        self._fits = fits
        self.request = state.requests[state.shapes[job.shape].request]

    def would(self, request: Request) -> bool:
        terms = self._state.terms
        gpu_type = -1
        if request.gpu_type is not None:
            # A type that nobody has is one that no node has.
            gpu_type = terms.gpu_types.get(request.gpu_type.lower(), len(terms.gpu_types))
        labels = [terms.labels.get(pair, len(terms.labels)) for pair in request.constraints]
        number = self._plan.imagine(*request.in_terms(gpu_type, labels))
        return self._fits(self._plan, number)


def _largest(high: int, works: Callable[[int], bool]) -> int:
    """The largest number from 1 below ``high`` that works, by halving; 0 if 1 does not."""
    low, high = 0, high - 1
    while low < high:
        middle = (low + high + 1) // 2
        if works(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _fits_now(duration_us: int, avoid: list[int]) -> Callable[[Plan, int], bool]:
    """Whether a request would start now: not where the job failed, nor split over more nodes for that."""

    def fits(plan: Plan, request: int) -> bool:
        found = plan.fits(request, duration_us, avoid)
        return found is not None and len(found) == plan.nodes_for(request)

    return fits


def _fits_ever(plan: Plan, request: int) -> bool:
    return bool(plan.nodes_for(request))


def _changes(state: State, job: Job, verdict: Verdict | None, now_us: int, ever: bool) -> Iterator[Change]:
    """What would let it start now; what would let it start ever, if it cannot."""
    if not ever:
        yield from _of_its_request(_Asking(state, state.cluster.plan(now_us), job, _fits_ever), "would fit")
        return
    hindrance = verdict.hindrance if verdict is not None else None
    if hindrance is Hindrance.ARRAY:
        return  # only the end of another task of it helps
    if verdict is not None and hindrance is Hindrance.QUOTA:
        yield from _of_its_quota(state, job, verdict, now_us)
        return
    before = _until(state, job, now_us)
    if before.came_to_next:
        yield from _of_its_time(state, job, before)
        fits = _fits_now(before.duration_us(job), _failed_on(state, job))
        yield from _of_its_request(_Asking(state, before.plan, job, fits), "would start now")
    if hindrance is not Hindrance.CLAIM:
        yield from _of_its_place(state, job, now_us)


def _until(state: State, job: Job, now_us: int, quotas: dict[int, int] | None = None) -> Round:
    """The cycle up to the turn of the job."""
    before = Round(state, now_us, until=job, quotas=quotas)
    before.run()
    return before


def _verdict_at_its_turn(state: State, job: Job, now_us: int) -> Verdict | None:
    """What a cycle finds of a job that it tries for its age alone, and keeps only if that is want of room."""
    before = _until(state, job, now_us)
    return before.look_at_next() if before.came_to_next else None


def _would(before: Round) -> str:
    """What a cycle would do for the job before which it has ended; "" if that would go on waiting."""
    verdict = before.look_at_next()
    if verdict is None:
        return "it would start now"
    return "others would make way for it" if verdict.hindrance is Hindrance.CLAIM else ""


def _failed_on(state: State, job: Job) -> list[int]:
    """Where it failed, if there is another node: were its request another, it might not go there."""
    if all(node.lost or name in job.avoid for name, node in state.nodes.items()):
        return []
    return [state.nodes[name].index for name in job.avoid if name in state.nodes]


def _of_its_quota(state: State, job: Job, verdict: Verdict, now_us: int) -> Iterator[Change]:
    """A quota for what counts against it now and the job; or, if others take that, for theirs, too."""
    share, asked = state.shares[verdict.share], job.spec.gpu_count
    most = verdict.held + asked
    if not _would(_until(state, job, now_us, {share.id: most})):
        unbound = _until(state, job, now_us, {share.id: UNLIMITED})
        most = unbound.gpus_of(share.id) + asked
        if not _would(unbound):
            return
    yield Change("max_gpus", str(most), f"a quota of {most} GPUs for {share.path}")


def _of_its_time(state: State, job: Job, before: Round) -> Iterator[Change]:
    request = state.shapes[job.shape].request
    avoid = before.avoided(job, request)

    def starts(seconds: int) -> bool:
        return before.plan.fits(request, seconds * SECOND_US, avoid) is not None

    limit_s = before.duration_us(job) // SECOND_US
    longest_s = _largest(limit_s, starts)
    longest_s -= longest_s % SHORTEST_S
    if longest_s:
        told = f"a time limit of {span(longest_s)} or less would start it now"
        yield Change("time_limit_s", str(longest_s), told)


def _of_its_request(asking: _Asking, would: str) -> Iterator[Change]:
    """Requests that ask for a little less, one thing at a time."""
    request, replace = asking.request, msgspec.structs.replace
    if request.gpu_count > 1:
        fewest = max(request.nodes, 1)
        gpus = _largest(
            request.gpu_count, lambda count: count < fewest or asking.would(replace(request, gpu_count=count))
        )
        if gpus >= fewest and asking.would(replace(request, gpu_count=gpus)):
            yield Change("gpu_count", str(gpus), f"with {gpus} GPU{'s' * (gpus != 1)} it {would}")
    for field, none, told in (
        ("gpu_type", None, "on GPUs of any type"),
        ("gpu_memory_mib", 0, "on GPUs of any size"),
        ("constraints", (), "on nodes without these labels"),
        ("exclusive", False, "on nodes that it shares"),
        ("cpu_cores", 0, "without cores of its own"),
        ("memory_mib", 0, "without memory of its own"),
    ):
        if getattr(request, field) == none or (field == "cpu_cores" and not request.gpu_count):
            continue
        if asking.would(replace(request, **{field: none})):
            yield Change(field, "", f"{told} it {would}")
    for nodes in range(max(request.nodes, 1) + 1, min(max(request.nodes, 1) * 8, request.gpu_count) + 1):
        if asking.would(replace(request, nodes=nodes)):
            yield Change("nodes", str(nodes), f"spread over {nodes} nodes it {would}")
            break


def _of_its_place(state: State, job: Job, now_us: int) -> Iterator[Change]:
    """The lowest priority above its own with which it would start, were it the last that has it."""
    for higher in Priority:
        if higher.rank <= job.priority.rank:
            continue
        told = _would(_until(state, msgspec.structs.replace(job, priority=higher), now_us))
        if told:
            yield Change("priority", higher.value, f"with priority {higher.value} {told}")
            return
