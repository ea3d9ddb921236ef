"""Whom to stop so that a waiting job can start: the jobs whose stopping loses the least work. Pure.

A job may take from running jobs of lower priority; and where its account holds less than it is guaranteed,
from jobs of accounts that hold more than theirs, if those are of no higher priority; then it need not mind
what is reserved for others, free or not, for they planned on what was guaranteed to it. Only jobs that are
``preemptible`` and have run for ``Policy.min_runtime_s`` are ever taken from.

No two jobs can keep stopping each other. Who is stopped by priority is below the other for good, and can only
come back at it by reclaim, which never takes from a higher priority. A reclaim leaves the account that takes
within its guarantee and the one that gives at or above its own: neither has what it would need to take back.

What is lost is the work since an attempt's start or last checkpoint, in GPU-microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from msgspec import Struct

from horizon._placement import Plan
from horizon.core.model import JobState
from horizon.core.state import SECOND_US, Job, Share, State

TRIALS_MAX: Final = 1_000
"""Sets of victims that one search tries."""
EXACT_MAX: Final = 12
"""Candidates on one node of which every set is thought of; of more, one is chosen step by step."""
PLACES_MAX: Final = 8
"""Sets of nodes that are looked into for a gang when the cheapest candidates of all will not do."""


class Victims(Struct, frozen=True):
    """Whom to stop, and where the other can then start."""

    jobs: tuple[tuple[Job, int], ...]
    """With the GPU-microseconds that each loses."""
    nodes: tuple[int, ...]
    """By number in the cluster."""
    reason: str


class Candidate(Struct, frozen=True):
    """A running job that may be stopped."""

    job: Job
    lost_gpu_us: int


def accounts_above(state: State, share: Share) -> dict[int, Share]:
    """The accounts above a share, the nearest first, without the root."""
    found: dict[int, Share] = {}
    while share.parent > 0:
        share = state.shares[share.parent]
        found[share.id] = share
    return found


def below_guarantee(state: State, job: Job, gpus_of: Callable[[int], int]) -> dict[int, Share]:
    """The accounts above the job that may reclaim for it: with it they hold no more than guaranteed."""
    gpus = job.spec.gpu_count
    return {
        share.id: share
        for share in accounts_above(state, state.shares[job.share]).values()
        if gpus and gpus_of(share.id) + gpus <= share.guaranteed_gpus
    }


def may_give_way(state: State, rank: int) -> bool:
    """Whether there are running jobs that might be stopped for a job of this priority. O(1)."""
    lower = any(state.preemptible[:rank])
    return lower or (state.guarantees > 0 and bool(state.preemptible[rank]))


def _least_first(candidate: Candidate) -> tuple[int, int]:
    """The least loss first; of equals the youngest."""
    return candidate.lost_gpu_us, -candidate.job.number


class Pool:
    """The running jobs that may be stopped at one moment, by priority. Found once a cycle, when needed."""

    def __init__(self, state: State, now_us: int) -> None:
        self._state = state
        self._now_us = now_us
        self._ripe: dict[int, list[Candidate]] = {}
        self._later_us: dict[int, int] = {}
        self._leaving: list[int] | None = None

    @property
    def leaving(self) -> list[int]:
        """The numbers of the jobs whose resources will be free soon: they have ended, or were asked to stop
        before or in this cycle."""
        if self._leaving is None:
            self._leaving = list(self._state.leaving)
        return self._leaving

    def gpus_leaving(self) -> dict[int, int]:
        """The GPUs that these hold still, by share. O(leaving x depth)."""
        found: dict[int, int] = {}
        for number in self.leaving:
            job = self._state.numbered[number - 1]
            share = self._state.shares[job.share]
            while share.parent >= 0:
                share = self._state.shares[share.parent]
                found[share.id] = found.get(share.id, 0) + job.spec.gpu_count
        return found

    def ask(self, jobs: Iterable[Job]) -> None:
        """These have been asked to stop: nobody else can take from them, and what they hold will be free."""
        asked = {job.number for job in jobs}
        self.leaving.extend(sorted(asked))
        for rank, some in self._ripe.items():
            self._ripe[rank] = [one for one in some if one.job.number not in asked]

    def of(self, rank: int) -> list[Candidate]:
        """Those of one priority, the least loss first. O(its running preemptible jobs), once."""
        if rank not in self._ripe:
            self._ripe[rank] = sorted(self._find(rank), key=_least_first)
        return self._ripe[rank]

    def later_us(self, ranks: Iterable[int]) -> int | None:
        """When the next one of these priorities will have run for long enough."""
        return min((self._later_us[rank] for rank in ranks if rank in self._later_us), default=None)

    def _find(self, rank: int) -> Iterator[Candidate]:
        least_us = self._state.policy.min_runtime_s * SECOND_US
        for job in self._state.preemptible[rank].values():
            if job.state is not JobState.RUNNING or job.stop is not None:
                continue
            ripe_us = job.started_at_us + least_us
            if ripe_us > self._now_us:
                self._later_us[rank] = min(ripe_us, self._later_us.get(rank, ripe_us))
                continue
            yield Candidate(job, max(0, self._now_us - job.saved_at_us) * job.spec.gpu_count)


class _Spot:
    """What may be stopped on one node, the least loss first."""

    def __init__(self, lacks: int) -> None:
        self._lacks = lacks
        self._largest = 0
        self.missing = lacks
        """GPUs that are lacking still, with all candidates so far gone."""
        self.candidates: list[Candidate] = []

    def add(self, candidate: Candidate, gpus: int) -> None:
        self.candidates.append(candidate)
        self.missing -= gpus
        self._largest = max(self._largest, gpus)

    def least_cost(self) -> int:
        """What any set loses at least that the last candidate is in: so many jobs it takes, however large
        each of them is."""
        jobs = -(-self._lacks // self._largest) if self._lacks > 0 and self._largest else 1
        others = self.candidates[: max(0, min(jobs, len(self.candidates)) - 1)]
        return self.candidates[-1].lost_gpu_us + sum(one.lost_gpu_us for one in others)


class Search:
    """A search for the victims of one waiting job, on a cycle's plan."""

    def __init__(
        self,
        state: State,
        plan: Plan,
        job: Job,
        request: int,
        duration_us: int,
        avoid: list[int],
        gpus_of: Callable[[int], int],
        pool: Pool,
    ) -> None:
        self._state = state
        self._plan = plan
        self._job = job
        self._request = request
        self._duration_us = duration_us
        self._avoid = avoid
        self._gpus_of = gpus_of
        self._trials = 0
        self._above = self._accounts(job)
        self._reclaims = below_guarantee(state, job, gpus_of)
        ranks = [rank for rank in range(job.priority.rank + bool(self._reclaims)) if state.preemptible[rank]]
        self._pool = pool
        self.candidates = self._candidates(pool, ranks)
        self.needless = False
        """Whether it can start without, once those on their way out are gone."""
        self.again_us = pool.later_us(ranks)
        """When a job that has not run for long enough may be stopped."""

    # --- who may be stopped ---------------------------------------------------------------------------

    def _accounts(self, job: Job) -> dict[int, Share]:
        return accounts_above(self._state, self._state.shares[job.share])

    def _candidates(self, pool: Pool, ranks: list[int]) -> list[Candidate]:
        """All whom the job may take from, the least loss first."""
        if len(ranks) == 1 and self._by_priority(ranks[0]):
            return pool.of(ranks[0])
        leaving = pool.gpus_leaving() if self._reclaims else {}
        found = [
            candidate
            for rank in ranks
            for candidate in pool.of(rank)
            if self._by_priority(rank) or self._may_reclaim_from(candidate.job, leaving)
        ]
        found.sort(key=_least_first)
        return found

    def _by_priority(self, rank: int) -> bool:
        return rank < self._job.priority.rank

    def _may_reclaim_from(self, job: Job, taken: dict[int, int]) -> bool:
        """Whether the job's accounts, up to where they meet the reclaiming one, stay at their guarantees
        without it and without what is ``taken`` from them already, by share."""
        if not self._reclaims or job.priority.rank > self._job.priority.rank or not job.spec.gpu_count:
            return False
        accounts = self._accounts(job)
        if all(share in accounts for share in self._reclaims):
            return False  # it would only take from itself
        return all(
            share.gpus_held - taken.get(share.id, 0) - job.spec.gpu_count >= share.guaranteed_gpus
            for share in accounts.values()
            if share.id not in self._above
        )

    def _allowed(self, chosen: list[Candidate]) -> bool:
        """Whether all of these may be stopped together."""
        return len(self._that_may(chosen)) == len(chosen)

    def _that_may(self, some: list[Candidate]) -> list[Candidate]:
        """Those that may be stopped together with all of them that come before."""
        if not self._reclaims:
            return some
        taken = self._pool.gpus_leaving()
        chosen = []
        for candidate in some:
            by_priority = self._by_priority(candidate.job.priority.rank)
            if by_priority or self._may_reclaim_from(candidate.job, taken):
                chosen.append(candidate)
                for share in self._accounts(candidate.job):
                    taken[share] = taken.get(share, 0) + candidate.job.spec.gpu_count
        return chosen

    # --- whom to stop ---------------------------------------------------------------------------------

    def run(self) -> Victims | None:
        """The victims; the plan can then claim what they free. None when no set of them would let the job
        start, or when it can start without, once those on their way out are gone."""
        self._leaving = self._pool.leaving
        if self._fits([]) is not None:
            self.needless = True
            return None
        if self._state.cluster.nodes_for(self._request, self._avoid) == 1:
            chosen = self._on_one_node()
        else:
            chosen = self._on_several()
        if chosen is None:
            return None
        nodes = self._fits(chosen)
        if nodes is None:
            return None
        # It may fit in another place than the one they were chosen for, and need fewer of them to go there.
        there = self._there(chosen, nodes)
        if self._fits(there, list(nodes)) is None:
            there = chosen  # a device that one of them holds has turned up on another node
        chosen = self._spared(there, list(nodes))
        nodes = self._fits(chosen, list(nodes))
        if nodes is None:
            return None
        jobs = tuple((candidate.job, candidate.lost_gpu_us) for candidate in chosen)
        return Victims(jobs, nodes, self._reason(chosen))

    def _there(self, some: list[Candidate], nodes: tuple[int, ...]) -> list[Candidate]:
        """Those that hold something on these nodes."""
        return [
            candidate
            for candidate in some
            if any(self._state.nodes[one.node].index in nodes for one in candidate.job.allocation)
        ]

    def _reason(self, chosen: list[Candidate]) -> str:
        job = self._job
        if all(self._by_priority(candidate.job.priority.rank) for candidate in chosen):
            return f"job {job.number} of {job.spec.user_id} has priority {job.priority.value}"
        reclaimed = next(one.job for one in chosen if not self._by_priority(one.job.priority.rank))
        givers = self._accounts(reclaimed)
        account = next(share for share in self._reclaims.values() if share.id not in givers)
        return (
            f"job {job.number} of {job.spec.user_id}: {account.path} holds {self._gpus_of(account.id)} of "
            f"the {account.guaranteed_gpus} GPUs that it is guaranteed"
        )

    def _fits(self, chosen: list[Candidate], only: list[int] | None = None) -> tuple[int, ...] | None:
        """Where the job could start if these and those on their way out were gone, were it after the longest
        of their grace periods."""
        gone = self._leaving + [candidate.job.number for candidate in chosen]
        grace_s = max([candidate.job.spec.grace_period_s for candidate in chosen], default=0)
        duration_us = self._duration_us + grace_s * SECOND_US
        self._trials += 1
        return self._plan.fits(self._request, duration_us, self._avoid, only, gone, bool(self._reclaims))

    def _works(self, chosen: list[Candidate], only: list[int] | None) -> bool:
        return self._allowed(chosen) and self._fits(chosen, only) is not None

    def _spared(self, chosen: list[Candidate], only: list[int] | None) -> list[Candidate]:
        """The set without whom it can do without, those who would lose the most spared first."""
        kept = list(chosen)
        for candidate in reversed(chosen):
            fewer = [one for one in kept if one is not candidate]
            if self._works(fewer, only):
                kept = fewer
        return kept

    # --- a job of one node: the cheapest set there is -------------------------------------------------

    def _on_one_node(self) -> list[Candidate] | None:
        """Candidates are laid out on their nodes, the least loss first, and a node is looked into once it may
        have enough of them. When a single one loses more than the best set so far, no better set is left."""
        best: list[Candidate] | None = None
        best_cost = -1
        spots: dict[int, _Spot] = {}
        for candidate in self.candidates:
            if (best is not None and candidate.lost_gpu_us >= best_cost) or self._trials >= TRIALS_MAX:
                break
            for placement in candidate.job.allocation:
                index = self._state.nodes[placement.node].index
                spot = spots.get(index)
                if spot is None:
                    spot = spots[index] = _Spot(self._lacks(index))
                spot.add(candidate, len(placement.gpu_ids))
                if spot.missing > 0 or (best is not None and spot.least_cost() >= best_cost):
                    continue
                found = self._cheapest_on(index, spot.candidates, best_cost)
                cost = sum(one.lost_gpu_us for one in found or ())
                if found is not None and (best is None or cost < best_cost):
                    best, best_cost = found, cost
        return best

    def _lacks(self, index: int) -> int:
        """How many GPUs fewer the node will have than wanted once those on their way out are gone."""
        state = self._state
        node = state.nodes[state.node_names[index]]
        free = len(state.cluster.free(index)[2])
        for id in node.jobs if self._leaving else ():
            job = state.jobs[id]
            if job.number in self._leaving:
                free += sum(len(one.gpu_ids) for one in job.allocation if one.node == node.inventory.name)
        return state.requests[self._request].gpu_count - free

    def _cheapest_on(self, index: int, here: list[Candidate], below: int) -> list[Candidate] | None:
        """The cheapest set of candidates whose end makes room on this node; None when there is none."""
        only = [index]
        chosen = self._grown(here, only)
        if chosen is None:
            # The cheapest may have taken what their account can give, and not be enough.
            few = bool(self._reclaims) and len(here) <= EXACT_MAX
            most = below if below >= 0 else sum(candidate.lost_gpu_us for candidate in here) + 1
            return self._cheaper(here, only, 0, [], 0, most) if few else None
        chosen = self._spared(chosen, only)
        if len(here) > EXACT_MAX:
            return chosen
        cost = sum(candidate.lost_gpu_us for candidate in chosen)
        if 0 <= below < cost:
            cost = below
        better = self._cheaper(here, only, 0, [], 0, cost)
        return better if better is not None else chosen

    def _grown(self, here: list[Candidate], only: list[int] | None) -> list[Candidate] | None:
        """As many as may be stopped together, the cheapest first, until the job fits."""
        allowed = self._that_may(here)
        for total in range(1, len(allowed) + 1):
            if self._fits(allowed[:total], only) is not None:
                return allowed[:total]
        return None

    def _cheaper(
        self,
        here: list[Candidate],
        only: list[int],
        begin: int,
        chosen: list[Candidate],
        cost: int,
        below: int,
    ) -> list[Candidate] | None:
        """The first cheapest set that costs less than ``below``, by trying all that may: branch and bound."""
        best = None
        for at in range(begin, len(here)):
            candidate = here[at]
            total = cost + candidate.lost_gpu_us
            if total >= below or self._trials >= TRIALS_MAX:
                break  # those after it lose no less
            more = [*chosen, candidate]
            if not self._allowed(more):
                continue
            if self._fits(more, only) is not None:
                best, below = more, total
                continue
            found = self._cheaper(here, only, at + 1, more, total, below)
            if found is not None:
                best, below = found, sum(one.lost_gpu_us for one in found)
        return best

    # --- a gang: few, cheap, and none too many --------------------------------------------------------

    def _on_several(self) -> list[Candidate] | None:
        """The smallest part of the cheapest candidates that makes room."""
        allowed = self._that_may(self.candidates)
        if self._fits(allowed) is None:
            return self._on_some_nodes() if len(allowed) < len(self.candidates) else None
        low, high = 1, len(allowed)
        while low < high:
            middle = (low + high) // 2
            if self._fits(allowed[:middle]) is None:
                low = middle + 1
            else:
                high = middle
        return allowed[:high]

    def _on_some_nodes(self) -> list[Candidate] | None:
        """When the cheapest have taken what their accounts can give and are not enough: those who are, on the
        nodes where it could start were all candidates gone; where none are, without the largest there, and so
        on."""
        some = self.candidates
        for _ in range(PLACES_MAX):
            nodes = self._fits(some)
            if nodes is None:
                return None
            there = self._there(some, nodes)
            found = self._enough(there, list(nodes))
            if found is not None or not there:
                return found
            largest = max(there, key=lambda one: (one.job.spec.gpu_count, one.lost_gpu_us))
            some = [one for one in some if one is not largest]
        return None

    def _enough(self, some: list[Candidate], only: list[int]) -> list[Candidate] | None:
        """Those of these who may be stopped together, the cheapest first; while they are not enough, without
        the cheapest whom it can do without and who takes from what an account can give."""
        allowed = self._that_may(some)
        short = self._accounts_short(some, allowed)
        for candidate in some:
            if self._fits(allowed, only) is not None:
                return allowed
            if self._trials >= TRIALS_MAX:
                return None
            fewer = [one for one in some if one is not candidate]
            if not short.isdisjoint(self._accounts(candidate.job)) and self._fits(fewer, only) is not None:
                some, allowed = fewer, self._that_may(fewer)
        return allowed if self._fits(allowed, only) is not None else None

    def _accounts_short(self, some: list[Candidate], allowed: list[Candidate]) -> set[int]:
        """The accounts of those who may not be stopped with the allowed: some of them can give no more."""
        numbers = {candidate.job.number for candidate in allowed}
        refused = [candidate.job for candidate in some if candidate.job.number not in numbers]
        return {share for job in refused for share in self._accounts(job) if share not in self._above}
