"""``GET /jobs``: the jobs that match, newest first, page by page.

A list is for people, and nobody reads a hundred thousand tasks of one array. So unless they are asked for,
tasks that wait and tasks that have ended are not listed one by one: their array stands for them.

Every list of jobs is walked in slices, so that a long one never keeps the engine waiting. The cursor holds
the number to go on below and the total counted for the first page, sealed together with the filters.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from struct import Struct as Packer
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from horizon.api.answers import encoded, hidden_in, is_array, job_answer, page
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.problems import Fault, Problem, invalid
from horizon.core import limits
from horizon.core.at_rest import Numbered, entries, mark
from horizon.core.model import JobState, Priority
from horizon.core.state import Job, Share, State

C = TypeVar("C", JobState, Priority)

SCAN_SLICE: Final = 4_000
"""Jobs looked at before others get their turn; about a millisecond."""
AT_REST_SLICE: Final = 1_000
"""The same, where some of them may have to be decoded for it."""
PAGE_DEFAULT: Final = 100

_STATES: Final = {state.value.lower(): state for state in JobState}
_PRIORITIES: Final = {priority.value.lower(): priority for priority in Priority}
_CURSOR: Final = Packer(">QQ")
_SEAL_BYTES: Final = 8
_ALIVE: Final = frozenset({JobState.SCHEDULED, JobState.RUNNING})
"""Jobs in these hold something, so they are found without looking at all the others."""
_SINGLY: Final = frozenset({*_ALIVE, JobState.PREEMPTED})
"""Tasks in these are always listed one by one: no more than the cluster has room for."""


class ListQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Filters; a job must match all that are given."""

    state: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"enum": [state.value for state in JobState]})]],
        Meta(description="Any of these; repeated or with commas, in any case."),
    ] = []
    priority: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"enum": [priority.value for priority in Priority]})]],
        Meta(description="Any of these; repeated or with commas, in any case."),
    ] = []
    user_id: Annotated[str, Meta(min_length=1)] | None = None
    account: Annotated[str, Meta(min_length=1, description="This one and all below it.")] | None = None
    label: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="key=value, or key for any value; all of these."),
    ] = []
    name: Annotated[str, Meta(min_length=1, description="The job_name, exactly.")] | None = None
    array: (
        Annotated[str, Meta(min_length=1, description="Only tasks of this array, by its number or id.")]
        | None
    ) = None
    tasks: (
        Annotated[
            bool,
            Meta(
                description="Every task of an array, not the array; so if an array is given. Otherwise the "
                "array stands for those of its tasks that wait or have ended, also if a state is asked for."
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=limits.PAGE_JOBS_MAX)] = PAGE_DEFAULT
    cursor: Annotated[str, Meta(description="next_cursor of the page before.")] | None = None


class Filters(Struct, frozen=True, array_like=True):
    """The filters as they are meant, in one spelling."""

    states: tuple[JobState, ...]
    priorities: tuple[Priority, ...]
    user_id: str | None
    account: str | None
    labels: tuple[str, ...]
    name: str | None
    array: int
    """The number of the array whose tasks are meant, 0 for all jobs."""
    every_task: bool
    """Whether no array stands for its tasks."""

    @property
    def only_states(self) -> bool:
        """Whether the state's own counts tell the total."""
        return not (self.priorities or self.user_id or self.account or self.labels or self.name)


class Found(NamedTuple):
    jobs: list[Job]
    """One more than the page has room for, when there is one."""
    total: int


async def list_jobs(context: Context, request: web.Request, query: ListQuery) -> web.Response:
    state = context.state
    filters = filters_of(query, _array_of(context, query.array))
    below, total = open_cursor(context.cursor_key, filters, query.cursor)
    found = await find(state, filters, query.limit + 1, below, total)
    jobs = found.jobs[: query.limit]
    blobs = await context.blobs_of(jobs)
    reason = context.reasons(state)
    rows = await encoded(jobs, lambda job: job_answer(job, state, hidden_in(job, state, blobs), reason(job)))
    cursor = None
    if len(found.jobs) > query.limit:
        cursor = seal_cursor(context.cursor_key, filters, jobs[-1].number, found.total)
    return page("jobs", rows, total=found.total, next_cursor=cursor)


# --- filters ------------------------------------------------------------------------------------------


def _array_of(context: Context, text: str | None) -> int:
    if text is None:
        return 0
    try:
        job = context.find_job(text)
    except Problem as problem:
        raise invalid([Fault(problem.answer.detail, parameter="array")]) from None
    if not is_array(job):
        raise invalid([Fault(f"job {job.name} is no array", parameter="array")])
    return job.number


def filters_of(query: ListQuery, array: int) -> Filters:
    return Filters(
        _choices(query.state, _STATES, "state"),
        _choices(query.priority, _PRIORITIES, "priority"),
        query.user_id,
        query.account,
        tuple(sorted(set(query.label))),
        query.name,
        array,
        bool(array) if query.tasks is None else query.tasks,
    )


def _choices(given: list[str], known: dict[str, C], parameter: str) -> tuple[C, ...]:
    """What was meant, each once, in the order of ``known``."""
    texts = {text.strip().lower() for texts in given for text in texts.split(",")}
    unknown = sorted(texts - known.keys())
    if unknown:
        allowed = ", ".join(choice.value for choice in known.values())
        raise invalid(
            Fault(f"there is no {parameter} {clipped(text)!r}; there are {allowed}", parameter=parameter)
            for text in unknown
        )
    return tuple(choice for text, choice in known.items() if text in texts)


def matcher(state: State, filters: Filters) -> Callable[[Job], bool]:
    """A test for one job, made of the filters that are there."""
    tests: list[Callable[[Job], bool]] = []
    if state.arrays and filters.every_task:
        tests.append(lambda job: not is_array(job))
    if filters.states:
        tests.append(_state_test(state, frozenset(filters.states)))
    if filters.priorities:
        priorities = frozenset(filters.priorities)
        tests.append(lambda job: job.priority in priorities)
    if (user_id := filters.user_id) is not None:
        tests.append(lambda job: job.spec.user_id == user_id)
    if filters.account is not None:
        below = filters.account + "/"
        tests.append(lambda job: f"{job.spec.account}/".startswith(below))
    if (name := filters.name) is not None:
        tests.append(lambda job: job.spec.job_name == name)
    tests += [_label_test(label) for label in filters.labels]
    if len(tests) == 1:  # the usual ones, and they see every job there is
        return tests[0]
    return lambda job: all(test(job) for test in tests)


def _state_test(state: State, states: frozenset[JobState]) -> Callable[[Job], bool]:
    if not state.arrays:
        return lambda job: job.state in states
    stood_for = states - _SINGLY
    arrays = state.arrays

    def test(job: Job) -> bool:
        if is_array(job):
            counts = arrays[job.number].counts
            return any(counts[one] for one in stood_for)
        return job.state in states

    return test


def _label_test(label: str) -> Callable[[Job], bool]:
    key, separator, value = label.partition("=")
    if separator:
        return lambda job: job.spec.labels.get(key) == value
    return lambda job: key in job.spec.labels


# --- finding ------------------------------------------------------------------------------------------


async def find(state: State, filters: Filters, limit: int, below: int | None, total: int | None) -> Found:
    """Up to ``limit`` matching jobs below a number, newest first, and the total unless it is known.

    O(jobs) while the total has to be counted, else O(jobs passed).
    """
    candidates = _candidates(state, filters)
    if total is None and filters.only_states:
        total = _count(state, filters)
    matches = matcher(state, filters)
    found: list[Job] = []
    matched = 0
    begin = len(candidates)
    if below is not None and total is not None:
        begin = bisect_left(candidates, below, key=_number)
    step, keep = (SCAN_SLICE, None) if type(candidates) is list else (AT_REST_SLICE, _sieve(state, filters))
    for end in range(begin, 0, -step):
        part, counted = candidates[max(0, end - step) : end], False
        if keep is not None and isinstance(part, Numbered):
            part = part.sifted(keep)
            if total is None and not (filters.labels or filters.name):  # the sieve has told all there is
                matched += sum(isinstance(one, int) or matches(one) for one in entries(part))
                counted = True
        some: Iterator[Job] = filter(matches, reversed(part))
        if total is None and not counted:  # count them all, and keep those that fit on the page
            all_of_them = list(some)
            matched += len(all_of_them)
            some = iter(all_of_them)
        if below is not None:
            some = (job for job in some if job.number < below)
        found.extend(islice(some, limit - len(found)))
        if total is not None and len(found) == limit:
            break
        await asyncio.sleep(0)
    return Found(found, matched if total is None else total)


def _sieve(state: State, filters: Filters) -> Callable[[int], bool]:
    """Whether a job at rest, by its number, is worth decoding: what columns tell of it speaks for it."""
    assert isinstance(state.numbered, Numbered)
    columns = state.numbered.at_rest.columns
    marks, owners = columns.marks, columns.owners
    states, priorities = filters.states or tuple(JobState), filters.priorities or tuple(Priority)
    wanted = frozenset(mark(one, priority) for one in states for priority in priorities)
    if filters.user_id is None and filters.account is None:
        return lambda number: marks[number - 1] in wanted
    shares = frozenset(share.id for share in state.shares if _may_own(share, filters))
    return lambda number: owners[number - 1] in shares and marks[number - 1] in wanted


def _may_own(share: Share, filters: Filters) -> bool:
    user = filters.user_id is None or share.user_id == filters.user_id
    return user and (filters.account is None or f"{share.account}/".startswith(filters.account + "/"))


def _candidates(state: State, filters: Filters) -> Sequence[Job]:
    """The jobs that may match, oldest first."""
    if filters.array and filters.every_task:
        return state.tasks(state.arrays[filters.array])
    if filters.array:
        return _single_tasks(state).get(filters.array, [])
    if filters.states and _ALIVE.issuperset(filters.states):
        return sorted(state.holding.values(), key=_number)
    if state.arrays and not filters.every_task:
        return _without_tasks(state)
    return state.numbered


def _without_tasks(state: State) -> list[Job]:
    """All jobs but the tasks that their arrays stand for. O(jobs that are no tasks): they are copied.

    So a list costs nothing for the hundreds of thousands of tasks that arrays have had.
    """
    single = _single_tasks(state)
    jobs = state.numbered[:0]  # a list in which jobs at rest need not be decoded
    begin = 0
    for number, array in state.arrays.items():
        jobs += state.numbered[begin:number]
        jobs += single.get(number, ())
        begin = number + array.total
    jobs += state.numbered[begin:]
    return jobs


def _single_tasks(state: State) -> dict[int, list[Job]]:
    """The tasks that are listed one by one, in order, by their array. O(jobs that hold something)."""
    single: dict[int, list[Job]] = {}
    for job in sorted(state.holding.values(), key=_number):
        if job.array and job.state in _SINGLY:
            single.setdefault(job.array, []).append(job)
    return single


def _number(job: Job) -> int:
    return job.number


def _count(state: State, filters: Filters) -> int:
    """How many jobs match when only states are asked for. O(arrays)."""
    states = filters.states or tuple(JobState)
    if filters.array:
        counts = state.arrays[filters.array].counts
        return sum(counts[one] for one in states if filters.every_task or one in _SINGLY)
    total = sum(state.counts[one] for one in states)
    if filters.every_task:
        return total
    stood_for = [one for one in states if one not in _SINGLY]
    for array in state.arrays.values():
        tasks = sum(array.counts[one] for one in stood_for)
        total += (tasks > 0 or not filters.states) - tasks
    return total


# --- the cursor ---------------------------------------------------------------------------------------


def seal_cursor(key: bytes, filters: Filters, below: int, total: int) -> str:
    content = _CURSOR.pack(below, total)
    return base64.urlsafe_b64encode(content + _seal(key, filters, content)).decode()


def open_cursor(key: bytes, filters: Filters, cursor: str | None) -> tuple[int | None, int | None]:
    """The number to go on below, and the total; nothing for the first page."""
    if cursor is None:
        return None, None
    try:
        data = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        data = b""
    content, seal = data[: _CURSOR.size], data[_CURSOR.size :]
    if not hmac.compare_digest(seal, _seal(key, filters, content)):
        detail = "expired or unknown cursor, or one of other filters: begin again without it"
        raise invalid([Fault(detail, parameter="cursor")])
    below, total = _CURSOR.unpack(content)
    return below, total


def _seal(key: bytes, filters: Filters, content: bytes) -> bytes:
    whole = content + msgspec.json.encode(filters)
    return hashlib.blake2b(whole, digest_size=_SEAL_BYTES, key=key).digest()
