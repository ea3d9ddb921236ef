"""What the engine counts and times, for Prometheus. What can be read off the state is not kept here."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from horizon.core.events import JobPreempted, Recorded

_CYCLE_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_WAIT_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 6 * 3_600.0, 86_400.0, 7 * 86_400.0)


class EngineMetrics:
    """One registry per engine, so that two in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._cycles = Histogram(
            "horizon_cycle_seconds", "Time of a scheduling cycle", registry=self.registry, buckets=_CYCLE_S
        )
        self._examined = Counter(
            "horizon_jobs_examined", "Jobs looked at by scheduling cycles", registry=self.registry
        )
        self._waits = Histogram(
            "horizon_wait_seconds",
            "Time from a job's submission to its placement",
            registry=self.registry,
            buckets=_WAIT_S,
        )
        self._events = Counter(
            "horizon_events_appended", "Events appended to the log", registry=self.registry
        )
        self._appends = Counter("horizon_appends", "Appends to the log", registry=self.registry)
        self._preempted = Counter(
            "horizon_jobs_preempted", "Jobs that made way for others", registry=self.registry
        )
        self._lost = Counter(
            "horizon_preempted_gpu_seconds_lost",
            "GPU-seconds of work lost by preemptions, since a start or a checkpoint",
            registry=self.registry,
        )

        self._oldest = Gauge(
            "horizon_oldest_transaction_seconds",
            "How long the oldest transaction that keeps vacuum from the log's database has been seen open",
            registry=self.registry,
        )

    def cycle(self, seconds: float, examined: int) -> None:
        self._cycles.observe(seconds)
        self._examined.inc(examined)

    def wait(self, wait_us: int) -> None:
        self._waits.observe(wait_us / 1e6)

    def oldest_transaction(self, seconds: float) -> None:
        self._oldest.set(seconds)

    def appended(self, recorded: tuple[Recorded, ...]) -> None:
        self._appends.inc()
        self._events.inc(len(recorded))
        for one in recorded:
            if type(one.event) is JobPreempted:
                self._preempted.inc()
                self._lost.inc(one.event.lost_gpu_us / 1e6)
