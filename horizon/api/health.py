"""Whether Horizon is alive, ready and well, and its metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import horizon
from horizon.api import wire
from horizon.api.answers import encode, json, slices
from horizon.api.cluster import NODE_SLICE
from horizon.api.context import Context
from horizon.api.problems import unavailable
from horizon.core.model import Priority
from horizon.core.state import Estimates, State, gpu_state, node_state
from horizon.store.port import StoreError

PING_S_MAX: Final = 2.0
ERROR_BITS: Final = 21
"""Buckets for errors of planned starts: up to 12 days."""


async def get_health(context: Context, request: web.Request) -> web.Response:
    engine, state = context.engine, context.latest
    store = await _store_trouble(context)
    why = store or _trouble(context)
    answer = wire.HealthAnswer(
        "unavailable" if why else "ok",
        why,
        engine.ready,
        _role(context),
        *_behind(context),
        store or "ok",
        state.epoch,
        state.position,
        None if engine.notary is None else engine.notary.size,
        len(state.numbered),
        sum(not node.lost for node in state.nodes.values()),
        horizon.__version__,
        (context.now_us() - context.started_us) / 1e6,
    )
    return json(encode(answer), 503 if why else 200)


async def get_live(context: Context, request: web.Request) -> web.Response:
    return json(encode(wire.LiveAnswer("ok")))


async def get_ready(context: Context, request: web.Request) -> web.Response:
    why = _trouble(context) or await _store_trouble(context)
    if why:
        raise unavailable(f"not ready: {why}", retry_after_s=1)
    return json(encode(wire.ReadyAnswer("ok", _role(context))))


def _role(context: Context) -> str:
    return "leader" if context.following is None else "standby"


def _behind(context: Context) -> tuple[int, float]:
    """Events, and seconds, that this scheduler's knowledge of the log may be old."""
    following = context.following
    if following is None:
        return 0, 0.0
    return following.follower.events_behind, following.follower.seconds_behind


def _trouble(context: Context) -> str | None:
    if (following := context.following) is not None:
        return following.trouble or None
    engine = context.engine
    if engine.stopped.done() and not engine.stopped.cancelled():
        return f"this scheduler has stopped leading: {engine.stopped.result()}"
    if engine.ready:
        return None
    if engine.folded is not None:
        done, total = engine.folded
        return f"the log is being read: {done:,} of {total:,} events"
    return engine.trouble or "this scheduler does not lead, or not yet, or its lease has run out"


async def _store_trouble(context: Context) -> str | None:
    try:
        async with asyncio.timeout(PING_S_MAX):
            await context.engine.store.ping()
    except StoreError as error:
        return str(error)
    except TimeoutError:
        return f"the store has not answered for {PING_S_MAX:g} s"
    return None


async def get_root(context: Context, request: web.Request) -> web.Response:
    answer = wire.RootAnswer("Horizon", horizon.__version__, "/api/v1", "/openapi.json", "/health")
    return json(encode(answer))


# --- metrics ------------------------------------------------------------------------------------------


async def get_metrics(context: Context, request: web.Request) -> web.Response:
    """What the engine counted, and what can be read off the state at this moment."""
    registry = CollectorRegistry()
    registry.register(_Readings(list(_readings(context)) + await _gpu_readings(context.latest)))
    body = generate_latest(context.engine.metrics.registry) + generate_latest(registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Readings(Collector):
    """Hands ready readings to the registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _readings(context: Context) -> Iterator[Metric]:
    state = context.latest
    jobs = GaugeMetricFamily("horizon_jobs", "Jobs by state", labels=["state"])
    for job_state, count in state.counts.items():
        jobs.add_metric([job_state.value], count)
    yield jobs
    depth = GaugeMetricFamily("horizon_queue_depth", "Jobs waiting to be started", labels=["priority"])
    waiting = state.queue.counts()
    for priority in Priority:
        depth.add_metric([priority.value], waiting[priority.rank])
    yield depth
    nodes = GaugeMetricFamily("horizon_nodes", "Nodes by state", labels=["state"])
    by_state = Counter(map(node_state, state.nodes.values()))
    for node_kind in wire.NODE_STATES:
        nodes.add_metric([node_kind], by_state[node_kind])
    yield nodes
    yield GaugeMetricFamily(
        "horizon_claims", "Waiting jobs for which others are being stopped", len(state.claims)
    )
    yield GaugeMetricFamily("horizon_bookings", "Bookings that are not over", len(state.bookings))
    yield GaugeMetricFamily("horizon_policy_version", "Version of the policy", state.policy_version)
    yield from _estimate_readings(state.estimates)
    yield GaugeMetricFamily(
        "horizon_inbox_depth", "Requests waiting for a decision", context.engine.inbox_jobs
    )
    yield GaugeMetricFamily("horizon_log_position", "Position of the last event", state.position)
    if context.engine.notary is not None:
        yield GaugeMetricFamily(
            "horizon_log_signed", "Position up to which the log is signed", context.engine.notary.size
        )
    yield GaugeMetricFamily("horizon_epoch", "Term of the leader", state.epoch)
    yield GaugeMetricFamily("horizon_leading", "Whether this scheduler leads", context.engine.ready)
    role, (events, seconds) = _role(context), _behind(context)
    yield GaugeMetricFamily("horizon_standby", "Whether this scheduler follows another", role == "standby")
    yield GaugeMetricFamily("horizon_lag_events", "Events of the log that a standby has yet to fold", events)
    yield GaugeMetricFamily("horizon_lag_seconds", "How old what a standby knows may be", seconds)


def _estimate_readings(estimates: Estimates) -> Iterator[Metric]:
    """How good planned starts were. The core keeps count by powers of two, which is what the buckets are."""
    errors = HistogramMetricFamily(
        "horizon_start_error_seconds",
        "Time between the first planned start of a job and its start, by which came first",
        labels=["start"],
    )
    for label, counts, sum_s in (
        ("early", estimates.early, estimates.early_s),
        ("late", estimates.late, estimates.late_s),
    ):
        buckets = [(str(2.0**bits - 1), sum(counts[: bits + 1])) for bits in range(ERROR_BITS)]
        errors.add_metric([label], [*buckets, ("+Inf", sum(counts))], sum_s)
    yield errors
    yield CounterMetricFamily(
        "horizon_start_planned_ahead_seconds",
        "Sum of how long before their planned start those jobs had it planned",
        estimates.ahead_s,
    )


async def _gpu_readings(state: State) -> list[Metric]:
    """GPUs by type; walked in slices, for there may be many."""
    counts: dict[tuple[str, str], int] = {}
    async for some in slices(list(state.nodes.values()), NODE_SLICE):
        for node in some:
            for device in node.inventory.devices:
                id = state.devices.holders.get(device.uuid)
                holder = None if id is None else state.jobs[id]
                kind = gpu_state(node, device.uuid in state.devices.failed, holder)
                counts[device.gpu_type, kind] = counts.get((device.gpu_type, kind), 0) + 1
    gpus = GaugeMetricFamily("horizon_gpus", "GPUs by type and state", labels=["gpu_type", "state"])
    for gpu_type in sorted({gpu_type for gpu_type, _ in counts}):
        for kind in wire.GPU_STATES:
            gpus.add_metric([gpu_type, kind], counts.get((gpu_type, kind), 0))
    return [gpus]
