"""Every route there is, said once: the router and ``/openapi.json`` are both made from this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web
from msgspec import Struct

from horizon.api import (
    bookings,
    cluster,
    events,
    health,
    jobs,
    listing,
    logs,
    policy,
    shares,
    state,
    why,
    wire,
)
from horizon.api.past import AtQuery
from horizon.api.reading import JsonBody, Query

API: Final = "/api/v1"
Handler = Callable[..., Awaitable[web.StreamResponse]]
"""Takes the context and the request, and the query where the route has one."""

TEXT: Final = "text/plain"
JSON: Final = "application/json"


class Route(Struct, frozen=True):
    """One method on one path."""

    method: str
    path: str
    """As the router wants it: what is no id comes here too, to be told so."""
    handler: Handler
    summary: str
    answer: type[Struct] | str
    """What a success is: a struct, or a content type."""
    status: int = 200
    query: Query[Any] | None = None
    body: JsonBody[Any] | None = None
    refusals: tuple[int, ...] = ()
    """Problems that can be told of besides those that follow from the fields here."""
    versioned: bool = False
    """Whether the answer has an ETag."""
    conditional: bool = True
    """Whether a versioned one can be asked for on condition: ``If-Match``, ``If-None-Match``."""
    open: bool = False
    """Whether it is for everybody, without a token."""
    at_leader: bool = False
    """Whether a standby cannot answer it, though it changes nothing: it is about the leader's nodes."""

    @property
    def changes(self) -> bool:
        return self.method not in ("GET", "HEAD")


def _query(expected: type[Struct]) -> Query[Any]:
    return Query(expected)


def _change_of_job(
    method: str, path: str, handler: Handler, summary: str, asked: type[Struct] | JsonBody[Any]
) -> Route:
    """One that may be made on condition, is refused once the job has ended, and is answered with the job."""
    body, query = (asked, None) if isinstance(asked, JsonBody) else (None, Query(asked))
    return Route(
        method,
        path,
        handler,
        summary,
        wire.JobAnswer,
        query=query,
        body=body,
        refusals=(409, 412),
        versioned=True,
    )


ROUTES: Final = (
    Route(
        "POST",
        f"{API}/jobs",
        jobs.submit,
        "Submit a job",
        wire.JobAnswer,
        201,
        body=jobs.SUBMISSION,
        versioned=True,
    ),
    Route(
        "POST",
        f"{API}/jobs/batch",
        jobs.submit_batch,
        "Submit many jobs: all are taken or none",
        wire.BatchAnswer,
        201,
        body=jobs.BATCH,
    ),
    Route(
        "GET",
        f"{API}/jobs",
        listing.list_jobs,
        "List jobs, newest first",
        wire.JobPage,
        query=_query(listing.ListQuery),
    ),
    Route("GET", f"{API}/jobs/{{id:[^/]+}}", jobs.get_job, "Look at a job", wire.JobAnswer, versioned=True),
    _change_of_job("DELETE", f"{API}/jobs/{{id:[^/]+}}", jobs.cancel, "Cancel a job", wire.ReasonQuery),
    _change_of_job(
        "PATCH",
        f"{API}/jobs/{{id:[^/]+}}",
        jobs.change,
        "Change a job's priority or time limit; hold or release it",
        jobs.CHANGE,
    ),
    _change_of_job(
        "POST",
        f"{API}/jobs/{{id:[^/]+}}/requeue",
        jobs.requeue,
        "Stop a job's attempt: the job goes back to its place in the queue",
        wire.ReasonQuery,
    ),
    _change_of_job(
        "POST",
        f"{API}/jobs/{{id:[^/]+}}/erase",
        jobs.erase,
        "Erase the environment values and the script of a job that has ended",
        wire.ReasonQuery,
    ),
    Route(
        "POST",
        f"{API}/jobs/{{id:[^/]+}}/checkpoint",
        jobs.checkpoint,
        "A running job saved its work: a preemption loses only what comes after",
        wire.JobAnswer,
        query=_query(jobs.CheckpointQuery),
        refusals=(409,),
        versioned=True,
        conditional=False,
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id:[^/]+}}/why",
        why.get_why,
        "Why a job is where it is, and what would start it",
        why.WhyAnswer,
        query=_query(AtQuery),
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id:[^/]+}}/events",
        jobs.get_job_events,
        "A job's history",
        wire.JobEvents,
        refusals=(410,),
    ),
    Route(
        "GET",
        f"{API}/jobs/{{id:[^/]+}}/logs",
        logs.get_logs,
        "What a job wrote",
        TEXT,
        query=_query(logs.LogQuery),
        at_leader=True,
    ),
    Route(
        "GET",
        f"{API}/queue",
        cluster.get_queue,
        "How many jobs wait",
        wire.QueueAnswer,
        query=_query(AtQuery),
    ),
    Route(
        "GET",
        f"{API}/queue/order",
        cluster.get_order,
        "Who starts next",
        wire.OrderAnswer,
        query=_query(cluster.OrderQuery),
    ),
    Route("GET", f"{API}/nodes", cluster.get_nodes, "List nodes", wire.NodesAnswer, query=_query(AtQuery)),
    Route("GET", f"{API}/nodes/{{name:[^/]+}}", cluster.get_node, "Look at a node", wire.NodeAnswer),
    Route(
        "POST",
        f"{API}/nodes/{{name:[^/]+}}/cordon",
        cluster.cordon,
        "Start nothing on a node any more",
        wire.NodeAnswer,
        body=cluster.CORDON,
    ),
    Route(
        "POST",
        f"{API}/nodes/{{name:[^/]+}}/drain",
        cluster.drain,
        "Start nothing on a node any more, and see it emptied",
        wire.NodeAnswer,
        body=cluster.DRAIN,
    ),
    Route(
        "POST",
        f"{API}/nodes/{{name:[^/]+}}/resume",
        cluster.resume,
        "Let a node take work again",
        wire.NodeAnswer,
        query=_query(wire.ReasonQuery),
    ),
    Route(
        "GET",
        f"{API}/gpus",
        cluster.get_gpus,
        "List GPUs and who has them",
        wire.GpusAnswer,
        query=_query(cluster.GpuQuery),
    ),
    Route(
        "POST",
        f"{API}/gpus/{{uuid:[^/]+}}/fail",
        cluster.fail_gpu,
        "Use a GPU no more",
        wire.GpuAnswer,
        body=cluster.DEVICE_FAULT,
    ),
    Route(
        "POST",
        f"{API}/gpus/{{uuid:[^/]+}}/recover",
        cluster.recover_gpu,
        "Use a GPU again",
        wire.GpuAnswer,
        query=_query(wire.ReasonQuery),
    ),
    Route("GET", f"{API}/bookings", bookings.get_bookings, "List bookings of nodes", wire.BookingsAnswer),
    Route(
        "POST",
        f"{API}/bookings",
        bookings.make_booking,
        "Keep nodes free of jobs for a span of time",
        wire.BookingAnswer,
        201,
        body=bookings.BOOKING,
    ),
    Route(
        "GET",
        f"{API}/bookings/{{booking:[^/]+}}",
        bookings.get_booking,
        "Look at a booking",
        wire.BookingAnswer,
    ),
    Route(
        "DELETE",
        f"{API}/bookings/{{booking:[^/]+}}",
        bookings.end_booking,
        "Give the nodes of a booking back",
        wire.BookingAnswer,
        query=_query(wire.ReasonQuery),
    ),
    Route(
        "GET",
        f"{API}/policy",
        policy.get_policy,
        "What was chosen of how Horizon decides",
        wire.PolicyAnswer,
        versioned=True,
    ),
    Route(
        "PUT",
        f"{API}/policy",
        policy.put_policy,
        "Change the policy: what is left out keeps its value",
        wire.PolicyAnswer,
        body=policy.CHANGE,
        refusals=(412,),
        versioned=True,
    ),
    Route(
        "GET",
        f"{API}/shares",
        shares.get_shares,
        "The share tree",
        wire.SharesAnswer,
        query=_query(AtQuery),
    ),
    Route(
        "GET",
        f"{API}/shares/compare",
        shares.compare_shares,
        "Why one share's jobs go before another's",
        wire.ComparisonAnswer,
        query=_query(shares.CompareQuery),
        refusals=(404,),
    ),
    Route(
        "GET",
        f"{API}/shares/{{path:.+}}",
        shares.get_share,
        "Look at a share",
        wire.ShareAnswer,
        query=_query(shares.ShareQuery),
    ),
    Route(
        "PUT",
        f"{API}/shares/{{path:.+}}",
        shares.put_share,
        "Set a share's weight, an account's bounds: what is left out stays as it is",
        wire.ShareAnswer,
        body=shares.CHANGE,
    ),
    Route(
        "GET",
        f"{API}/state",
        state.get_state,
        "The whole system at a glance, as it is or was",
        state.StateAnswer,
        query=_query(state.StateQuery),
    ),
    Route(
        "GET",
        f"{API}/events",
        events.get_events,
        "Read the log",
        wire.EventPage,
        query=_query(events.EventsQuery),
        refusals=(410,),
    ),
    Route(
        "POST",
        f"{API}/log/archived",
        events.record_archive,
        "Put on record that a partition of the log is in a file",
        wire.ArchiveAnswer,
        201,
        body=events.ARCHIVE,
        refusals=(409,),
    ),
    Route(
        "GET",
        f"{API}/checkpoint",
        events.get_checkpoint,
        "The newest signed checkpoint of the log",
        TEXT,
        refusals=(404,),
    ),
    Route("GET", "/health", health.get_health, "How Horizon is", wire.HealthAnswer, open=True),
    Route("GET", "/livez", health.get_live, "Whether it runs", wire.LiveAnswer, open=True),
    Route("GET", "/readyz", health.get_ready, "Whether it can serve", wire.ReadyAnswer, open=True),
    Route("GET", "/metrics", health.get_metrics, "Metrics for Prometheus", TEXT),
    Route("GET", "/", health.get_root, "Where things are", wire.RootAnswer, open=True),
)
OPENAPI_PATH: Final = "/openapi.json"
OPEN_PATHS: Final = frozenset({route.path for route in ROUTES if route.open} | {OPENAPI_PATH})
