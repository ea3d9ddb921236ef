"""An auditor of the core: it reads recorded events one by one, keeps books of its own and knows the rules.

It is written from the rules alone and shares no code with what decides or folds, only the words: events,
specs, policies. So what both get wrong together must be wrong in the rules. Its books are plain dictionaries
and its counts start from nothing each time: it may be slow where the core may not.

``Checker.see`` takes the next event and raises ``Broken`` when it breaks a rule; ``Checker.at_rest`` is told
when a cycle found nothing to do, which is when rules of the kind "whoever can, does" can be checked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from horizon.core import events as ev
from horizon.core.model import (
    Allocation,
    Array,
    Dependency,
    DependencyKind,
    Device,
    Inventory,
    JobSpec,
    Placement,
    Priority,
)
from horizon.core.policy import Order, Policy

SECOND: Final = 1_000_000
LOST_MAX: Final = 5
"""How often an attempt may vanish before the job counts as the culprit."""
ELDERS_TRIED: Final = 16
"""Jobs that have waited for too long looked at for one whom only want of room keeps."""

ENDED: Final = ("Completed", "Failed", "Cancelled")
MOVES: Final = {
    "Queued": ("Scheduled", "Cancelled", "Failed"),
    "Scheduled": ("Running", "Queued", "Failed", "Cancelled"),
    "Running": ("Completed", "Failed", "Preempted", "Queued", "Cancelled"),
    "Preempted": ("Queued", "Cancelled"),
    **dict.fromkeys(ENDED, ()),
}

Reservations = Sequence[tuple[int, int, tuple[str, ...]]]
"""Planned starts, in the order in which they were planned: number, rank, on which nodes."""
Kind = tuple[str, int]
"""A GPU type in small letters, and the memory of one in GiB, rounded."""


class Broken(AssertionError):
    """An event broke a rule; the message says which, and where in the log."""


@dataclass(slots=True)
class Job:
    """What the log has said about a job so far, in the words of the rules."""

    id: str
    number: int
    spec: JobSpec
    priority: Priority
    time_limit_s: int
    held: bool
    submitted_at_us: int
    not_before_us: int
    waits: bool
    """Whether it is to wait for a moment that no cycle has seen come yet."""
    array: Array_ | None = None
    index: int = 0
    asks: tuple[Any, ...] = ()
    """What it asks for: equal for jobs that fit the same nodes."""
    state: str = "Queued"
    attempt: int = 0
    allocation: Allocation = ()
    holds: bool = False
    scheduled_at_us: int = 0
    expected_us: int = 0
    """When it should have given back what it holds."""
    expected_since_us: int = 0
    given_up: bool = False
    """Whether it was to be gone, and was found overdue."""
    started_at_us: int = 0
    saved_at_us: int = 0
    has_run: bool = False
    """Whether any attempt of it ever ran."""
    stop: str = ""
    """Why its attempt is being stopped while the job goes on: "time limit", "preemption", "requeue"."""
    stopped_by: str = ""
    retries: int = 0
    lost: int = 0
    avoid: tuple[str, ...] = ()
    reserved: bool = False
    """Whether a start was planned for it since it last entered the queue."""
    changed_at: int = 0
    """Position of the last event that changed what it may do: hold, priority, time limit, its end."""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def gpus(self) -> int:
        return sum(len(one.gpu_ids) for one in self.allocation)


@dataclass(slots=True)
class Array_:
    """An array: the job that stands for it, and its tasks."""

    job: Job
    tasks: list[Job]


@dataclass(slots=True)
class Node:
    """A node, and who holds what on it."""

    inventory: Inventory
    lost: bool = False
    cordoned: bool = False
    draining: bool = False
    drain_by_us: int = 0
    holds: dict[str, Placement] = field(default_factory=dict)
    shaken_at: int = 0
    """Position of the last event that may have left less of it."""


@dataclass(slots=True)
class Claim:
    """A waiting job for which others were asked to stop."""

    nodes: tuple[str, ...]
    victims: set[str]
    """Who holds something there still of those who were on their way out then."""
    asked_at: int
    """Position of the first such event."""
    asked_in: int
    """The cycle."""


@dataclass(slots=True)
class Cycle:
    """What a cycle has decided up to now."""

    number: int
    now_us: int
    eligible: dict[int, Job]
    """Those that stood in the queue as it began and have not been started."""
    rank: int = 0
    last: Job | None = None
    elders: set[int] = field(default_factory=set)
    """Ranks of the priorities of which it has started one that had waited for too long."""
    requested: list[tuple[Job, Job]] = field(default_factory=list)
    """Whom it asked to stop, and for whom."""
    kept: set[str] = field(default_factory=set)
    """The ids of those who could start as it began where others make way for them, once all are gone."""
    last_calls: dict[str, Claim] = field(default_factory=dict)
    """Claims of jobs for which others had made way by then: it gives them what was freed, or nobody will."""


@dataclass(slots=True)
class Part:
    """What one node of a gang has to give."""

    gpus: int
    cores: int
    memory_mib: int


class Checker:
    """The books, and a rule for every event. Nothing here is fast; everything here is meant to be plain."""

    def __init__(self) -> None:
        self.position = 0
        self.recorded_at_us = 0
        self.now_us = 0
        """The moment of the last cycle."""
        self._elders: tuple[tuple[int, int], list[Job]] = ((0, 0), [])
        self.policy = Policy()
        self.policy_version = 0
        self.jobs: dict[str, Job] = {}
        self.numbered: dict[int, Job] = {}
        self.arrays: dict[str, Array_] = {}
        self.next_number = 1
        self.nodes: dict[str, Node] = {}
        self.failed: set[str] = set()
        self.places: dict[str, list[str]] = {}
        """By device: the nodes that have it; it is where it turned up last."""
        self.bookings: dict[str, ev.BookingMade] = {}
        self.quotas: dict[str, tuple[int, int]] = {}
        """By account: the most it may hold, and what it is guaranteed."""
        self.claims: dict[str, Claim] = {}
        self.cycle: Cycle | None = None
        self.cycles = 0
        self.changed_at = 0
        """Position of the last event about quotas or the policy."""
        self.made_way: dict[tuple[str, str], tuple[Any, ...]] = {}
        """By (victim, for whom): what the rules looked at when the one made way for the other."""
        self._free: dict[tuple[str, frozenset[str]], dict[Kind, int]] = {}
        """Worked out since a job last began or ceased to hold something: free devices of a node, were some
        jobs gone;"""
        self._held_by: dict[str, int] = {}
        """GPUs held by an account and all below it."""
        self._whole: dict[str, dict[Kind, int]] = {}
        self._sizes: dict[tuple[Any, tuple[str, ...]], int] = {}
        """Worked out since the nodes last changed: usable devices of each, and sizes of gangs."""
        self.seen: dict[str, int] = {}
        """How many events of each kind there were, for whoever wants to know what a test has tested."""

    def see(self, recorded: ev.Recorded) -> None:
        """Take the next event into the books; ``Broken`` when it breaks a rule."""
        event = recorded.event
        if recorded.position != self.position + 1:
            raise Broken(f"position {recorded.position} follows {self.position}")
        self.position = recorded.position
        if recorded.recorded_at_us < self.recorded_at_us:
            self.broken("the log goes back in time")
        self.recorded_at_us = recorded.recorded_at_us
        name = type(event).__name__
        self.seen[name] = self.seen.get(name, 0) + 1
        self._note_cycle(event)
        if isinstance(event, ev.JobSubmitted):
            self._submitted(event)
        elif isinstance(event, ev.JobEvent):
            self._job_event(event)
        else:
            _ELSE[type(event)](self, event)

    def broken(self, rule: str) -> None:
        raise Broken(f"at position {self.position}: {rule}")

    # --- cycles -------------------------------------------------------------------------------------------

    def _note_cycle(self, event: ev.Event) -> None:
        number = getattr(event, "cycle", 0)
        if self.cycle is not None and self.cycle.number != number:
            self._close_cycle(self.cycle)
        if not number:
            return
        if self.cycle is None:
            if number != self.cycles + 1:
                self.broken(f"cycle {number} follows cycle {self.cycles}")
            self.cycles = number
            eligible = {job.number: job for job in self.eligible()}
            self.cycle = Cycle(number, event.now_us, eligible)  # type: ignore[attr-defined]
            self.now_us = self.cycle.now_us
            leaving = self._all_leaving()
            self.cycle.kept = {id for id in self.claims if self._claim_holds(id, self._awaited(id, leaving))}
            self.cycle.last_calls = {id: one for id, one in self.claims.items() if not one.victims}
        if event.now_us != self.cycle.now_us or self.cycle.now_us > self.recorded_at_us:  # type: ignore[attr-defined]
            self.broken("a cycle has one moment, and is recorded after it")
        if event.policy_version != self.policy_version:  # type: ignore[attr-defined]
            self.broken(f"decided by policy {event.policy_version}, not {self.policy_version}")  # type: ignore[attr-defined]

    def _close_cycle(self, cycle: Cycle) -> None:
        self.cycle = None
        for id, claim in cycle.last_calls.items():
            if self.claims.get(id) is claim:
                del self.claims[id]

    def eligible(self) -> Iterator[Job]:
        """The jobs that nothing but their turn and room keeps from starting."""
        for job in self.numbered.values():
            if self.may_start(job):
                yield job

    def may_start(self, job: Job) -> bool:
        return (
            job.state == "Queued"
            and not (job.held or job.waits or job.holds or self.is_array(job))
            and all(self.met(one) for one in job.spec.depends_on)
        )

    def is_array(self, job: Job) -> bool:
        """Whether it stands for its tasks, and never runs itself."""
        return job.id in self.arrays

    # --- dependencies -------------------------------------------------------------------------------------

    def met(self, dependency: Dependency) -> bool:
        """Whether a condition holds. An array has run when a task has, and ends with its last."""
        job = self.jobs[dependency.job_id]
        match dependency.kind:
            case DependencyKind.AFTER_OK:
                return job.state == "Completed"
            case DependencyKind.AFTER_ANY:
                return job.ended
            case DependencyKind.AFTER_NOT_OK:
                return job.ended and job.state != "Completed"
            case DependencyKind.AFTER_START:
                return job.has_run

    def never_met(self, dependency: Dependency) -> bool:
        """Whether it does not hold and, the other having ended, never will."""
        return self.jobs[dependency.job_id].ended and not self.met(dependency)

    # --- room ---------------------------------------------------------------------------------------------

    def held_devices(self, gone: Collection[str] = ()) -> set[str]:
        """Every device that someone has, on whatever node it is now; releasing ones are held."""
        return {
            gpu
            for node in self.nodes.values()
            for id, placement in node.holds.items()
            if id not in gone
            for gpu in placement.gpu_ids
        }

    def free_devices(self, node: Node, gone: Collection[str] = ()) -> dict[Kind, int]:
        """How many of each kind are free on a node, were the jobs in ``gone`` gone."""
        key = (node.inventory.name, frozenset(gone))
        if key not in self._free:
            self._free[key] = self._usable(node, self.held_devices(gone))
        return self._free[key]

    def _usable(self, node: Node, but: Collection[str] = ()) -> dict[Kind, int]:
        """How many devices of each kind a node has, without those that have failed and these."""
        return Counter(
            kind_of(device)
            for device in node.inventory.devices
            if device.uuid not in but and device.uuid not in self.failed
            if self.places[device.uuid][-1] == node.inventory.name
        )

    def has_room(
        self, spec: JobSpec, part: Part, kind: Kind | None, name: str, gone: Collection[str] = ()
    ) -> bool:
        """Whether a part of a request has room on a node now, bookings aside, were ``gone`` gone."""
        node = self.nodes[name]
        others = {id: one for id, one in node.holds.items() if id not in gone}
        if node.lost or node.cordoned or not labelled(spec, node.inventory):
            return False
        if others and (spec.exclusive or any(self.jobs[id].spec.exclusive for id in others)):
            return False
        if part.gpus and (kind is None or self.free_devices(node, gone).get(kind, 0) < part.gpus):
            return False
        cores = node.inventory.cpu_cores - sum(one.cpu_cores for one in others.values())
        memory_mib = node.inventory.memory_mib - sum(one.memory_mib for one in others.values())
        return (not part.cores or cores >= part.cores) and (
            not part.memory_mib or memory_mib >= part.memory_mib
        )

    def kinds(self, spec: JobSpec) -> list[Kind | None]:
        """The kinds of devices that a request may be given, in order; one that needs none takes no kind."""
        if not spec.gpu_count:
            return [None]
        there = {kind_of(device) for node in self.nodes.values() for device in node.inventory.devices}
        return [*sorted(kind for kind in there if wanted(spec, kind))]

    def fits(
        self,
        spec: JobSpec,
        nodes: int,
        among: Collection[str],
        room: Callable[[Part, Kind | None, str], bool],
    ) -> bool:
        """Whether a request fits on so many of these nodes, all of one kind, by what ``room`` says of each.

        Each part is at most the one before, so whatever holds a part holds those after it: it fits when for
        every part enough nodes hold it for all up to it to have one each.
        """
        parts = split(spec, nodes)
        return any(
            all(
                sum(room(part, kind, name) for name in among) >= index + 1
                for index, part in enumerate(parts)
                if index + 1 == nodes or parts[index + 1] != part
            )
            for kind in self.kinds(spec)
        )

    def nodes_for(self, job: Job, avoid: tuple[str, ...] = ()) -> int:
        """Over how many nodes the request goes: as it says, else one, else as few as can ever hold it."""
        key = (job.asks, avoid)
        if key not in self._sizes:
            self._sizes[key] = self._nodes_for(job.spec, avoid)
        return self._sizes[key]

    def _nodes_for(self, spec: JobSpec, avoid: tuple[str, ...]) -> int:
        there = [name for name, node in self.nodes.items() if not node.lost and name not in avoid]
        amount = spec.gpu_count or spec.cpu_cores
        sizes = [spec.nodes] if spec.nodes else range(1, min(len(there), amount) + 1)

        def holds(part: Part, kind: Kind | None, name: str) -> bool:
            return self._holds_ever(spec, part, kind, name)

        for nodes in sizes:
            if self.fits(spec, nodes, there, holds):
                return nodes
        return 0

    def _holds_ever(self, spec: JobSpec, part: Part, kind: Kind | None, name: str) -> bool:
        """Whether a node would hold the part if nothing ran on it."""
        inventory = self.nodes[name].inventory
        if name not in self._whole:
            self._whole[name] = self._usable(self.nodes[name])
        return (
            labelled(spec, inventory)
            and (not part.gpus or (kind is not None and self._whole[name].get(kind, 0) >= part.gpus))
            and inventory.cpu_cores >= part.cores
            and inventory.memory_mib >= part.memory_mib
        )

    def _nodes_are_others(self) -> None:
        """What was worked out of the nodes as they were is worked out anew."""
        self._sizes.clear()
        self._whole.clear()
        self._free.clear()

    def _holds_are_others(self) -> None:
        self._free.clear()
        self._held_by.clear()

    # --- accounts -----------------------------------------------------------------------------------------

    def gpus_held(self, account: str) -> int:
        """What an account and all below it hold; what is being released is held."""
        if account not in self._held_by:
            holding = [job for job in self.jobs.values() if job.holds]
            self._held_by[account] = sum(job.gpus for job in holding if within(job.spec.account, account))
        return self._held_by[account]

    # --- jobs: coming and going ---------------------------------------------------------------------------

    def _submitted(self, event: ev.JobSubmitted) -> None:
        if event.number != self.next_number:
            self.broken(f"job {event.number} was submitted when {self.next_number} was next")
        if event.job_id in self.jobs:
            self.broken(f"job id {event.job_id} came twice")
        for dependency in event.spec.depends_on:
            if dependency.job_id not in self.jobs:
                self.broken(f"job {event.number} depends on one that nobody knows")
        job = self._new_job(event.job_id, event.number, event.spec)
        self.next_number += 1
        if event.spec.array is not None:
            self._new_tasks(job, event.spec.array)

    def _new_job(self, id: str, number: int, spec: JobSpec) -> Job:
        waits = spec.begin_at_us > self.recorded_at_us
        job = Job(
            id, number, spec, spec.priority, spec.time_limit_s, spec.hold, self.recorded_at_us,
            spec.begin_at_us, waits,
        )  # fmt: skip
        job.asks = request_of(spec)
        job.changed_at = self.position
        self.jobs[id] = self.numbered[number] = job
        return job

    def _new_tasks(self, job: Job, array: Array) -> None:
        book = self.arrays[job.id] = Array_(job, [])
        indices = [index for one in array.ranges for index in range(one.first, one.last + 1, one.step)]
        for index in indices:
            task = self._new_job(task_id(job.id, len(book.tasks)), self.next_number, job.spec)
            task.array, task.index = book, index
            book.tasks.append(task)
            self.next_number += 1

    def _job_event(self, event: ev.JobEvent) -> None:
        job = self.jobs.get(event.job_id)
        if job is None:
            self.broken(f"{type(event).__name__} of a job that nobody submitted")
        attempt = getattr(event, "attempt", None)
        expected = job.attempt + isinstance(event, ev.JobScheduled)
        if attempt is not None and attempt != expected and not isinstance(event, ev.JobFailed):
            self.broken(f"job {job.number}: attempt {attempt} of {type(event).__name__} is not {expected}")
        if self.is_array(job):
            self._array_event(self.arrays[job.id], event)
        else:
            _JOB[type(event)](self, job, event)
            if job.array is not None:
                self._sum_up(job.array)

    def _array_event(self, array: Array_, event: ev.JobEvent) -> None:
        """What is said of an array is said of its tasks that wait, or of all that have not ended."""
        if isinstance(event, ev.JobHeld | ev.JobReleased):
            tasks = [task for task in array.tasks if task.state == "Queued"]
            for job in (array.job, *tasks):
                if isinstance(event, ev.JobReleased) and event.begin_reached:
                    self._released(job, event)
                else:
                    job.held, job.changed_at = isinstance(event, ev.JobHeld), self.position
                    job.reserved = job.reserved and not job.held
        elif isinstance(event, ev.JobUpdated | ev.JobCancelled | ev.JobFailed):
            for task in array.tasks:
                if not task.ended:
                    _JOB[type(event)](self, task, event)
        else:
            self.broken(f"job {array.job.number} is an array, and none has {type(event).__name__}")
        self._sum_up(array)

    def _sum_up(self, array: Array_) -> None:
        """The job that stands for an array ends as the worst of its tasks, with the last of them."""
        array.job.has_run = any(task.has_run for task in array.tasks)
        if all(task.ended for task in array.tasks):
            states = {task.state for task in array.tasks}
            array.job.state = states.pop() if len(states) == 1 else "Failed"
            array.job.held = array.job.waits = False

    def _move(self, job: Job, state: str) -> None:
        if state not in MOVES[job.state]:
            self.broken(f"job {job.number} went from {job.state} to {state}")
        job.state = state
        if state != "Running":
            self._expect(job, self.recorded_at_us)  # what is left of an attempt is to be gone any moment

    def _end(self, job: Job, state: str) -> None:
        self._move(job, state)
        job.changed_at = self.position
        job.held = job.waits = False
        job.stop = job.stopped_by = ""
        self.claims.pop(job.id, None)

    def _held(self, job: Job, event: ev.JobHeld) -> None:
        if job.state != "Queued" or job.held:
            self.broken(f"job {job.number} was held while {job.state}")
        job.held, job.reserved, job.changed_at = True, False, self.position

    def _released(self, job: Job, event: ev.JobReleased) -> None:
        if not event.begin_reached:
            if not job.held:
                self.broken(f"job {job.number} was released, and nobody had held it")
            job.held, job.changed_at = False, self.position
            return
        if not job.waits or not event.cycle or event.now_us < job.not_before_us:
            self.broken(f"job {job.number} need not wait any more, says a cycle, before {job.not_before_us}")
        job.waits = False

    def _updated(self, job: Job, event: ev.JobUpdated) -> None:
        if job.ended:
            self.broken(f"job {job.number} was changed after its end")
        if isinstance(event.priority, Priority):
            job.priority = event.priority
        if isinstance(event.time_limit_s, int):
            job.time_limit_s = event.time_limit_s
            if job.state in ("Scheduled", "Running") and not job.stop:
                began_us = job.started_at_us or job.scheduled_at_us
                self._expect(job, self.planned_end_us(job, began_us), began_us)
        job.changed_at = self.position

    def _reserved(self, job: Job, event: ev.JobReserved) -> None:
        if self.cycle is None or job.number not in self.cycle.eligible:
            self.broken(f"a start was planned for job {job.number}, which may not start")
        if job.reserved:
            self.broken(f"job {job.number} had been given a first planned start already")
        if event.start_us < event.now_us:
            self.broken(f"job {job.number} was planned to start in the past")
        if not set(event.nodes) <= self.nodes.keys():
            self.broken(f"job {job.number} was planned to start on nodes that nobody knows")
        job.reserved = True

    # --- jobs: starting -----------------------------------------------------------------------------------

    def _scheduled(self, job: Job, event: ev.JobScheduled) -> None:
        cycle = self.cycle
        assert cycle is not None
        self._check_may_start(job, event)
        if event.cause is ev.Cause.PREEMPTION:
            self._check_others_made_way(job, event)
        self._check_turn(cycle, job, event)
        self._check_request(job, event)
        for placement in event.allocation:
            self._check_placement(job, placement, event)
        if self._over_quota(job):
            self.broken(f"job {job.number} makes an account hold more GPUs than it may")
        if self._array_full(job):
            self.broken(f"job {job.number} is one task too many of its array")
        leaving = self._all_leaving()
        kept = [id for id in self.claims if id in cycle.kept or self.claims[id].asked_in == cycle.number]
        if event.cause is ev.Cause.PREEMPTION:
            # Those for whom others were asked first take first, whatever of it was freed for whom.
            kept = kept[: kept.index(job.id)] if job.id in kept else []
        kept = [id for id in kept if id != job.id and self._claim_holds(id, self._awaited(id, leaving))]
        self._move(job, "Scheduled")
        job.attempt, job.allocation, job.holds = event.attempt, event.allocation, True
        job.scheduled_at_us, job.started_at_us, job.reserved = self.recorded_at_us, 0, False
        self._expect(job, self.planned_end_us(job, self.recorded_at_us))
        for placement in event.allocation:
            self.nodes[placement.node].holds[job.id] = placement
        self._holds_are_others()
        self.claims.pop(job.id, None)
        cycle.eligible.pop(job.number, None)
        for id in kept:
            if not self._claim_holds(id, self._awaited(id, leaving)):
                self.broken(f"job {job.number} took what is kept for job {self.jobs[id].number}")

    def _check_may_start(self, job: Job, event: ev.JobScheduled) -> None:
        if job.held:
            self.broken(f"job {job.number} was started while held")
        if job.waits or event.now_us < job.not_before_us:
            self.broken(f"job {job.number} was started before its time")
        if job.holds:
            self.broken(f"job {job.number} was started before its last attempt was gone")
        if not all(self.met(one) for one in job.spec.depends_on):
            self.broken(f"job {job.number} was started before what it depends on")
        if self.is_array(job):
            self.broken(f"job {job.number} stands for its tasks and was started itself")

    def _check_others_made_way(self, job: Job, event: ev.JobScheduled) -> None:
        claim = self.claims.get(job.id)
        if claim is None or not {one.node for one in event.allocation} <= set(claim.nodes):
            self.broken(f"job {job.number} was started first where nobody made way for it")

    def _check_turn(self, cycle: Cycle, job: Job, event: ev.JobScheduled) -> None:
        """Within a cycle priorities fall, in each first comes who has waited for too long, then ranks grow,
        and nobody passes one just like him."""
        by_age = event.rank == 0 and event.cause in (ev.Cause.AGE, ev.Cause.BACKFILL)
        if event.cause is not ev.Cause.PREEMPTION:
            if cycle.last is not None and job.priority.rank > cycle.last.priority.rank:
                self.broken(f"job {job.number} came after job {cycle.last.number} of lower priority")
            if by_age:
                self._check_is_eldest(cycle, job)
            elif event.rank <= cycle.rank or event.cause is ev.Cause.AGE:
                self.broken(f"job {job.number} has rank {event.rank} after rank {cycle.rank}, {event.cause}")
            cycle.rank, cycle.last = max(cycle.rank, event.rank), job
        elif self._is_impatient(job, cycle.now_us):
            cycle.elders.add(job.priority.rank)
        like = self._likeness(job)
        for other in cycle.eligible.values():
            if event.cause is ev.Cause.PREEMPTION:
                continue
            if other.number < job.number and self._likeness(other) == like and not by_age:
                self.broken(f"job {job.number} passed job {other.number}, which is just like it")
            if self._strictly_before(cycle, other, job) and not self._out_of_play(other):
                self.broken(f"job {job.number} passed job {other.number} under strict order")

    def _check_is_eldest(self, cycle: Cycle, job: Job) -> None:
        """It has waited for too long, one a cycle of its priority, before all others of it and with none left
        that is older."""
        if not self._is_impatient(job, cycle.now_us):
            self.broken(f"job {job.number} has not waited for {self.policy.patience_s} s")
        if cycle.last is not None and cycle.last.priority is job.priority:
            self.broken(f"job {job.number} has waited for too long, and came after job {cycle.last.number}")
        cycle.elders.add(job.priority.rank)
        for other in cycle.eligible.values():
            older = other.number < job.number and other.priority is job.priority
            passed = older and self._is_impatient(other, cycle.now_us) and self._only_lacks_room(other)
            if passed and not self._kept_by_a_limit(other):
                self.broken(f"job {job.number} passed job {other.number}, which has waited for longer")

    def _is_impatient(self, job: Job, now_us: int) -> bool:
        """Whether it has waited for so long that it comes before its turn."""
        patience_us = self.policy.patience_s * SECOND
        since_us = max(job.submitted_at_us, job.not_before_us)
        return self.policy.order is Order.FAIR and 0 < patience_us <= now_us - since_us

    def _is_eldest(self, job: Job, waiting: Collection[Job], now_us: int) -> bool:
        """Whether it, of its priority, has waited for too long and longest of those whom only want of room
        keeps. False where that depends on who else makes way for whom, or on how many are looked at."""
        older = [one for one in waiting if one.priority is job.priority and one.number < job.number]
        return (
            not self.claims
            and not any(self._quota_may_be_kept_from(one) for one in (*older, job))
            and len(older) < ELDERS_TRIED
            and self._is_impatient(job, now_us)
            and self._only_lacks_room(job)
            and not any(self._is_impatient(one, now_us) and self._only_lacks_room(one) for one in older)
        )

    def _only_lacks_room(self, job: Job) -> bool:
        """Whether it would start if all that run were gone."""
        avoided = self._avoided(job)
        nodes = self.nodes_for(job, avoided)
        there = [name for name, node in self.nodes.items() if not (node.lost or node.cordoned)]
        open_ones = [name for name in there if name not in avoided]
        return (
            not self._over_quota(job, promised=True)
            and not self._array_full(job, promised=True)
            and nodes > 0
            and self.fits(
                job.spec,
                nodes,
                open_ones,
                lambda part, kind, name: self._holds_ever(job.spec, part, kind, name),
            )
        )

    def _likeness(self, job: Job) -> tuple[Any, ...]:
        """Equal for jobs that may start, or may not, together."""
        limited = job.array if job.array and job.array.job.spec.array.limit else None  # type: ignore[union-attr]
        owner = (job.spec.account, job.spec.user_id)
        return (job.asks, job.time_limit_s, owner, job.priority, id(limited), job.avoid)

    def _strictly_before(self, cycle: Cycle, one: Job, other: Job) -> bool:
        """Whether the one comes before the other, and the policy lets nobody pass: said where it is easily
        told, of an order by age and of whoever has waited for too long."""
        if not self.policy.strict or one is other:
            return False
        if self.policy.order is Order.FAIR:
            rank = one.priority.rank
            served = rank in cycle.elders or rank < other.priority.rank
            return not served and self._is_eldest(one, cycle.eligible.values(), cycle.now_us)
        return (-one.priority.rank, one.number) < (-other.priority.rank, other.number)

    def _out_of_play(self, job: Job) -> bool:
        """Whether no room in the world would let it start now: it is no reason to keep others waiting."""
        return self._kept_by_a_limit(job) or not self.nodes_for(job)

    def _kept_by_a_limit(self, job: Job) -> bool:
        """Whether its accounts or its array hold as much as they may, with what others make way for and what
        is kept for one who has waited for too long."""
        return (
            self._over_quota(job, promised=True)
            or self._array_full(job, promised=True)
            or self._quota_may_be_kept_from(job)
        )

    def _quota_may_be_kept_from(self, job: Job) -> bool:
        """Whether what an account of it may still hold may be kept for another, who has waited for too long
        and whom only a quota keeps. That is one of each priority; which one is not looked into here."""
        return bool(job.spec.gpu_count) and any(
            elder is not job
            and elder.priority.rank >= job.priority.rank
            and any(
                0 <= elder.spec.gpu_count <= self.quotas.get(one, (-1, 0))[0]
                for one in upwards(elder.spec.account)
                if within(job.spec.account, one)
            )
            for elder in self._kept_by_quota()
        )

    def _kept_by_quota(self) -> list[Job]:
        """Those who have waited for too long and whom a quota keeps."""
        asked = (self.position, self.now_us)
        if self._elders[0] != asked:
            impatient = (job for job in self.eligible() if self._is_impatient(job, self.now_us))
            self._elders = asked, [job for job in impatient if self._over_quota(job, promised=True)]
        return self._elders[1]

    def _over_quota(self, job: Job, promised: bool = False) -> bool:
        for account in upwards(job.spec.account):
            most, _ = self.quotas.get(account, (-1, 0))
            held = self.gpus_held(account) + (self._promised(account, job) if promised else 0)
            if most >= 0 and job.spec.gpu_count and held + job.spec.gpu_count > most:
                return True
        return False

    def _array_full(self, job: Job, promised: bool = False) -> bool:
        limit = job.spec.array.limit if job.array and job.spec.array else 0
        if not limit or job.array is None:
            return False
        others = [task for task in job.array.tasks if task is not job]
        return limit <= sum(task.holds or (promised and self._is_promised(task)) for task in others)

    def _check_request(self, job: Job, event: ev.JobScheduled) -> None:
        """It got what it asked for, no more and no less, in parts as even as can be."""
        spec, allocation = job.spec, event.allocation
        nodes = len(allocation)
        if len({one.node for one in allocation}) != nodes or not nodes:
            self.broken(f"job {job.number} was given a node twice, or none")
        for part, one in zip(split(spec, nodes), allocation, strict=True):
            if (len(one.gpu_ids), one.cpu_cores, one.memory_mib) != (part.gpus, part.cores, part.memory_mib):
                self.broken(f"job {job.number} was given {one}, not {part}")
        wanted_nodes = self.nodes_for(job, self._avoided(job))
        if nodes != wanted_nodes:
            self.broken(f"job {job.number} was put on {nodes} nodes, not {wanted_nodes}")
        found = {kind_of(self._device(one.node, gpu)) for one in allocation for gpu in one.gpu_ids}
        if len(found) > 1:
            self.broken(f"job {job.number} was given devices of different kinds: {found}")
        if not all(wanted(spec, kind) for kind in found):
            self.broken(f"job {job.number} was given devices that it did not ask for: {found}")

    def _avoided(self, job: Job) -> tuple[str, ...]:
        """The nodes it stays away from: those where it failed, if elsewhere it is split over no more."""
        closed = tuple(name for name, node in self.nodes.items() if node.lost or node.cordoned)
        alike = self.nodes_for(job, (*closed, *job.avoid)) == self.nodes_for(job, closed)
        return job.avoid if job.avoid and alike else ()

    def _device(self, name: str, uuid: str) -> Device:
        for device in self.nodes[name].inventory.devices:
            if device.uuid == uuid:
                return device
        self.broken(f"device {uuid} is not on node {name}")
        raise AssertionError

    def _check_placement(self, job: Job, placement: Placement, event: ev.JobScheduled) -> None:
        """The node may be used, by this job and until it is planned to end, and has what was given."""
        name = placement.node
        # Where others have made way for it, it goes, though there may be other nodes again.
        if name in self._avoided(job) and event.cause is not ev.Cause.PREEMPTION:
            self.broken(f"job {job.number} was put on {name}, where it failed before")
        for gpu in placement.gpu_ids:
            if self.places[gpu][-1] != name:
                self.broken(f"job {job.number} was given {gpu} on {name}, and it is on {self.places[gpu]}")
            if gpu in self.failed:
                self.broken(f"job {job.number} was given the failed device {gpu}")
            if gpu in self.held_devices():
                self.broken(f"job {job.number} was given {gpu}, which is held")
        if len(set(placement.gpu_ids)) != len(placement.gpu_ids):
            self.broken(f"job {job.number} was given a device twice")
        part = Part(0, placement.cpu_cores, placement.memory_mib)
        if not self.has_room(job.spec, part, None, name):
            self.broken(f"job {job.number} was put on {name}, which is closed, lacks labels or has no room")
        for booking in self._in_the_way(job, name, event.now_us):
            self.broken(f"job {job.number} runs into booking {booking.booking} of {name}")

    def planned_end_us(self, job: Job, start_us: int) -> int:
        return start_us + (job.time_limit_s or self.policy.assumed_time_limit_s) * SECOND

    def _in_the_way(self, job: Job, name: str, now_us: int) -> list[ev.BookingMade]:
        """Bookings of a node that the job would run into, were it to start there now."""
        end_us = self.planned_end_us(job, now_us)
        return [one for one in self.bookings.values() if name in one.nodes and one.start_us < end_us]

    # --- jobs: running and ending -------------------------------------------------------------------------

    def _started(self, job: Job, event: ev.JobStarted) -> None:
        self._move(job, "Running")
        job.has_run = True
        job.started_at_us = job.saved_at_us = self.recorded_at_us
        if not job.stop:
            self._expect(job, self.planned_end_us(job, self.recorded_at_us))

    def _checkpoint(self, job: Job, event: ev.CheckpointRecorded) -> None:
        if job.state != "Running":
            self.broken(f"job {job.number} saved its work while {job.state}")
        job.saved_at_us = self.recorded_at_us

    def _erased(self, job: Job, event: ev.BlobsErased) -> None:
        if job.state not in ("Completed", "Failed", "Cancelled"):
            self.broken(f"job {job.number} was erased while {job.state}")

    def _asked_to_stop(self, job: Job, why: str, by: str = "") -> None:
        if job.state not in ("Running", "Scheduled") or job.stop:
            self.broken(f"job {job.number} was asked to stop ({why}) while {job.state} {job.stop}")
        if job.state == "Scheduled" and why != "requeue":
            self.broken(f"job {job.number} was asked to stop ({why}) before it had started")
        job.stop, job.stopped_by = why, by
        self._expect(job, self.recorded_at_us + job.spec.grace_period_s * SECOND)

    def _time_limit(self, job: Job, event: ev.TimeLimitReached) -> None:
        self._asked_to_stop(job, "time limit")
        if event.time_limit_s != job.time_limit_s or not job.time_limit_s:
            self.broken(f"job {job.number} has a time limit of {job.time_limit_s} s")
        if event.now_us < job.started_at_us + job.time_limit_s * SECOND:
            self.broken(f"job {job.number} was stopped before its time limit")

    def _requeue_asked(self, job: Job, event: ev.RequeueRequested) -> None:
        self._asked_to_stop(job, "requeue", event.by)

    def _preempted(self, job: Job, event: ev.JobPreempted) -> None:
        if job.stop != "preemption" or job.stopped_by != event.by:
            self.broken(f"job {job.number} made way for {event.by} unasked")
        lost = (self.recorded_at_us - job.saved_at_us) * job.gpus
        if event.lost_gpu_us != lost:
            self.broken(f"job {job.number} lost {lost} GPU-us, not {event.lost_gpu_us}")
        self._move(job, "Preempted")

    def _requeued(self, job: Job, event: ev.JobRequeued) -> None:
        self._check_requeue(job, event)
        self._move(job, "Queued")
        job.retries += event.cause is ev.RequeueCause.RETRY
        job.lost += event.cause in (ev.RequeueCause.LOST, ev.RequeueCause.DEVICE)
        job.stop = job.stopped_by = ""
        job.reserved = False
        job.held = job.array is not None and job.array.job.held
        job.avoid = job.avoid + tuple(name for name in event.avoid if name not in job.avoid)
        job.changed_at = self.position
        if event.not_before_us > self.recorded_at_us:
            job.waits, job.not_before_us = True, event.not_before_us

    def _check_requeue(self, job: Job, event: ev.JobRequeued) -> None:
        cause = event.cause
        if (cause is ev.RequeueCause.PREEMPTION) != (job.state == "Preempted"):
            self.broken(f"job {job.number} went back because of {cause} while {job.state}")
        if cause is ev.RequeueCause.RETRY and job.retries >= job.spec.max_retries:
            self.broken(f"job {job.number} was tried again more often than {job.spec.max_retries} times")
        if cause in (ev.RequeueCause.LOST, ev.RequeueCause.DEVICE) and job.lost >= LOST_MAX:
            self.broken(f"job {job.number} vanished more often than {LOST_MAX} times")
        if cause in (ev.RequeueCause.LOST, ev.RequeueCause.RETRY):
            tries = job.lost if cause is ev.RequeueCause.LOST else job.retries
            wait_s = min(self.policy.retry_backoff_s << tries, self.policy.retry_backoff_max_s)
            if event.not_before_us != self.recorded_at_us + wait_s * SECOND:
                self.broken(f"job {job.number} is to wait {wait_s} s before its next try")
        if not set(event.avoid) <= {one.node for one in job.allocation}:
            self.broken(f"job {job.number} avoids nodes where it did not run")

    def _completed(self, job: Job, event: ev.JobCompleted) -> None:
        if not event.exit.succeeded:
            self.broken(f"job {job.number} completed with {event.exit}")
        self._end(job, "Completed")

    def _failed(self, job: Job, event: ev.JobFailed) -> None:
        if job.state == "Queued" and not any(self.never_met(one) for one in job.spec.depends_on):
            self.broken(f"waiting job {job.number} failed, though its dependencies may yet hold")
        self._end(job, "Failed")

    def _cancelled(self, job: Job, event: ev.JobCancelled) -> None:
        self._end(job, "Cancelled")
        self._expect(job, self.recorded_at_us + job.spec.grace_period_s * SECOND)

    def _gone(self, job: Job, event: ev.AllocationReleased) -> None:
        if not job.holds:
            self.broken(f"job {job.number} gave back what it did not hold")
        if job.state in ("Scheduled", "Running"):
            self.broken(f"job {job.number} gave back what it holds while {job.state}")
        job.holds = False
        for placement in job.allocation:
            del self.nodes[placement.node].holds[job.id]
        self._holds_are_others()
        for claim in self.claims.values():
            claim.victims.discard(job.id)

    def _expect(self, job: Job, at_us: int, since_us: int | None = None) -> None:
        """It should have given back by then what it holds; waited for since, or from now on."""
        job.expected_us, job.given_up = at_us, False
        job.expected_since_us = self.recorded_at_us if since_us is None else since_us

    def _overdue(self, job: Job, event: ev.AllocationOverdue) -> None:
        if not self._is_overdue(job, event.now_us):
            self.broken(f"job {job.number} is not overdue")
        if event.until_us - event.now_us != event.now_us - job.expected_since_us:
            self.broken(f"job {job.number} is given another time than it has taken until now")
        job.expected_us = event.until_us
        job.given_up = bool(job.stop) or job.state not in ("Scheduled", "Running")
        for claim in self.claims.values():
            claim.victims.discard(job.id)

    def _is_overdue(self, job: Job, now_us: int) -> bool:
        """Whether what it holds should have been free a minute ago."""
        bounded = job.state == "Running" and not job.stop and job.time_limit_s
        started = job.state != "Scheduled" or bool(job.stop)
        return job.holds and started and not bounded and job.expected_us + 60 * SECOND <= now_us

    # --- making way ---------------------------------------------------------------------------------------

    def _preemption_asked(self, victim: Job, event: ev.PreemptionRequested) -> None:
        by = self.jobs.get(event.by)
        cycle = self.cycle
        if by is None or cycle is None or by.number not in cycle.eligible:
            self.broken(f"job {victim.number} is to make way for one that may not start")
        self._asked_to_stop(victim, "preemption", event.by)
        self._check_victim(victim, event)
        lost = max(0, (event.now_us - victim.saved_at_us) * victim.gpus)
        if event.lost_gpu_us != lost:
            self.broken(f"stopping job {victim.number} loses {lost} GPU-us, not {event.lost_gpu_us}")
        if not self._holds_on(victim, event.nodes):
            self.broken(f"job {victim.number} is to make way where it is not")
        claim = self.claims.get(by.id)
        if claim is None or claim.asked_in != event.cycle:
            before = claim.victims if claim else set()
            claim = self.claims[by.id] = Claim(event.nodes, set(before), self.position, event.cycle)
        if claim.nodes != event.nodes:
            self.broken(f"job {by.number} is to start on {claim.nodes} and on {event.nodes}")
        there = {id for name in event.nodes for id in self.nodes[name].holds}
        claim.victims |= {victim.id} | {id for id in there if self._is_leaving(self.jobs[id])}
        cycle.requested.append((victim, by))
        self._check_right(victim, by)
        self._check_no_quarrel(victim, by)

    def _holds_on(self, job: Job, nodes: Collection[str]) -> bool:
        """Whether it holds something on these nodes: what it was given there, or a device that turned up."""
        devices = {device.uuid for name in nodes for device in self.nodes[name].inventory.devices}
        return any(one.node in nodes or set(one.gpu_ids) & devices for one in job.allocation)

    def _check_victim(self, victim: Job, event: ev.PreemptionRequested) -> None:
        if not self.policy.preemption:
            self.broken("nobody is to make way by this policy")
        if not victim.spec.preemptible:
            self.broken(f"job {victim.number} is not preemptible")
        if event.now_us < victim.started_at_us + self.policy.min_runtime_s * SECOND:
            self.broken(f"job {victim.number} has not run {self.policy.min_runtime_s} s yet")

    def _check_right(self, victim: Job, by: Job) -> None:
        """The one is of higher priority; or its account is owed what the other's holds beyond its due."""
        if victim.priority.rank < by.priority.rank:
            return
        if victim.priority.rank > by.priority.rank:
            self.broken(f"job {victim.number} is to make way for job {by.number} of lower priority")
        if not self._reclaims(victim, by):
            self.broken(f"job {by.number} may not take from job {victim.number} of the same priority")

    def _reclaims(self, victim: Job, by: Job) -> bool:
        """Whether an account above the one stays within its guarantee with it, and those of the other stay at
        theirs without it; accounts above both gain and lose nothing. What others are to get counts as got,
        and what others were asked to give as given."""
        takes = [one for one in upwards(by.spec.account) if not within(victim.spec.account, one)]
        gives = [one for one in upwards(victim.spec.account) if not within(by.spec.account, one)]
        return any(
            self.gpus_held(one) + self._promised(one, by, firmly=True) + by.spec.gpu_count
            <= self.guaranteed(one)
            for one in takes
        ) and all(
            self.gpus_held(one) - self._leaving(one, victim) - victim.gpus >= self.guaranteed(one)
            for one in gives
        )

    def below_guarantee(self, job: Job, promised: bool = False) -> bool:
        """Whether an account above the job holds, with it, no more than it is guaranteed: then it may go over
        what is reserved for others. What others are to get counts as got, or not."""
        asked = 0 if job.holds else job.spec.gpu_count
        return job.spec.gpu_count > 0 and any(
            self.gpus_held(one) + (self._promised(one, job) if promised else 0) + asked
            <= self.guaranteed(one)
            for one in upwards(job.spec.account)
        )

    def guaranteed(self, account: str) -> int:
        return self.quotas.get(account, (-1, 0))[1]

    def _promised(self, account: str, but: Job, firmly: bool = False) -> int:
        """GPUs for others of the account, for whom jobs were asked to make way; firmly when nothing has
        happened since that may keep them from starting there."""
        leaving = self._all_leaving() if firmly else ()
        firm = [id for id in self.claims if not firmly or self._claim_holds(id, leaving)]
        jobs = [self.jobs[id] for id in firm if id != but.id]
        return sum(
            job.spec.gpu_count for job in jobs if self._is_promised(job) and within(job.spec.account, account)
        )

    def _is_promised(self, job: Job) -> bool:
        """Whether others are making way for it, and its accounts may hold what it asks for."""
        return job.id in self.claims and bool(self.claims[job.id].victims) and not self._over_quota(job)

    def _leaving(self, account: str, but: Job) -> int:
        """GPUs of others of the account who are on their way out."""
        return sum(
            job.gpus
            for job in self.jobs.values()
            if self._is_leaving(job) and job is not but and within(job.spec.account, account)
        )

    def _all_leaving(self) -> set[str]:
        return {job.id for job in self.jobs.values() if self._is_leaving(job)}

    def _is_leaving(self, job: Job) -> bool:
        """Whether what it holds will be free soon: it has ended, or was asked to stop, and is not overdue."""
        on_its_way = bool(job.stop) or job.state not in ("Scheduled", "Running")
        return job.holds and on_its_way and not job.given_up

    def _check_no_quarrel(self, victim: Job, by: Job) -> None:
        """Nobody takes from the one that took from him while nothing the rules look at has changed."""
        before = self.made_way.get((by.id, victim.id))
        if before is not None and before == self._grounds(by, victim):
            self.broken(f"jobs {by.number} and {victim.number} make way for each other in turn")
        self.made_way[victim.id, by.id] = self._grounds(victim, by)

    def _grounds(self, one: Job, other: Job) -> tuple[Any, ...]:
        """All that the right to take looks at, but for what the two hold themselves."""
        grounds: list[Any] = [self.policy_version]
        for job in sorted((one, other), key=lambda job: job.number):
            accounts = list(upwards(job.spec.account))
            own = sum(two.gpus for two in (one, other) if two.holds and within(two.spec.account, accounts[0]))
            held = [self.gpus_held(account) - own for account in accounts]
            grounds += [job.number, job.priority, [self.quotas.get(account) for account in accounts], held]
        return tuple(map(str, grounds))

    def _awaited(self, id: str, leaving: Collection[str]) -> Collection[str]:
        """Those it counts on to be gone soon; none when all that it waited for are gone or given up: then it
        takes what there is, or its turn."""
        return leaving if self.claims[id].victims else ()

    def _claim_holds(self, id: str, gone: Collection[str]) -> bool:
        """Whether a job for which others make way can start on its nodes with these gone.

        Where a node has become less since, or the rules or the job are not what they were, that is nobody's
        promise any more.
        """
        job, claim = self.jobs[id], self.claims[id]
        changes = [self.changed_at, job.changed_at, *(self.nodes[name].shaken_at for name in claim.nodes)]
        if not self.may_start(job) or max(changes) > claim.asked_at:
            return False
        if any(self._in_the_way(job, name, self.recorded_at_us) for name in claim.nodes):
            return False
        if self._over_quota(job) or self._array_full(job) or len(claim.nodes) != self.nodes_for(job):
            return False
        return self._could_start(job, claim.nodes, gone)

    def cycle_ended(self, reservations: Reservations) -> None:
        """A cycle decided no more than has been seen, and had planned these starts."""
        requested = self.cycle.requested if self.cycle else []
        for by in {by.id: by for _, by in requested}.values():
            self._check_none_spared(by, [victim for victim, other in requested if other is by], reservations)

    def _check_none_spared(self, by: Job, victims: list[Job], reservations: Reservations) -> None:
        """Nobody was asked to make way without whom there was room as well.

        Where something else is to come to the same nodes, room now is not room for long enough: such cases
        are left to others.
        """
        claim = self.claims[by.id]
        planned = {name for number, _, names in reservations if number != by.number for name in names}
        claimed = {name for id, other in self.claims.items() if id != by.id for name in other.nodes}
        booked = {name for booking in self.bookings.values() for name in booking.nodes}
        if set(claim.nodes) & (planned | claimed | booked):
            return
        for spared in victims:
            gone = claim.victims - {spared.id}
            if self._could_start(by, claim.nodes, gone):
                self.broken(f"job {spared.number} was asked to make way for job {by.number} without need")

    def _could_start(self, job: Job, nodes: Collection[str], gone: Collection[str] = ()) -> bool:
        """Whether it has room on these nodes, taking part on each, were others gone."""
        spec = job.spec
        return self.fits(
            spec, len(nodes), nodes, lambda part, kind, name: self.has_room(spec, part, kind, name, gone)
        )

    def overrun(self, now_us: int) -> bool:
        """Whether anything is held or booked beyond its planned end."""
        return any(job.holds and job.expected_us <= now_us for job in self.jobs.values()) or any(
            booking.end_us <= now_us for booking in self.bookings.values()
        )

    # --- what must be so when there is nothing to do ------------------------------------------------------

    def at_rest(self, now_us: int, reservations: Reservations) -> None:
        """A cycle at this moment decided nothing: whatever time alone brings has been dealt with, and
        whoever still waits has no room."""
        if self.cycle is not None:
            self._close_cycle(self.cycle)
        self.now_us = now_us
        self._elders = (0, 0), []  # the last event has changed who they are
        self._check_nothing_due(now_us)
        for id, claim in self.claims.items():
            # What is kept for another may be more than is there until all are gone who make way for him.
            alone = not any(
                set(claim.nodes) & set(one.nodes) for one in self.claims.values() if one is not claim
            )
            if alone and not claim.victims and self._claim_holds(id, ()):
                self.broken(f"others made way for job {self.jobs[id].number}, and it does not start")
        waiting = sorted(self.eligible(), key=lambda job: (-job.priority.rank, job.number))
        if len(waiting) > self.policy.examined_max:
            waiting = []
        elif self.policy.strict:
            first = [job for job in waiting if not self._out_of_play(job)][:1]
            waiting = first if self.policy.order is Order.FIFO else []
        self._check_nobody_could_start(waiting, now_us, reservations)
        self._check_eldest_planned_first(now_us, reservations)

    def _check_eldest_planned_first(self, now_us: int, reservations: Reservations) -> None:
        """Of the planned starts of each priority the first is that of whoever has waited for too long, unless
        what is planned for others may leave too little of a bound on both."""
        eligible = list(self.eligible())
        firsts: dict[Priority, tuple[int, int]] = {}
        for number, rank, _ in reservations:
            firsts.setdefault(self.numbered[number].priority, (number, rank))
        for job in eligible:
            first = firsts.get(job.priority)
            bound = any(self._share_a_bound(self.numbered[number], job) for number, _, _ in reservations)
            if first and not bound and self._is_eldest(job, eligible, now_us) and first != (job.number, 0):
                self.broken(f"job {first[0]} was planned for before job {job.number}, which waited longer")

    def _share_a_bound(self, one: Job, other: Job) -> bool:
        """Whether what the one holds counts against what the other may."""
        accounts = (name for name in upwards(one.spec.account) if within(other.spec.account, name))
        quota = any(self.quotas.get(name, (-1, 0))[0] >= 0 for name in accounts)
        return one is not other and (quota or (one.array is not None and one.array is other.array))

    def _check_nothing_due(self, now_us: int) -> None:
        for job in self.jobs.values():
            if self.is_array(job):
                continue
            if job.waits and job.not_before_us <= now_us and not job.ended:
                self.broken(f"the time of job {job.number} has come, and it still waits for it")
            limit_us = job.started_at_us + job.time_limit_s * SECOND
            if job.state == "Running" and not job.stop and job.time_limit_s and limit_us <= now_us:
                self.broken(f"job {job.number} has used up its time and still runs")
            if job.state == "Queued" and any(self.never_met(one) for one in job.spec.depends_on):
                self.broken(f"job {job.number} waits for what can never be")
        for job in self.jobs.values():
            if self._is_overdue(job, now_us):
                self.broken(f"job {job.number} is overdue, and nobody says so")
        for booking in self.bookings.values():
            if booking.end_us <= now_us:
                self.broken(f"booking {booking.booking} is over and still there")
        for name, node in self.nodes.items():
            if node.draining and node.drain_by_us and node.drain_by_us <= now_us:
                for job in (self.jobs[id] for id in node.holds):
                    if job.state == "Running" and not job.stop:
                        self.broken(f"job {job.number} still runs on {name}, which was to be empty by now")

    def _check_nobody_could_start(self, waiting: list[Job], now_us: int, reservations: Reservations) -> None:
        """Work conserving, by a plain count: nothing idle would do for anyone who may start.

        Nodes that are kept for somebody, or booked before the job would end, count as full; but those that
        are only planned for others do not where its account is guaranteed what it asks for.
        """
        looked_at = set()
        for job in waiting:
            like = self._likeness(job)
            if like in looked_at or self._kept_by_a_limit(job):
                continue
            looked_at.add(like)
            kept = {name for claim in self.claims.values() for name in claim.nodes}
            # What is kept for one whom a quota keeps counts against a guarantee as if it were held.
            if not self.below_guarantee(job, promised=True) or self._kept_by_quota():
                kept |= {name for number, _, names in reservations if number != job.number for name in names}
            avoided = self._avoided(job)
            among = [
                name
                for name in self.nodes
                if name not in kept and name not in avoided and not self._in_the_way(job, name, now_us)
            ]
            nodes, spec = self.nodes_for(job, avoided), job.spec
            if nodes and self.fits(
                spec, nodes, among, lambda part, kind, name, spec=spec: self.has_room(spec, part, kind, name)
            ):
                self.broken(f"there is room for job {job.number}, and it waits")

    def at_the_end(self) -> None:
        """The world has come to its end: nobody holds anything, and who waits has a reason that lasts."""
        for job in self.jobs.values():
            if job.holds:
                self.broken(f"job {job.number} holds something at the end of the world")
            if not job.ended and not self._waits_for_ever(job):
                self.broken(f"job {job.number} waits at the end of the world for no reason")

    def _waits_for_ever(self, job: Job) -> bool:
        if self.is_array(job):
            return True  # its tasks have to say why
        most = [self.quotas.get(account, (-1, 0))[0] for account in upwards(job.spec.account)]
        return (
            job.held
            or self.nodes_for(job) == 0
            or any(0 <= bound < job.spec.gpu_count for bound in most)
            or not all(self.met(one) for one in job.spec.depends_on)
        )

    # --- nodes, accounts, the system ----------------------------------------------------------------------

    def _node_registered(self, event: ev.NodeRegistered | ev.NodeChanged) -> None:
        self._nodes_are_others()
        node = self.nodes.setdefault(event.node, Node(event.inventory))
        for device in node.inventory.devices:
            if event.node in self.places.get(device.uuid, ()):
                self.places[device.uuid].remove(event.node)
        for device in event.inventory.devices:
            self.places.setdefault(device.uuid, []).append(event.node)
            for name in self.places[device.uuid]:
                self.nodes[name].shaken_at = self.position
        node.inventory, node.lost = event.inventory, False
        node.shaken_at = self.position

    def _node_lost(self, event: ev.NodeLost) -> None:
        self._nodes_are_others()
        self.nodes[event.node].lost = True
        self.nodes[event.node].shaken_at = self.position

    def _node_cordoned(self, event: ev.NodeCordoned) -> None:
        node = self.nodes[event.node]
        node.shaken_at = self.position
        node.cordoned, node.draining, node.drain_by_us = True, event.drain, event.deadline_us

    def _node_resumed(self, event: ev.NodeResumed) -> None:
        node = self.nodes[event.node]
        if not node.cordoned:
            self.broken(f"node {event.node} was resumed, and nobody had cordoned it")
        node.cordoned, node.draining, node.drain_by_us = False, False, 0

    def _device_failed(self, event: ev.DeviceFailed) -> None:
        self._nodes_are_others()
        self.failed.add(event.device)
        self.nodes[event.node].shaken_at = self.position

    def _device_recovered(self, event: ev.DeviceRecovered) -> None:
        self._nodes_are_others()
        if event.device not in self.failed:
            self.broken(f"device {event.device} recovered, and it had not failed")
        self.failed.discard(event.device)

    def _booked(self, event: ev.BookingMade) -> None:
        if event.booking in self.bookings or event.end_us <= event.start_us:
            self.broken(f"booking {event.booking} was made twice or of no time")
        self.bookings[event.booking] = event
        for name in event.nodes:
            self.nodes[name].shaken_at = self.position

    def _booking_ended(self, event: ev.BookingEnded) -> None:
        booking = self.bookings.pop(event.booking)
        if event.cycle and event.now_us < booking.end_us:
            self.broken(f"booking {event.booking} ended before its time")

    def _quota_set(self, event: ev.QuotaSet) -> None:
        self.quotas[event.path] = (event.max_gpus, event.guaranteed_gpus)
        self.changed_at = self.position

    def _policy_set(self, event: ev.PolicySet) -> None:
        if event.version != self.policy_version + 1:
            self.broken(f"policy {event.version} follows {self.policy_version}")
        other_limit = event.policy.assumed_time_limit_s != self.policy.assumed_time_limit_s
        self.policy, self.policy_version = event.policy, event.version
        for job in self.jobs.values() if other_limit else ():
            if job.state in ("Scheduled", "Running") and not job.stop and not job.time_limit_s:
                began_us = job.started_at_us or job.scheduled_at_us
                self._expect(job, self.planned_end_us(job, began_us), began_us)
        self.changed_at = self.position

    def _nothing(self, event: ev.Event) -> None:
        """Weights change whose turn it is; a new leader, or a refusal, changes nothing here."""


def kind_of(device: Device) -> Kind:
    return device.gpu_type.lower(), -(-device.memory_mib // 1024)


def wanted(spec: JobSpec, kind: Kind) -> bool:
    gpu_type, memory_gib = kind
    return (spec.gpu_type is None or spec.gpu_type.lower() == gpu_type) and (
        memory_gib * 1024 >= spec.gpu_memory_mib
    )


def labelled(spec: JobSpec, inventory: Inventory) -> bool:
    return all(inventory.labels.get(key) == value for key, value in spec.constraints.items())


def request_of(spec: JobSpec) -> tuple[Any, ...]:
    return (
        spec.gpu_count,
        (spec.gpu_type or "").lower(),
        spec.gpu_memory_mib,
        spec.cpu_cores,
        spec.memory_mib,
        spec.nodes,
        spec.exclusive,
        tuple(sorted(spec.constraints.items())),
    )


def split(spec: JobSpec, nodes: int) -> list[Part]:
    """A request over so many nodes, as evenly as whole numbers allow, the larger parts first."""

    def part(amount: int, index: int) -> int:
        return amount // nodes + (index < amount % nodes)

    return [
        Part(part(spec.gpu_count, one), part(spec.cpu_cores, one), part(spec.memory_mib, one))
        for one in range(nodes)
    ]


def task_id(array_id: str, place: int) -> str:
    """The ids of an array's tasks follow its own, counted on in the last 48 bits."""
    return f"{array_id[:24]}{(int(array_id[24:], 16) + 1 + place) % 2**48:012x}"


def upwards(account: str) -> Iterator[str]:
    """An account and all above it."""
    while account:
        yield account
        account = account.rpartition("/")[0]


def within(account: str, above: str) -> bool:
    return account == above or account.startswith(above + "/")


_JOB: Final[dict[type[ev.Event], Callable[[Checker, Job, Any], None]]] = {
    ev.JobHeld: Checker._held,
    ev.JobReleased: Checker._released,
    ev.JobUpdated: Checker._updated,
    ev.JobReserved: Checker._reserved,
    ev.JobScheduled: Checker._scheduled,
    ev.JobStarted: Checker._started,
    ev.CheckpointRecorded: Checker._checkpoint,
    ev.BlobsErased: Checker._erased,
    ev.AllocationOverdue: Checker._overdue,
    ev.TimeLimitReached: Checker._time_limit,
    ev.PreemptionRequested: Checker._preemption_asked,
    ev.RequeueRequested: Checker._requeue_asked,
    ev.JobPreempted: Checker._preempted,
    ev.JobRequeued: Checker._requeued,
    ev.JobCompleted: Checker._completed,
    ev.JobFailed: Checker._failed,
    ev.JobCancelled: Checker._cancelled,
    ev.AllocationReleased: Checker._gone,
}
_ELSE: Final[dict[type[ev.Event], Callable[[Checker, Any], None]]] = {
    ev.NodeRegistered: Checker._node_registered,
    ev.NodeChanged: Checker._node_registered,
    ev.NodeLost: Checker._node_lost,
    ev.NodeCordoned: Checker._node_cordoned,
    ev.NodeResumed: Checker._node_resumed,
    ev.DeviceFailed: Checker._device_failed,
    ev.DeviceRecovered: Checker._device_recovered,
    ev.BookingMade: Checker._booked,
    ev.BookingEnded: Checker._booking_ended,
    ev.QuotaSet: Checker._quota_set,
    ev.PolicySet: Checker._policy_set,
    ev.ShareSet: Checker._nothing,
    ev.LeaderElected: Checker._nothing,
    ev.SigningKeySet: Checker._nothing,
    ev.PartitionArchived: Checker._nothing,
    ev.CommandRefused: Checker._nothing,
}
