"""``GET /state``: the whole system at a glance, as it is or was."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable
from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Raw, Struct

from horizon.api import wire
from horizon.api.answers import encode, encoded, json
from horizon.api.bookings import booking_rows
from horizon.api.cluster import node_rows, order_of, queue_answer
from horizon.api.context import Context
from horizon.api.past import AtQuery
from horizon.api.problems import unavailable
from horizon.api.shares import share_rows
from horizon.api.times import rfc3339, rfc3339_or_null
from horizon.core.model import AllocationState, JobState, Priority
from horizon.core.policy import Policy
from horizon.core.state import Job, State, digested

WAITING_MAX: Final = 100
"""Of those that wait, so many are named; ``/queue/order`` has the others."""
DIGEST_SLICE_S: Final = 0.001
"""A digest is made for so long before others get their turn."""
DIGEST_TRIES_MAX: Final = 3
"""So many are begun of a state that lives and changes meanwhile."""


class StateQuery(AtQuery, frozen=True, forbid_unknown_fields=True):
    digest: Annotated[
        bool,
        Meta(
            description="Also of the present state: of the one in memory that decisions come from, as it is. "
            "503 if the log went on each time while it was made."
        ),
    ] = False


class HoldingAnswer(Struct):
    """A job that holds something: it runs, or is on its way in or out."""

    number: int
    id: wire.JobId
    array_number: wire.ArrayNumber
    array_index: wire.ArrayIndex
    user_id: str
    account: str
    job_name: str
    priority: Priority
    state: JobState
    attempt: int
    gpu_count: int
    scheduled_at: wire.Moment
    started_at: wire.Moment | None
    node_ids: list[str]
    gpu_ids: list[str]
    allocation_state: Annotated[
        AllocationState | None, Meta(description="Null: it was released at this moment.")
    ]


class StateAnswer(Struct):
    """The whole system as of one position of the log."""

    position: Annotated[int, Meta(description="Of the last event that counts.")]
    recorded_at: Annotated[wire.Moment | None, Meta(description="When that was recorded.")]
    at: Annotated[wire.Moment, Meta(description="The moment that shares and order are worked out for.")]
    epoch: int
    cycle: Annotated[int, Meta(description="The last one that decided anything.")]
    digest: Annotated[
        str | None,
        Meta(
            description="SHA-256 in hex over all that a decision can depend on; of the present state only "
            "when it is asked for."
        ),
    ]
    policy_version: int
    policy: Policy
    jobs: Annotated[dict[JobState, int], Meta(description="How many there are in each state.")]
    queue: wire.QueueAnswer
    waiting: Annotated[list[wire.Waiting], Meta(description="The first ones, in the order of starting.")]
    holding: Annotated[list[HoldingAnswer], Meta(description="Jobs that hold something.")]
    nodes: list[wire.NodeAnswer]
    shares: list[wire.ShareAnswer]
    bookings: list[wire.BookingAnswer]


async def get_state(context: Context, request: web.Request, query: StateQuery) -> web.Response:
    wanted = query.digest or query.at is not None
    for _ in range(DIGEST_TRIES_MAX):
        state, now_us = await context.as_of(request, query.at)
        digest = await _digest(state) if wanted else None
        if digest is not None or not wanted:  # nothing is awaited between a digest and what it is of
            return json(await state_body(state, now_us, digest))
    raise unavailable(
        "the log went on each time while a digest of the present state was made: ask again when less "
        "happens, or for that as of a position, with at=",
        1,
    )


async def _digest(state: State) -> str | None:
    """In slices; None when something has happened to the state meanwhile, as it may to one that lives."""
    position, hashing, began = state.position, hashlib.sha256(), time.perf_counter()
    for piece in digested(state):
        hashing.update(piece)
        if time.perf_counter() - began > DIGEST_SLICE_S:
            await asyncio.sleep(0)
            if state.position != position:
                return None
            began = time.perf_counter()
    return hashing.hexdigest()


async def state_body(state: State, now_us: int, digest: str | None) -> bytes:
    """A ``StateAnswer`` as JSON. What it counts is of this moment; long lists are made in slices, in which a
    state that lives may go on."""
    begun = {
        "position": state.position,
        "recorded_at": rfc3339_or_null(state.recorded_at_us),
        "at": rfc3339(now_us),
        "epoch": state.epoch,
        "cycle": state.cycle,
        "digest": digest,
        "policy_version": state.policy_version,
        "policy": state.policy,
        "jobs": dict(state.counts),
        "queue": queue_answer(state),
        "waiting": order_of(state, now_us, WAITING_MAX),
    }
    holding = await encoded(list(state.holding.values()), lambda job: encode(_holding(job)))
    lists = {
        "holding": holding,
        "nodes": await node_rows(state),
        "shares": await share_rows(state, now_us),
        "bookings": await booking_rows(state),
    }
    return encode(begun | {name: _array(rows) for name, rows in lists.items()})


def _array(rows: Iterable[bytes]) -> Raw:
    return Raw(b"[" + b",".join(rows) + b"]")


def _holding(job: Job) -> HoldingAnswer:
    spec = job.spec
    return HoldingAnswer(
        job.number,
        job.id,
        job.array or None,
        job.index if job.array else None,
        spec.user_id,
        spec.account,
        spec.job_name,
        job.priority,
        job.state,
        job.attempt,
        spec.gpu_count,
        rfc3339(job.scheduled_at_us),
        rfc3339_or_null(job.started_at_us),
        [placement.node for placement in job.allocation],
        [uuid for placement in job.allocation for uuid in placement.gpu_ids],
        job.allocation_state,
    )
