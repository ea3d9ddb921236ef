"""Whether Horizon is alive, ready and well, and its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import horizon
from horizon.api import wire
from horizon.api.answers import encode, json, slices
from horizon.api.context import Context
from horizon.api.problems import unavailable
from horizon.core.model import Priority
from horizon.core.state import State
from horizon.store.port import StoreError

PING_S_MAX: Final = 2.0
NODE_SLICE: Final = 50


async def get_health(context: Context, request: web.Request) -> web.Response:
    engine, state = context.engine, context.engine.state
    store = await _store_trouble(context)
    why = store or _engine_trouble(context)
    answer = wire.HealthAnswer(
        "unavailable" if why else "ok",
        why,
        engine.ready,
        store or "ok",
        state.epoch,
        state.position,
        len(state.numbered),
        sum(not node.lost for node in state.nodes.values()),
        horizon.__version__,
        (context.now_us() - context.started_us) / 1e6,
    )
    return json(encode(answer), 503 if why else 200)


async def get_live(context: Context, request: web.Request) -> web.Response:
    return json(encode(wire.ReadyAnswer("ok")))


async def get_ready(context: Context, request: web.Request) -> web.Response:
    why = _engine_trouble(context) or await _store_trouble(context)
    if why:
        raise unavailable(f"not ready: {why}", retry_after_s=1)
    return json(encode(wire.ReadyAnswer("ok")))


def _engine_trouble(context: Context) -> str | None:
    engine = context.engine
    if engine.stopped.done() and not engine.stopped.cancelled():
        return f"this scheduler has stopped leading: {engine.stopped.result()}"
    if engine.ready:
        return None
    return engine.trouble or "this scheduler does not lead, or not yet"


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
    registry.register(_Readings(list(_readings(context)) + await _gpu_readings(context.engine.state)))
    body = generate_latest(context.engine.metrics.registry) + generate_latest(registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Readings(Collector):
    """Hands ready readings to the registry."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _readings(context: Context) -> Iterator[Metric]:
    state = context.engine.state
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
    lost = sum(node.lost for node in state.nodes.values())
    nodes.add_metric(["up"], len(state.nodes) - lost)
    nodes.add_metric(["lost"], lost)
    yield nodes
    yield GaugeMetricFamily(
        "horizon_inbox_depth", "Requests waiting for a decision", context.engine.inbox_jobs
    )
    yield GaugeMetricFamily("horizon_log_position", "Position of the last event", state.position)
    yield GaugeMetricFamily("horizon_epoch", "Term of the leader", state.epoch)
    yield GaugeMetricFamily("horizon_leading", "Whether this scheduler leads", context.engine.ready)


async def _gpu_readings(state: State) -> list[Metric]:
    """GPUs by type; walked in slices, for there may be many."""
    counts: dict[tuple[str, str], int] = {}
    async for some in slices(list(state.nodes.values()), NODE_SLICE):
        for node in some:
            for device in node.inventory.devices:
                id = state.holders.get(device.uuid)
                kind = "lost" if node.lost else "free"
                if id is not None:
                    kind = str(state.jobs[id].allocation_state)
                counts[device.gpu_type, kind] = counts.get((device.gpu_type, kind), 0) + 1
    gpus = GaugeMetricFamily("horizon_gpus", "GPUs by type and state", labels=["gpu_type", "state"])
    for gpu_type in sorted({gpu_type for gpu_type, _ in counts}):
        for kind in ("free", "held", "releasing", "lost"):
            gpus.add_metric([gpu_type, kind], counts.get((gpu_type, kind), 0))
    return [gpus]
