"""Takes submissions in: the jobs and tasks they make, and what these are filed under. For ``evolve`` only."""

from __future__ import annotations

import copy
from array import array as column
from collections.abc import Callable
from heapq import heappush
from typing import Any, Final

from msgspec.structs import force_setattr

from horizon.core import events as ev
from horizon.core.charges import rate_of
from horizon.core.dependencies import wait_for
from horizon.core.inventory import number_in
from horizon.core.model import QUEUED, JobSpec, JobState
from horizon.core.state import ArrayState, Job, Request, Shape, Share, State


def new_job(
    event: ev.JobSubmitted, correlation_id: bytes, at_us: int, share: int = -1, shape: int = -1
) -> Job:
    """The job, or the array, that a submission makes."""
    spec = event.spec
    return Job(
        event.job_id,
        event.number,
        spec,
        correlation_id,
        at_us,
        spec.priority,
        spec.time_limit_s,
        share,
        shape,
        spec.hold,
        spec.begin_at_us,
        spec.begin_at_us > at_us,
    )


def task_ids(array_id: str) -> Callable[[int], str]:
    """The ids of an array's tasks by place, from 0: the array's id, counted on in its random bits."""
    begin, first = array_id[:24], int(array_id[24:], 16) + 1
    return lambda place: f"{begin}{(first + place) % 281_474_976_710_656:012x}"


def admit(state: State, recorded: ev.Recorded, event: ev.JobSubmitted) -> None:
    """Files the job, or the array with its tasks, that was submitted. O(1), or O(tasks)."""
    spec = event.spec
    share = state.users.get((spec.account, spec.user_id)) or user_share(state, spec.account, spec.user_id)
    limited = event.number if spec.array is not None and spec.array.limit else 0
    shape = shape_of(state, spec, spec.time_limit_s, share.parent, limited)
    share_values(spec, share)
    job = new_job(event, recorded.correlation_id, recorded.recorded_at_us, share.id, shape)
    job.positions = [recorded.position]
    assert event.number == len(state.numbered) + 1, "job numbers have a gap"
    state.jobs[job.id] = job
    state.numbered.append(job)
    if spec.depends_on:
        wait_for(state, job)
    if job.begin_pending:
        heappush(state.begins, (spec.begin_at_us, job.number))
    if spec.array is not None:
        _add_tasks(state, job)
        return
    state.counts[QUEUED] += 1
    if not (job.held or job.begin_pending or job.unmet):
        state.queue.enqueue(job.number, job.priority.rank, job.share, job.shape)


def share_values(spec: JobSpec, share: Share) -> None:
    """Has equal values of many jobs be one in memory: its owner's names, and empty dicts. O(1)."""
    force_setattr(spec, "user_id", share.user_id)
    force_setattr(spec, "account", share.account)
    if not spec.labels:
        force_setattr(spec, "labels", _NOTHING)
    if not spec.constraints:
        force_setattr(spec, "constraints", _NOTHING)


_NOTHING: Final[dict[str, str]] = {}


def _add_tasks(state: State, job: Job) -> None:
    """Makes the tasks of an array: jobs like it that follow it in number. O(tasks)."""
    assert job.spec.array is not None
    indices = [index for one in job.spec.array.ranges for index in one.indices]
    array = ArrayState(job, dict.fromkeys(JobState, 0), job.number + 1, len(indices))
    state.arrays[job.number] = array
    id_of = task_ids(job.id)
    for place, index in enumerate(indices):
        task = copy.copy(job)
        task.id = id_of(place)
        task.number = array.first + place
        task.array, task.index = job.number, index
        task.positions = job.positions.copy()
        state.jobs[task.id] = task
        state.numbered.append(task)
    array.counts[QUEUED] = len(indices)
    state.counts[QUEUED] += len(indices)
    if job.eligible:
        state.queue.enqueue_many(
            column("q", range(array.first, array.first + array.total)),
            column("b", [job.priority.rank]) * array.total,
            column("i", [job.share]) * array.total,
            column("i", [job.shape]) * array.total,
        )


def shape_of(state: State, spec: JobSpec, time_limit_s: int, account: int, array: int) -> int:
    """The shape of such a job, a new one when there is none like it yet. One look finds nearly all."""
    fields = (
        spec.gpu_count,
        spec.gpu_type,
        spec.gpu_memory_mib,
        spec.cpu_cores,
        spec.memory_mib,
        spec.nodes,
        spec.exclusive,
        tuple(sorted(spec.constraints.items())) if spec.constraints else (),
        time_limit_s,
        account,
        array,
    )
    found = state.shape_index.ids.get(fields)
    if found is not None:
        return found
    request = _request(state, fields[:8])
    rate = rate_of(state.policy, spec.gpu_count, spec.gpu_type, spec.cpu_cores, spec.memory_mib)
    found = state.shape_index.ids[fields] = state.queue.add_shape(rate)
    state.shapes.append(Shape(request, time_limit_s, account, array))
    state.shape_index.rates.append(rate)
    state.shape_index.of[request].append(found)
    if spec.gpu_count:
        state.shape_index.with_gpus.append(found)
    return found


def _request(state: State, fields: tuple[Any, ...]) -> int:
    """The number of a request for all this, a new one when there is none yet."""
    found = state.shape_index.request_ids.get(fields)
    if found is not None:
        return found
    request = Request(*fields)
    gpu_type = -1 if request.gpu_type is None else number_in(state.terms.gpu_types, request.gpu_type.lower())
    labels = [number_in(state.terms.labels, pair) for pair in request.constraints]
    found = state.cluster.add_request(*request.in_terms(gpu_type, labels))
    state.shape_index.request_ids[fields] = found
    state.requests.append(request)
    state.shape_index.of.append(column("i"))
    return found


def _add_share(state: State, path: str, user: bool, parent: int) -> Share:
    account, _, user_id = path.rpartition("/") if user else (path, "", "")
    share = Share(state.queue.add_share(parent), path, user, parent, account, user_id)
    state.shares.append(share)
    return share


def account_share(state: State, path: str) -> Share:
    """An account's share, new ones for those above it and for it when there is none yet."""
    share = state.accounts.get(path)
    if share is None:
        above, _, _ = path.rpartition("/")
        parent = account_share(state, above).id if above else 0
        share = state.accounts[path] = _add_share(state, path, False, parent)
    return share


def user_share(state: State, account: str, user_id: str) -> Share:
    """A user's share under an account, a new one when there is none yet."""
    known = state.users.get((account, user_id))
    if known is not None:
        return known
    parent = account_share(state, account)
    share = state.users[account, user_id] = _add_share(state, f"{account}/{user_id}", True, parent.id)
    return share
