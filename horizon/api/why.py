"""``GET /jobs/{id}/why``: why a job is where it is, or was at an earlier position or time of the log."""

from __future__ import annotations

from typing import Annotated, Final

from aiohttp import web
from msgspec import Meta, Struct

from horizon.api import times, wire
from horizon.api.answers import encode, json
from horizon.api.context import Context
from horizon.api.past import AtQuery
from horizon.api.problems import not_found
from horizon.core.model import DependencyKind, JobState, Priority
from horizon.core.state import Estimates
from horizon.core.why import Why, why

GPU_US: Final = 1_000_000


class AheadAnswer(Struct):
    """A job that comes before it in the order."""

    position: int
    number: int
    user_id: str
    account: str
    priority: Priority
    gpu_count: int
    owner_gpus_held: Annotated[int, Meta(description="What its owner holds now.")]


class ConditionAnswer(Struct):
    """Something it depends on."""

    number: int
    kind: DependencyKind
    state: JobState
    holds: Annotated[bool | None, Meta(description="Null while that is open.")]


class QuotaAnswer(Struct):
    """The bound of an account that it would break."""

    account: str
    max_gpus: int
    gpus_held: Annotated[int, Meta(description="With what is promised to jobs of it.")]
    gpus_asked: int


class ReservationAnswer(Struct):
    """When and where it is planned to start."""

    start_at: wire.Moment
    nodes: list[str]


class EstimatesAnswer(Struct):
    """How good the first planned starts of this cluster have been, against the actual ones."""

    total: int
    on_time: Annotated[int, Meta(description="Not later than planned.")]
    mean_early_s: float
    mean_late_s: float
    mean_ahead_s: Annotated[float, Meta(description="How long before the planned start it was planned.")]


class ChangeAnswer(Struct):
    """One thing that, were it otherwise, would let it start now, or others make way for it; or ever fit."""

    field: str
    value: str
    sentence: str


class HappeningAnswer(Struct):
    """Something that somebody, or another job, did to it."""

    at: wire.Moment
    what: str
    by: str
    reason: str
    lost_gpu_s: float


class WhyAnswer(Struct):
    """Why a job is where it is."""

    id: wire.JobId
    number: int
    state: JobState
    summary: Annotated[str, Meta(description="One sentence, for people.")]
    at_position: Annotated[int, Meta(description="The position of the log that this is as of.")]
    at: wire.Moment
    position: Annotated[int | None, Meta(description="Its place in the order, from 1.")]
    waiting: int
    ahead: Annotated[list[AheadAnswer], Meta(description="Those in front of it, the first ones.")]
    nodes: Annotated[
        dict[str, int],
        Meta(description="Nodes by the first reason why it does not fit there now."),
    ]
    quota: QuotaAnswer | None
    depends_on: list[ConditionAnswer]
    reservation: ReservationAnswer | None
    estimated_start: Annotated[
        wire.Moment | None,
        Meta(description="If all that run use their time limits and nothing else comes in between."),
    ]
    estimates: EstimatesAnswer
    changes: Annotated[list[ChangeAnswer], Meta(description="What would start it; the least change first.")]
    history: list[HappeningAnswer]


async def get_why(context: Context, request: web.Request, query: AtQuery) -> web.Response:
    job = context.find_job(request.match_info["id"])
    past = None if query.at is None else await context.past.at(request, query.at)
    if past is not None:
        then = past[0].jobs.get(job.id)
        if then is None:
            raise not_found(f"there was no job {job.number} yet, as of {query.at}")
        job = then
    events = await context.engine.store.read_at(job.positions)
    # Only now: while the events were read the present state went on, and its moment must not be before it.
    state, now_us = past or (context.state, context.now_us())
    return json(encode(_answer(why(state, job, events, now_us))))


def _answer(told: Why) -> WhyAnswer:
    return WhyAnswer(
        id=told.job_id,
        number=told.number,
        state=told.state,
        summary=told.summary,
        at_position=told.at_position,
        at=times.rfc3339(told.now_us),
        position=told.position,
        waiting=told.waiting,
        ahead=[
            AheadAnswer(
                one.position,
                one.number,
                one.user_id,
                one.account,
                one.priority,
                one.gpu_count,
                one.owner_gpus_held,
            )
            for one in told.ahead
        ],
        nodes={verdict: count for verdict, count in told.nodes.items() if count},
        quota=(
            None
            if told.quota is None
            else QuotaAnswer(
                told.quota.account, told.quota.max_gpus, told.quota.gpus_held, told.quota.gpus_asked
            )
        ),
        depends_on=[ConditionAnswer(one.number, one.kind, one.state, one.holds) for one in told.conditions],
        reservation=(
            None
            if told.reservation is None
            else ReservationAnswer(times.rfc3339(told.reservation.start_us), list(told.reservation.nodes))
        ),
        estimated_start=None if told.start_us is None else times.rfc3339(told.start_us),
        estimates=estimates_answer(told.estimates or Estimates()),
        changes=[ChangeAnswer(one.field, one.value, one.sentence) for one in told.changes],
        history=[
            HappeningAnswer(times.rfc3339(one.at_us), one.what, one.by, one.reason, one.lost_gpu_us / GPU_US)
            for one in told.history
        ],
    )


def estimates_answer(estimates: Estimates) -> EstimatesAnswer:
    early, late = sum(estimates.early), sum(estimates.late)
    return EstimatesAnswer(
        estimates.total,
        early,
        estimates.early_s / early if early else 0.0,
        estimates.late_s / late if late else 0.0,
        estimates.ahead_s / estimates.total if estimates.total else 0.0,
    )
