"""The policy: what an operator may choose of how Horizon decides. It is data, and its history is in the log.

Every cycle names the version it ran under, so that it can be run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from msgspec import Struct

from horizon.core import limits

UNLIMITED: Final = -1


class Order(StrEnum):
    """How the jobs of one priority follow each other."""

    FAIR = "fair"
    """Who used less for their weight goes first."""
    FIFO = "fifo"
    """Who came first goes first."""


class Policy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All choices, with what holds until someone chooses otherwise. Recorded in full, defaults included."""

    order: Order = Order.FAIR
    strict: bool = False
    """The first job that finds no room keeps all behind it waiting: no skipping, no backfill. Only what could
    never fit, or may not start yet, is passed."""
    reservation_depth: int = 16
    """How many of the first blocked jobs get a reservation that later jobs may not delay: 1 is EASY
    backfill, -1 for all conservative backfill, 0 none."""
    examined_max: int = 100_000
    """Jobs that one cycle looks at; those behind them wait for a later one."""
    patience_s: int = 86_400
    """Of the jobs of one priority that have waited this long the eldest goes first, whatever the shares say;
    0 lets nobody."""
    assumed_time_limit_s: int = 86_400
    """What planning takes for the run time of a job without a time limit. It stops no job."""
    half_life_s: int = 7 * 86_400
    """After this long usage counts half."""
    charge_ahead_s: int = 3_600
    """What is held now counts as if it had been held this much longer."""
    gpu_cost: dict[str, int] = {}
    """Cost of holding one GPU of a type, in thousandths; a type not named costs 1000."""
    cores_per_gpu: int = 16
    """Holding this many cores costs as much as a GPU."""
    memory_gb_per_gpu: int = 128
    """Holding this much memory costs as much as a GPU."""
    preemption: bool = True
    """Whether jobs may take devices from preemptible jobs of lower priority, and accounts below their
    guarantee from those above theirs."""
    min_runtime_s: int = 60
    """A running job is not preempted before it has run this long."""
    preemption_searches_max: int = 8
    """Blocked jobs per cycle for which victims are looked for."""
    retry_backoff_s: int = 1
    """A job that failed waits this long before its first retry, twice as long before each further one."""
    retry_backoff_max_s: int = 300
    topology_labels: tuple[str, ...] = ("switch", "rack")
    """Node labels that name what connects nodes, the nearest first: a gang keeps within one if it can."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What may not be: the field and what is wrong with it."""
        for field, lowest, highest in _BOUNDS:
            value: int = getattr(self, field)
            if not lowest <= value <= highest:
                yield field, f"must be {lowest} to {highest}, not {value}"
        if len(self.gpu_cost) > limits.GPU_COSTS_MAX:
            yield "gpu_cost", f"names {len(self.gpu_cost)} types; there may be {limits.GPU_COSTS_MAX}"
        for gpu_type, cost in self.gpu_cost.items():
            if not 1 <= cost <= limits.GPU_COST_MAX:
                yield "gpu_cost", f"of {gpu_type} must be 1 to {limits.GPU_COST_MAX}, not {cost}"
        if len({gpu_type.lower() for gpu_type in self.gpu_cost}) < len(self.gpu_cost):
            yield "gpu_cost", "names a type twice: capitals make no difference"
        if len(self.topology_labels) > limits.TOPOLOGY_LABELS_MAX:
            yield "topology_labels", f"there may be {limits.TOPOLOGY_LABELS_MAX}"


_BOUNDS: Final = (
    ("reservation_depth", UNLIMITED, limits.RESERVATIONS_MAX),
    ("examined_max", 1, limits.EXAMINED_MAX),
    ("patience_s", 0, limits.TIME_LIMIT_S_MAX),
    ("assumed_time_limit_s", 1, limits.TIME_LIMIT_S_MAX),
    ("half_life_s", 1, limits.HALF_LIFE_S_MAX),
    ("charge_ahead_s", 0, limits.HALF_LIFE_S_MAX),
    ("cores_per_gpu", 1, limits.CPU_CORES_MAX),
    ("memory_gb_per_gpu", 1, limits.MEMORY_MIB_MAX // 1024),
    ("min_runtime_s", 0, limits.TIME_LIMIT_S_MAX),
    ("preemption_searches_max", 0, 1_000),
    ("retry_backoff_s", 0, limits.GRACE_PERIOD_S_MAX),
    ("retry_backoff_max_s", 0, limits.GRACE_PERIOD_S_MAX),
)
