"""The scheduling cycle: which jobs start now, and where. A pure function of the state and one moment.

Order: priority, then the share tree or age alone, then submission (``JobQueue.walk``). The first jobs that
find no room get a reservation: the earliest time and place at which they can start if everything ends as its
time limit says. Whoever comes after them starts now only if that delays no reservation, or if his account is
guaranteed what he asks for. A job may make others of lower priority give way (``core.preempt``). Work per
cycle is bounded by counts, never by a clock.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from horizon._placement import Plan
from horizon._queue import Walk
from horizon.core import events as ev
from horizon.core import limits
from horizon.core.charges import rate_of
from horizon.core.due import due, mark
from horizon.core.model import Allocation, Placement
from horizon.core.policy import UNLIMITED, Order, Policy
from horizon.core.preempt import Pool, Search, Victims, below_guarantee, may_give_way
from horizon.core.state import COST_PER_GPU, SECOND_US, Claim, Job, Request, Shape, State

DECISIONS = 1
"""Which code decides: recorded with every election, so that whoever runs a cycle again knows whether this is
the code that ran it. To be raised by one with every change, here or in what this stands on (``core.preempt``,
``core.explain``, ``core.due``, ``_queue``, ``_placement``), by which some state leads to other decisions."""

Found = list[tuple[int, tuple[int, ...]]]
"""A node's number and the slots of its devices, for each part of a request."""

_STOPS = ev.TimeLimitReached | ev.RequeueRequested
ELDERS_TRIED = 16
"""Kinds of jobs that a quota or an array's limit keeps, looked at for one whom only want of room keeps,
among so many jobs:"""
ELDERS_EXAMINED = 1_000


class Hindrance(Enum):
    """Why a job that a cycle looked at did not start."""

    ROOM = auto()
    """It finds no room, or only where it would delay a reservation."""
    PLANNED = auto()
    """The same; and nothing is planned for it, for what is planned for others is all that its quota or its
    array's limit allows at a time."""
    NEVER = auto()
    """It would not fit were the cluster empty."""
    CLOSED = auto()
    """The nodes where it could ever fit take no work."""
    QUOTA = auto()
    """Its account, or one above, would hold more than it may."""
    ARRAY = auto()
    """As many tasks of its array hold resources as may."""
    CLAIM = auto()
    """Others are being stopped for it."""


_FOR_ROOM = (Hindrance.ROOM, Hindrance.PLANNED, Hindrance.CLOSED, Hindrance.CLAIM)
"""What keeps a job for want of room, not because it may not start yet."""


class Verdict(Struct, frozen=True):
    """What a cycle found of a waiting job, or of all like it."""

    hindrance: Hindrance
    share: int = 0
    """Of a quota: the account whose it is."""
    held: int = 0
    """Of a quota or an array: what counted against the bound by then, that promised in the cycle included."""
    after: int = 0
    """How many reservations had been made by then."""


class Reservation(Struct, frozen=True):
    """When and where a blocked job is planned to start."""

    number: int
    start_us: int
    nodes: tuple[str, ...]
    duration_us: int
    rank: int
    """Its place in the order the cycle walked, from 1; 0 if it had waited for too long."""


class Cycle(Struct, frozen=True):
    """What a cycle decided."""

    events: tuple[ev.Event, ...]
    examined: int
    """How many jobs it looked at."""
    more: bool
    """Whether it stopped at its bound, so that another cycle should follow at once."""
    reservations: tuple[Reservation, ...] = ()
    """In the order of the jobs."""
    again_us: int | None = None
    """When time alone may let something start, beyond ``State.next_deadline_us``."""
    job_verdicts: dict[int, Verdict] = {}
    """Why jobs did not start: single ones, by number."""
    shape_verdicts: dict[int, Verdict] = {}
    """And all of a shape, from the first that was looked at;"""
    request_verdicts: dict[int, Verdict] = {}
    """all with a request;"""
    limit_verdicts: dict[int, tuple[int, Verdict]] = {}
    """all with a request and a time limit of so many seconds or more;"""
    full: Verdict | None = None
    """and all that ask for GPUs, from the moment when none was free."""
    last: int = 0
    """The number of the job at which a strict order stopped, -1 for a bound; 0 when all were looked at."""

    def verdict_of(self, state: State, job: Job) -> Verdict | None:
        """Why a job that stands in the queue did not start; None when the cycle did not come to it."""
        request = state.shapes[job.shape].request
        found = (
            self.job_verdicts.get(job.number)
            or self.shape_verdicts.get(job.shape)
            or self.request_verdicts.get(request)
        )
        if found is None and request in self.limit_verdicts:
            limit_s, verdict = self.limit_verdicts[request]
            if (job.time_limit_s or state.policy.assumed_time_limit_s) >= limit_s:
                found = verdict
        return found or (self.full if job.spec.gpu_count else None)

    def settles(self, state: State, job: Job) -> bool:
        """Whether it says of a job that has come since, too, why it does not start: it needs a GPU, none was
        free, nobody could make way for it, and nothing else has changed. No cycle need look at it before
        something does, though its place in the order may be before that of jobs with a reservation."""
        makes_way = state.policy.preemption and may_give_way(state, job.priority.rank)
        return self.full is not None and job.spec.gpu_count > 0 and not makes_way


def schedule(state: State, now_us: int) -> Cycle:
    """The events of one cycle. Reads the state, writes nothing.

    O(active shares + jobs examined + placements x nodes), nodes at a nanosecond each.
    """
    return Round(state, now_us).run()


class Round:
    """One cycle in the making. What it learns of jobs on the way says afterwards why they did not start."""

    def __init__(
        self,
        state: State,
        now_us: int,
        policy: Policy | None = None,
        until: Job | None = None,
        quotas: dict[int, int] | None = None,
    ) -> None:
        """Under the state's policy unless another is given, and its quotas but for ``quotas``, by share.

        ``until`` is a job before which it ends. It may be given with a higher priority than it has: then the
        round ends behind all that have that one already."""
        self.state = state
        self.now_us = now_us
        self.policy = policy or state.policy
        self._next = until
        self._until = until.number if until else 0
        self._least_rank = until.priority.rank if until else 0
        self._quotas = quotas or {}
        self.plan = state.cluster.plan(now_us)
        self._mark = mark(state, now_us)
        self.events: list[ev.Event] = []
        self.reservations: list[Reservation] = []
        self.shape_verdicts: dict[int, Verdict] = {}
        self.request_verdicts: dict[int, Verdict] = {}
        self.limit_verdicts: dict[int, tuple[int, Verdict]] = {}
        self.job_verdicts: dict[int, Verdict] = {}
        self.full: Verdict | None = None
        self.last = 0
        self._started: dict[int, int] = {}
        """Rates of the jobs placed so far, by number."""
        self._gpus_taken: dict[int, int] = {}
        """GPUs given away in this cycle, by share."""
        self._tasks_taken: dict[int, int] = {}
        self._gpus_planned: dict[int, int] = {}
        """What is planned for besides, by share; and tasks, by array."""
        self._tasks_planned: dict[int, int] = {}
        self._passed = False
        """Whether a job ahead waits for room."""
        self._searches = 0
        self._in_vain: set[tuple[int, int]] = set()
        """Shapes and priorities for which a search has found nobody who could make way. Nor would another: in
        a cycle there is less to be had from one job to the next."""
        self._pool = Pool(state, now_us)
        self._again_us: int | None = None

    def run(self) -> Cycle:
        self.events += due(self.state, self.now_us, self._mark)
        fallen_due = len(self.events)
        stopping = [one.job_id for one in self.events if isinstance(one, _STOPS)]
        if stopping:
            self._pool.ask(self.state.jobs[job_id] for job_id in stopping)
        examined = 0
        if len(self.state.queue):
            self._serve_claims()
            examined = self._walk()
        for reservation in self.reservations:
            # One that waits for what is overdue is planned for the next moment at every moment.
            if reservation.start_us > self.now_us + 1:
                self._look_again(reservation.start_us)
        bounded = max(fallen_due, len(self._started)) >= limits.CYCLE_STARTS_MAX
        return Cycle(
            tuple(self.events),
            examined,
            bounded,
            tuple(self.reservations),
            self._again_us,
            self.job_verdicts,
            self.shape_verdicts,
            self.request_verdicts,
            self.limit_verdicts,
            self.full,
            self.last,
        )

    @property
    def came_to_next(self) -> bool:
        """Whether the job before which it should end is the next; else one ahead stopped it, or a bound."""
        return self.last in (0, self._until)

    def look_at_next(self) -> Verdict | None:
        """What it finds of that job, as it was given; None if it would start. To be asked once."""
        assert self._next is not None
        return self._look_at(self._next, 0) if self.came_to_next else Verdict(Hindrance.ROOM)

    def _look_again(self, at_us: int) -> None:
        if at_us > self.now_us and (self._again_us is None or at_us < self._again_us):
            self._again_us = at_us

    # --- those for whom others make way ---------------------------------------------------------------

    def _serve_claims(self) -> None:
        """What was freed for a job is given to it first; what is still to come is kept for it.

        Who asked first comes first, whatever of it was freed for whom; but those for whom nothing would be
        left then come before the others, where these find something all the same."""
        claims = self._claims()
        late = self._left_without(claims)
        if late:
            changed = {number: claims[number] for number in sorted(claims, key=lambda one: one not in late)}
            if set(self._left_without(changed)) < set(late):
                claims = changed
        for number, claim in claims.items():
            job = self.state.numbered[number - 1]
            self._count(job, -1)
            found = self._ready_for(self.plan, job, claim)
            if found:
                self._start(job, found, ev.Cause.PREEMPTION, 0)
            elif found is not None:
                self.plan.claim()
                self.job_verdicts[number] = Verdict(Hindrance.CLAIM)
                self._count(job, 1)

    def _claims(self) -> dict[int, Claim]:
        """The jobs that have a right to what is freed for them and may start; they count as started."""
        claims: dict[int, Claim] = {}
        for number, claim in self.state.claims.items():
            job = self.state.numbered[number - 1]
            may_start = self._array_has_room(self.state.shapes[job.shape]) and self._over_quota(job) is None
            if may_start and self._has_right(claim):
                claims[number] = claim
                self._count(job, 1)
        return claims

    def _left_without(self, claims: dict[int, Claim]) -> list[int]:
        """Those for whom nothing would be left, were all served in this order."""
        late: list[int] = []
        if len(claims) < 2:
            return late
        plan = self.state.cluster.plan(self.now_us)
        for number, claim in claims.items():
            found = self._ready_for(plan, self.state.numbered[number - 1], claim)
            if found:
                plan.take()
            elif found is not None:
                plan.claim()
            else:
                late.append(number)
        return late

    def _ready_for(self, plan: Plan, job: Job, claim: Claim) -> Found | None:
        """What the plan has to give the job at once, where others make way for it; nothing when that is still
        to come; None when there is neither."""
        only = [self.state.nodes[name].index for name in claim.nodes]
        request, duration_us = self.state.shapes[job.shape].request, self.duration_us(job)
        found = plan.place(request, duration_us, (), only)
        if found is None and claim.victims:
            to_come = plan.fits(request, duration_us, (), only, self._pool.leaving)
            return None if to_come is None else []
        return found

    def _has_right(self, claim: Claim) -> bool:
        """Whether others are still on their way out for the job, or the last was gone just now: whoever could
        not take what was freed for him then waits for his turn like everybody."""
        return bool(claim.victims) or claim.freed_cycle == self.state.cycle

    # --- the walk -------------------------------------------------------------------------------------

    def _walk(self) -> int:
        walk = self.state.queue.walk(self.now_us, self.policy.order is Order.FIFO)
        rank = -1
        self.last = -1
        while len(self._started) < limits.CYCLE_STARTS_MAX and walk.examined < self.policy.examined_max:
            number = walk.next()
            if not number:
                self.last = 0
                break
            job = self.state.numbered[number - 1]
            if job.priority.rank != rank:
                rank = job.priority.rank
                if rank < self._least_rank:
                    self.last = 0
                    break
                eldest = self._serve_eldest(rank)
                if eldest and (self.policy.strict or eldest == self._until):
                    self.last = eldest
                    break
            if number == self._until:
                self.last = number
                break
            if number in self._started:  # others made way for it, or it had waited for too long
                walk.take(self._started[number])
                continue
            if number in self.job_verdicts:  # others are making way for it, or it has been planned for
                if self._start_elsewhere(job, walk.examined):
                    walk.take(self._started[number])
                elif self.policy.strict:
                    self.last = number
                    break
                continue
            verdict = self._look_at(job, walk.examined)
            if verdict is None:
                walk.take(self._started[number])
                continue
            self._pass_its_like(walk, job, verdict)
            if self.policy.strict and verdict.hindrance in _FOR_ROOM:
                self.last = number
                break
        return walk.examined

    def _start_elsewhere(self, job: Job, rank: int) -> bool:
        """A job for which others make way need not wait for them when it fits somewhere else by now."""
        if self.job_verdicts[job.number].hindrance is not Hindrance.CLAIM:
            return False
        shape = self.state.shapes[job.shape]
        self._count(job, -1)
        if self._over_quota(job) is None and self._array_has_room(shape):
            found = self._place(job, self.duration_us(job), self.avoided(job, shape.request))
            if found is not None:
                self._start(job, found, ev.Cause.BACKFILL if self._passed else ev.Cause.PRIORITY, rank)
                return True
        self._count(job, 1)
        return False

    def _serve_eldest(self, rank: int) -> int:
        """Whatever the shares say, of those of a priority who have waited for too long the eldest goes first.
        Its number if it finds no room, else 0. For one that only a quota keeps, what its accounts may hold is
        kept.

        One at a time: so nobody waits for ever, and a crowd of old jobs leaves the others their turns."""
        if self.policy.order is Order.FIFO or not self.policy.patience_s:
            return 0
        patience_us = self.policy.patience_s * SECOND_US
        walk = self.state.queue.walk(self.now_us, True, rank)
        tried, kept = 0, False
        while tried < ELDERS_TRIED and walk.examined < ELDERS_EXAMINED:
            number = walk.next()
            if not number or number in self._started or number in self.job_verdicts:
                return 0
            job = self.state.numbered[number - 1]
            if job.priority.rank != rank or job.created_at_us + patience_us > self.now_us:
                if job.priority.rank == rank:
                    self._look_again(max(job.created_at_us, job.begin_at_us) + patience_us)
                return 0
            if job.begin_at_us + patience_us > self.now_us:
                self._look_again(job.begin_at_us + patience_us)
                continue  # it has not waited for so long since it was tried last
            if number == self._until:
                return number
            verdict = self._look_at(job, 0, ev.Cause.AGE)
            if verdict is None:
                return 0
            if verdict.hindrance in (Hindrance.ROOM, Hindrance.PLANNED, Hindrance.CLAIM):
                self.job_verdicts[number] = verdict
                return number
            if verdict.hindrance is Hindrance.QUOTA and not kept and self._may_ever_hold(job):
                self._count(job, 1)
                kept = True
            tried += verdict.hindrance in (Hindrance.QUOTA, Hindrance.ARRAY)
            walk.block(job.shape)  # what keeps it is no want of room
        return 0

    def _may_ever_hold(self, job: Job) -> bool:
        """Whether its accounts may hold what it asks for if they hold nothing else."""
        share = self.state.shares[job.share]
        while share.parent >= 0:
            share = self.state.shares[share.parent]
            if 0 <= share.max_gpus < job.spec.gpu_count:
                return False
        return True

    def _pass_its_like(self, walk: Walk, job: Job, verdict: Verdict) -> None:
        """Passes all those that follow for whom the same must hold in this cycle: nothing frees up within
        one. But while there are reservations to give, each job that finds no room gets its own."""
        hindrance = verdict.hindrance
        if hindrance is Hindrance.CLAIM or job.avoid or (hindrance is Hindrance.ROOM and self._may_reserve):
            self.job_verdicts[job.number] = verdict
            return
        request = self.state.shapes[job.shape].request
        if hindrance in (Hindrance.NEVER, Hindrance.CLOSED):
            self._pass_request(walk, request, verdict)
        elif hindrance is not Hindrance.ROOM or self._may_take_from_others(job):
            walk.block(job.shape)
            self.shape_verdicts[job.shape] = verdict
        elif not self.plan.idle():
            walk.block_many(self.state.shape_index.with_gpus)
            self.full = verdict
            self._pass_request(walk, request, verdict)  # it may ask for no GPU
        elif request not in self.limit_verdicts and self.plan.fits(request, 1) is None:
            self._pass_request(walk, request, verdict)
        else:
            self._pass_longer(walk, job, verdict)

    def _pass_longer(self, walk: Walk, job: Job, verdict: Verdict) -> None:
        """There is room for what it asks for, but not for as long as it takes: so not for longer either."""
        walk.block(job.shape)
        shape = self.state.shapes[job.shape]
        if self._known_too_long(shape) is None:
            self.limit_verdicts[shape.request] = self._limit_s(shape), verdict

    def _known_too_long(self, shape: Shape) -> Verdict | None:
        """What was found of a job that asks for the same for no longer."""
        known = self.limit_verdicts.get(shape.request)
        return None if known is None or self._limit_s(shape) < known[0] else known[1]

    def _limit_s(self, shape: Shape) -> int:
        return shape.time_limit_s or self.policy.assumed_time_limit_s

    def _may_take_from_others(self, job: Job) -> bool:
        """Whether this job, or one behind it of no higher priority, may make others give way. It is not known
        whether there are such; but then each must be looked at."""
        if not self.policy.preemption or self._searches >= self.policy.preemption_searches_max:
            return False
        return may_give_way(self.state, job.priority.rank)

    def _pass_request(self, walk: Walk, request: int, verdict: Verdict) -> None:
        walk.block_many(self.state.shape_index.of[request])
        self.request_verdicts[request] = verdict

    @property
    def _may_reserve(self) -> bool:
        depth = 0 if self.policy.strict else self.policy.reservation_depth
        return depth == UNLIMITED or len(self.reservations) < depth

    def _look_at(self, job: Job, rank: int, cause: ev.Cause = ev.Cause.PRIORITY) -> Verdict | None:
        """Start the job, or say why not; then plan for it as far as the policy allows."""
        shape = self.state.shapes[job.shape]
        kept = self._kept_by_a_bound(job, shape)
        if kept is not None:
            return kept
        known = self._known_too_long(shape)
        if known is not None and not self._may_go_over_reservations(job):
            return known
        duration_us = self.duration_us(job)
        avoid = self.avoided(job, shape.request)
        found = self._place(job, duration_us, avoid)
        if found is not None:
            self._start(job, found, ev.Cause.BACKFILL if self._passed else cause, rank)
            return None
        if not self.state.cluster.nodes_for(shape.request):
            return Verdict(Hindrance.NEVER)
        self._passed = True
        if self._make_way(job, shape, duration_us, avoid):
            return Verdict(Hindrance.CLAIM)
        after = len(self.reservations)
        if self._may_reserve:
            planned = self.plan.earliest(shape.request, duration_us, avoid)
            if planned is None:
                return Verdict(Hindrance.CLOSED)
            if self._kept_by_a_bound(job, shape, planned=True) is not None:
                return Verdict(Hindrance.PLANNED, after=after)
            self._reserve(job, rank, duration_us, planned)
        return Verdict(Hindrance.ROOM, after=after)

    def _kept_by_a_bound(self, job: Job, shape: Shape, planned: bool = False) -> Verdict | None:
        """Whether its array's limit or a quota keeps it; ``planned`` counts what is planned for others, too:
        no more is planned for at a time than may be held."""
        if not self._array_has_room(shape, planned):
            return Verdict(Hindrance.ARRAY, held=self._tasks_of(shape.array, planned))
        share = self._over_quota(job, planned)
        return None if share is None else Verdict(Hindrance.QUOTA, share, self.gpus_of(share, planned))

    def _place(self, job: Job, duration_us: int, avoid: list[int]) -> Found | None:
        """Where the job can start: where that delays no reservation, else over reservations if it may."""
        request = self.state.shapes[job.shape].request
        found = self.plan.place(request, duration_us, avoid)
        if found is None and self._may_go_over_reservations(job):
            found = self.plan.place(request, duration_us, avoid, over_reserved=True)
        return found

    def _may_go_over_reservations(self, job: Job) -> bool:
        """Whether there are any, and its account has a right to what others planned on."""
        return bool(self.reservations) and bool(below_guarantee(self.state, job, self.gpus_of))

    def duration_us(self, job: Job) -> int:
        """For how long the job is planned to run."""
        return (job.time_limit_s or self.policy.assumed_time_limit_s) * SECOND_US

    def avoided(self, job: Job, request: int) -> list[int]:
        """The nodes where the job failed, if it can go to others that take work, and is not split over more
        of them for it. O(nodes) when there are any."""
        if not job.avoid:
            return []
        nodes, cluster = self.state.nodes, self.state.cluster
        failed = [nodes[name].index for name in job.avoid if name in nodes]
        closed = [node.index for node in nodes.values() if node.cordoned or node.lost]
        return (
            failed
            if cluster.nodes_for(request, closed + failed) == cluster.nodes_for(request, closed)
            else []
        )

    def _array_has_room(self, shape: Shape, planned: bool = False) -> bool:
        """Whether one more task of the array, if it has a limit, may hold resources."""
        if not shape.array:
            return True
        limited = self.state.arrays[shape.array].job.spec.array
        assert limited is not None
        return self._tasks_of(shape.array, planned) < limited.limit

    def _tasks_of(self, array: int, planned: bool = False) -> int:
        """The tasks of the array that hold resources, with those that were promised some in this cycle."""
        tasks = self.state.arrays[array].active + self._tasks_taken.get(array, 0)
        return tasks + (self._tasks_planned.get(array, 0) if planned else 0)

    def _over_quota(self, job: Job, planned: bool = False) -> int | None:
        """The account that would hold more GPUs than it may; None when none would."""
        if not job.spec.gpu_count:
            return None
        share = self.state.shares[job.share]
        while share.parent >= 0:
            share = self.state.shares[share.parent]
            most = self._quotas.get(share.id, share.max_gpus)
            if most >= 0 and self.gpus_of(share.id, planned) + job.spec.gpu_count > most:
                return share.id
        return None

    def gpus_of(self, share: int, planned: bool = False) -> int:
        """What the share holds, with what it got in this cycle and what is claimed for it."""
        gpus = self.state.shares[share].gpus_held + self._gpus_taken.get(share, 0)
        return gpus + (self._gpus_planned.get(share, 0) if planned else 0)

    def _start(self, job: Job, found: Found, cause: ev.Cause, rank: int) -> None:
        state = self.state
        self.plan.take()
        allocation, gpu_type = allocate(state, state.requests[state.shapes[job.shape].request], found)
        spec = job.spec
        self._started[job.number] = rate_of(
            self.policy, spec.gpu_count, gpu_type, spec.cpu_cores, spec.memory_mib
        )
        self._count(job, 1)
        self.events.append(
            ev.JobScheduled(
                job_id=job.id,
                attempt=job.attempt + 1,
                allocation=allocation,
                rank=rank,
                score=state.queue.score(job.share, self.now_us) / COST_PER_GPU,
                cause=cause,
                **self._mark,
            )
        )

    def _count(self, job: Job, sign: int, planned: bool = False) -> None:
        """Counts (+1) or no longer counts (-1) what the job will hold against quotas and array limits."""
        gpus = self._gpus_planned if planned else self._gpus_taken
        tasks = self._tasks_planned if planned else self._tasks_taken
        share = self.state.shares[job.share]
        while job.spec.gpu_count and share.parent >= 0:
            share = self.state.shares[share.parent]
            gpus[share.id] = gpus.get(share.id, 0) + sign * job.spec.gpu_count
        if job.array:
            tasks[job.array] = tasks.get(job.array, 0) + sign

    def _reserve(self, job: Job, rank: int, duration_us: int, planned: tuple[int, tuple[int, ...]]) -> None:
        """Plan for it at the time and on the nodes that the plan has just found."""
        self.plan.reserve()
        self._count(job, 1, planned=True)
        start_us, indices = planned
        nodes = tuple(self.state.node_names[index] for index in indices)
        self.reservations.append(Reservation(job.number, start_us, nodes, duration_us, rank))
        if not job.predicted_us:
            self.events.append(ev.JobReserved(job_id=job.id, start_us=start_us, nodes=nodes, **self._mark))

    # --- making others give way -----------------------------------------------------------------------

    def _make_way(self, job: Job, shape: Shape, duration_us: int, avoid: list[int]) -> bool:
        """Ask running jobs to stop for this one, if that lets it start."""
        if not self.policy.preemption or not any(self.state.preemptible):
            return False
        alike = (job.shape, job.priority.rank)
        if self._searches >= self.policy.preemption_searches_max or (alike in self._in_vain and not avoid):
            return False
        search = Search(
            self.state, self.plan, job, shape.request, duration_us, avoid, self.gpus_of, self._pool
        )
        if not search.candidates:
            self._consider_later(search)
            return False
        self._searches += 1
        victims = search.run()
        if victims is None:
            if not (avoid or search.needless):
                self._in_vain.add(alike)
            self._consider_later(search)
            return False
        self.plan.claim()
        self._count(job, 1)
        self._pool.ask(victim for victim, _ in victims.jobs)
        self._stop(job, victims)
        return True

    def _consider_later(self, search: Search) -> None:
        if search.again_us is not None:
            self._look_again(search.again_us)

    def _stop(self, job: Job, victims: Victims) -> None:
        nodes = tuple(self.state.node_names[index] for index in victims.nodes)
        for victim, lost_gpu_us in victims.jobs:
            self.events.append(
                ev.PreemptionRequested(
                    job_id=victim.id,
                    attempt=victim.attempt,
                    by=job.id,
                    reason=victims.reason,
                    nodes=nodes,
                    lost_gpu_us=lost_gpu_us,
                    **self._mark,
                )
            )


def allocate(state: State, request: Request, found: Found) -> tuple[Allocation, str | None]:
    """What the parts of a request get, and the type of its GPUs."""
    placements = []
    total, gpu_type = len(found), None
    for place, (index, slots) in enumerate(found):
        name = state.node_names[index]
        devices = state.nodes[name].inventory.devices
        if slots:
            gpu_type = devices[slots[0]].gpu_type
        placements.append(
            Placement(
                name,
                tuple([devices[slot].uuid for slot in slots]),
                share_of(request.cpu_cores, total, place),
                share_of(request.memory_mib, total, place),
            )
        )
    return tuple(placements), gpu_type


def share_of(amount: int, parts: int, place: int) -> int:
    """One part of an amount that is split as evenly as whole numbers allow, the larger ones first."""
    share, rest = divmod(amount, parts)
    return share + (place < rest)
