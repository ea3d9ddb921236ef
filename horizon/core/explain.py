"""Says in a sentence why a waiting job waits, from what the last cycle found. Pure; made when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import msgspec

from horizon._placement import VERDICTS, Plan
from horizon.core import dependencies
from horizon.core.model import JobState
from horizon.core.schedule import Cycle, Hindrance, Round, Verdict
from horizon.core.state import Job, Request, State
from horizon.core.words import moment, span

NEXT_CYCLE = "there is room: it starts when its turn comes in the next cycle"


class Room:
    """What is free at one moment, and to whom. To be asked as long as the cluster stays as it is."""

    def __init__(self, state: State, now_us: int, to_come: bool = False) -> None:
        """``to_come`` says that the cycle that is told of has yet to be recorded."""
        self._state = state
        self._now_us = now_us
        self._to_come = to_come
        self.plan = state.cluster.plan(now_us)

    @cached_property
    def served(self) -> Round:
        """A cycle that serves those for whom others make way, and looks at nobody else."""
        nobody = msgspec.structs.replace(self._state.policy, examined_max=0)
        served = Round(self._state, self._now_us, nobody)
        served.run()
        return served

    def withheld(self, job: Job, verdict: Verdict) -> str:
        """Why the job cannot have what is free, though there is enough of it; "" if it can."""
        request = self._state.shapes[job.shape].request
        duration_us = self.served.duration_us(job)
        avoid = self.served.avoided(job, request)
        if self.plan.fits(request, duration_us) is None:
            return "they are free, but not of one type and size"
        if self.plan.fits(request, duration_us, avoid) is None:
            return f"they are free, but only with nodes where it failed: {', '.join(job.avoid)}"
        if self.served.plan.fits(request, duration_us, avoid) is None:
            return "they are free, but kept for jobs for which others make way"
        if verdict.after:
            return f"they are free, but {planned(verdict.after)} ahead of it would start later"
        return "they are free, but the next cycle gives them to jobs ahead of it" if self._to_come else ""


def explainer(state: State, cycle: Cycle, now_us: int) -> Callable[[Job], str]:
    """A function that gives the reason a job is where it is; it shares its work among jobs of one moment."""
    room: Room | None = None
    known: dict[tuple[int, int, tuple[str, ...], Verdict | None], str] = {}

    def reason(job: Job) -> str:
        nonlocal room
        if job.state is not JobState.QUEUED:
            return job.reason
        array = state.arrays.get(job.number)
        if array is not None:  # it never stands in the queue itself: its first waiting task says why
            job = next(task for task in state.tasks(array) if task.state is JobState.QUEUED)
        waits_for = before_the_queue(state, job)
        if waits_for is not None:
            return waits_for
        verdict = cycle.verdict_of(state, job)
        alone = verdict is not None and verdict.hindrance is Hindrance.CLAIM  # others make way for it only
        key = (job.shape, job.number if alone else 0, job.avoid, verdict)
        if key not in known:
            room = room or Room(state, now_us)
            known[key] = sentence(state, cycle, room, job, verdict)
        return known[key]

    return reason


def before_the_queue(state: State, job: Job) -> str | None:
    """Why a queued job does not stand in the queue, None when it does."""
    if job.number in state.doomed:
        return state.doomed[job.number]
    if job.held:
        return "held: it starts only after a release"
    if job.begin_pending:
        return f"waits for its begin time {moment(job.begin_at_us)}" + (f" ({job.reason})" * bool(job.reason))
    if job.unmet:
        return "waits for what it depends on: " + ", ".join(open_dependencies(state, job))
    if job.allocation_state is not None:
        return "waits until every process of its last attempt is gone"
    return None


def open_dependencies(state: State, job: Job) -> list[str]:
    """The conditions that do not hold yet, and how the jobs they are on are."""
    found = []
    for dependency in job.spec.depends_on:
        other = state.jobs[dependency.job_id]
        if dependencies.verdict(other, dependency.kind) is None:
            found.append(f"{dependency.kind} of job {other.number}, which is {other.state}")
    return found


def sentence(state: State, cycle: Cycle, room: Room, job: Job, verdict: Verdict | None) -> str:
    """Why a job that stands in the queue did not start."""
    shape = state.shapes[job.shape]
    request = state.requests[shape.request]
    if not any(not node.lost for node in state.nodes.values()):
        return "waits for nodes: none has joined the cluster"
    if not state.cluster.nodes_for(shape.request):
        return never(state, room.plan, shape.request)
    if verdict is None:
        return _not_looked_at(state, cycle, job)
    match verdict.hindrance:
        case Hindrance.QUOTA:
            share = state.shares[verdict.share]
            held, holds = max(verdict.held, share.gpus_held), "holds"
            if held > share.gpus_held:
                holds = "holds or is promised"
            return (
                f"waits for the quota of {share.path}: it {holds} {held} of at most "
                f"{share.max_gpus} GPUs, and the job asks for {request.gpu_count}"
            )
        case Hindrance.ARRAY:
            array = state.arrays[shape.array]
            assert array.job.spec.array is not None
            limit = array.job.spec.array.limit
            held, hold = max(verdict.held, array.active), "hold resources"
            if held > array.active:
                hold = "hold resources or are promised them"
            return f"waits for its array: {held} of at most {limit} tasks {hold}"
        case Hindrance.CLAIM:
            claim = state.claims.get(job.number)
            numbers = [state.jobs[id].number for id in claim.victims] if claim else []
            return "waits for jobs that make way for it" + (f": {_listed(numbers)}" if numbers else "")
        case Hindrance.NEVER | Hindrance.CLOSED:
            return f"waits for {asked(request)}: the nodes that could hold it take no work now"
        case Hindrance.ROOM | Hindrance.PLANNED:
            return _no_room(state, room, job, verdict)


def _not_looked_at(state: State, cycle: Cycle, job: Job) -> str:
    if cycle.last > 0:
        first = state.numbered[cycle.last - 1]
        return f"waits for job {first.number}: the policy is strict, and nothing passes the first that waits"
    if cycle.last < 0:
        return "waits for its turn: the last cycle did not look so far down the queue"
    return "waits for its turn: no cycle has looked at it since it came"


def _no_room(state: State, room: Room, job: Job, verdict: Verdict) -> str:
    shape = state.shapes[job.shape]
    request = state.requests[shape.request]
    counts = survey(state, room.plan, job)
    nodes = state.cluster.nodes_for(shape.request)
    where = "on one node" if nodes == 1 else f"spread over {nodes} nodes"
    if counts["fits"] >= nodes:
        withheld = room.withheld(job, verdict)
        return f"waits for {asked(request)} {where}: {withheld}" if withheld else NEXT_CYCLE
    if counts["reserved"] and not counts["fits"]:
        nodes_are, assumed_s = _are(counts["reserved"], "node"), state.policy.assumed_time_limit_s
        assumed = f", for it has no time limit and so is taken to need {span(assumed_s)}"
        return (
            f"waits for {asked(request)} {where}: {nodes_are} free only until booked or planned for others, "
            f"before it would end{'' if job.time_limit_s else assumed}"
        )
    return f"waits for {asked(request)} {where}: {offer(request, room.plan.offer(shape.request), 'free')}"


def planned(count: int) -> str:
    return "1 job planned" if count == 1 else f"{count} jobs planned"


def _are(count: int, noun: str) -> str:
    return f"1 {noun} is" if count == 1 else f"{count} {noun}s are"


def _listed(numbers: list[int], most: int = 5) -> str:
    shown = ", ".join(map(str, numbers[:most]))
    return shown if len(numbers) <= most else f"{shown} and {len(numbers) - most} more"


def survey(state: State, plan: Plan, job: Job) -> dict[str, int]:
    """Nodes by the first reason why the job's largest part does not fit there now."""
    duration_us = (job.time_limit_s or state.policy.assumed_time_limit_s) * 1_000_000
    return dict(zip(VERDICTS, plan.survey(state.shapes[job.shape].request, duration_us), strict=True))


# --- requests -------------------------------------------------------------------------------------------


def never(state: State, plan: Plan, request_number: int) -> str:
    """That this cluster can never hold a request, and what it lacks."""
    request = state.requests[request_number]
    return f"asks for {asked(request)}, more than this cluster has: {_missing(state, plan, request_number)}"


def _missing(state: State, plan: Plan, number: int) -> str:
    """What an empty cluster lacks: nodes it may use, GPUs, nodes enough, or room on one of them."""
    request = state.requests[number]
    nodes, total, most = there = plan.offer(number, True)
    if not nodes:
        return "no node may be used for it"
    if total < request.gpu_count:
        return offer(request, there, "there")
    if request.nodes > nodes:
        return f"it wants {request.nodes} nodes, and {nodes} may be used for it"
    parts = max(1, request.nodes)
    wanted = [f"{-(-request.gpu_count // parts)} GPUs"] if request.gpu_count else []
    wanted += [f"{-(-request.cpu_cores // parts)} cores"] if request.cpu_cores else []
    wanted += [f"{-(-request.memory_mib // parts) / 1024:g} GB"] if request.memory_mib else []
    where = "on one node" if request.nodes < 2 else f"on each of {request.nodes} nodes"
    return (
        f"it wants {', '.join(wanted)} {where}; one node has at most {', '.join(_most(state, request, most))}"
    )


def _most(state: State, request: Request, most: int) -> list[str]:
    """The most that one node has of each thing asked for."""
    inventories = [node.inventory for node in state.nodes.values() if not node.lost]
    has = [f"{most} such GPUs"] if request.gpu_count else []
    has += [f"{max(one.cpu_cores for one in inventories)} cores"] if request.cpu_cores else []
    has += [f"{max(one.memory_mib for one in inventories) / 1024:g} GB"] if request.memory_mib else []
    return has


def offer(request: Request, offered: tuple[int, int, int], word: str) -> str:
    """What the nodes that the request admits have, all together and at most on one."""
    nodes, total, most = offered
    if not nodes:
        return "no node may be used for it now"
    if request.gpu_count:
        return f"{total} such GPUs are {word}, at most {most} on one node"
    return f"at most {most} cores are {word} on one node"


def asked(request: Request) -> str:
    """A request in words."""
    wanted = []
    if request.gpu_count:
        kind = f" {request.gpu_type}" if request.gpu_type else ""
        memory = f" with {request.gpu_memory_mib / 1024:g} GB" if request.gpu_memory_mib else ""
        wanted.append(f"{request.gpu_count}{kind} GPU{'s' * (request.gpu_count != 1)}{memory}")
    if request.cpu_cores:
        wanted.append(f"{request.cpu_cores} core{'s' * (request.cpu_cores != 1)}")
    if request.memory_mib:
        wanted.append(f"{request.memory_mib / 1024:g} GB of memory")
    if request.constraints:
        wanted.append("nodes with " + ", ".join(f"{key}={value}" for key, value in request.constraints))
    if request.exclusive:
        wanted.append("whole nodes for itself")
    return ", ".join(wanted)
