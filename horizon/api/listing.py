"""``GET /jobs``: the jobs that match, newest first, page by page.

Every list of jobs is walked in slices, so that a long one never keeps the engine waiting. The cursor holds
the number to go on below and the total counted for the first page, sealed together with the filters.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from struct import Struct as Packer
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from horizon.api.answers import encoded, hidden_in, job_answer, page
from horizon.api.context import Context
from horizon.api.faults import clipped
from horizon.api.problems import Fault, invalid
from horizon.core import limits
from horizon.core.model import JobState, Priority
from horizon.core.state import Job, State

C = TypeVar("C", JobState, Priority)

SCAN_SLICE: Final = 4_000
"""Jobs looked at before others get their turn; about a millisecond."""
PAGE_DEFAULT: Final = 100

_STATES: Final = {state.value.lower(): state for state in JobState}
_PRIORITIES: Final = {priority.value.lower(): priority for priority in Priority}
_CURSOR: Final = Packer(">QQ")
_SEAL_BYTES: Final = 8
_ALIVE: Final = frozenset({JobState.SCHEDULED, JobState.RUNNING})
"""Jobs in these hold something, so they are found without looking at all the others."""


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
    filters = filters_of(query)
    below, total = open_cursor(context.cursor_key, filters, query.cursor)
    found = await find(state, filters, query.limit + 1, below, total)
    jobs = found.jobs[: query.limit]
    blobs = await context.blobs_of(job.spec for job in jobs)
    reason = context.reasons(state)
    rows = await encoded(jobs, lambda job: job_answer(job, hidden_in(job.spec, blobs), reason(job)))
    cursor = None
    if len(found.jobs) > query.limit:
        cursor = seal_cursor(context.cursor_key, filters, jobs[-1].number, found.total)
    return page("jobs", rows, total=found.total, next_cursor=cursor)


# --- filters ------------------------------------------------------------------------------------------


def filters_of(query: ListQuery) -> Filters:
    return Filters(
        _choices(query.state, _STATES, "state"),
        _choices(query.priority, _PRIORITIES, "priority"),
        query.user_id,
        query.account,
        tuple(sorted(set(query.label))),
        query.name,
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


def matcher(filters: Filters) -> Callable[[Job], bool]:
    """A test for one job, made of the filters that are there."""
    tests: list[Callable[[Job], bool]] = []
    if filters.states:
        states = frozenset(filters.states)
        tests.append(lambda job: job.state in states)
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
    if len(tests) == 1:
        return tests[0]
    return lambda job: all(test(job) for test in tests)


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
        total = sum(state.counts[one] for one in filters.states or JobState)
    matches = matcher(filters)
    found: list[Job] = []
    matched = 0
    for end in range(_begin(state, candidates, below, total), 0, -SCAN_SLICE):
        some: Iterator[Job] = filter(matches, reversed(candidates[max(0, end - SCAN_SLICE) : end]))
        if total is None:  # count them all, and keep those that fit on the page
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


def _begin(state: State, candidates: Sequence[Job], below: int | None, total: int | None) -> int:
    """How many candidates are to be looked at: all that are counted, else those below the cursor."""
    if below is None or total is None or candidates is not state.numbered:
        return len(candidates)
    return min(len(candidates), below - 1)


def _candidates(state: State, filters: Filters) -> Sequence[Job]:
    """The jobs that may match, oldest first."""
    if filters.states and _ALIVE.issuperset(filters.states):
        return sorted(state.holding.values(), key=lambda job: job.number)
    return state.numbered


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
