"""Big states, made fast through the real fold: a cluster of any size, what runs on it and who waits.

What happened is written down as facts and folded in envelopes without payload and hash, which no fold looks
at. The same calls on the same seed give the same state.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import cycle
from typing import Any, Final

import msgspec

from horizon.core import events as ev
from horizon.core.evolve import evolve
from horizon.core.model import Device, Exit, Inventory, JobSpec, JobState, Placement, Priority
from horizon.core.schedule import Cycle, schedule
from horizon.core.state import SECOND_US, Job, State

START_US: Final = 1_700_000_000_000_000
RUNNING_FOR_S: Final = 3_600
"""What runs began within so long before now; the youngest has run for ``YOUNGEST_S``."""
YOUNGEST_S: Final = 120
GPUS: Final = 8
"""Of every node."""
NODES_PER_SWITCH: Final = 16
NODES_PER_RACK: Final = 64

Sizes = Sequence[int]
"""GPUs of the jobs that share one node."""
MIXED: Final[tuple[Sizes, ...]] = (
    (1,) * 8, (4, 2, 1, 1), (7, 1), (8,), (6, 2), (5, 3), (4, 4), (2, 2, 2, 2),
)  # fmt: skip
ONES: Final[tuple[Sizes, ...]] = ((1,) * GPUS,)

ACCOUNTS: Final = tuple(f"{above}/{team}" for above in ("research", "product") for team in "abcde")
USERS: Final = tuple((account, f"user-{number}") for account in ACCOUNTS for number in range(5))
PRIORITIES: Final = (Priority.LOW,) + (Priority.NORMAL,) * 15 + (Priority.HIGH,) * 3 + (Priority.URGENT,)
GPU_COUNTS: Final = {1: 930, 2: 25, 4: 20, 8: 15, 16: 5, 32: 3, 64: 1, 128: 1}
"""In thousandths of the jobs: few ask for more than one, and they for most of the GPUs."""
TIME_LIMITS_S: Final = tuple(3_600 * hours for hours in (0, 1, 4, 12, 24, 72))
GPU_TYPES: Final = (None,) * 7 + ("H100",) * 2 + ("A100",)
BESIDE_A_GPU: Final = ((0, 0), (0, 0), (0, 0), (4, 32), (8, 64), (16, 128))
"""Cores and GiB of memory asked for with each GPU."""
CONSTRAINTS: Final[tuple[dict[str, str], ...]] = ({},) * 19 + ({"disk": "nvme"},)
_NO_ID: Final = bytes(16)


def job_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"


def inventory(number: int) -> Inventory:
    """Of the node with this number: 7 of 10 have H100, the others A100, on two sockets and one NVSwitch."""
    name = f"node-{number:05d}"
    gpu_type = "H100" if number % 10 < 7 else "A100"
    devices = tuple(
        Device(f"GPU-{name}-{slot}", slot, gpu_type, 81_559, 0, slot // 4, f"root-{slot // 2}")
        for slot in range(GPUS)
    )
    labels = {
        "switch": f"switch-{number // NODES_PER_SWITCH}",
        "rack": f"rack-{number // NODES_PER_RACK}",
        "disk": "nvme" if number % 4 == 0 else "ssd",
    }
    return Inventory(name, 128, 1 << 20, devices, labels)


class World:
    """A state and its clock, which goes on only when it is told to."""

    def __init__(self, nodes: int, seed: int = 1, cluster: Any = None) -> None:
        """With another ``Cluster`` than the compiled one, if given."""
        self.state = State()
        if cluster is not None:
            self.state.cluster = cluster
        self.now_us = START_US
        self.random = random.Random(seed)
        for number in range(nodes):
            found = inventory(number)
            self.fold([ev.NodeRegistered(node=found.name, inventory=found)])

    def fold(self, events: Iterable[ev.Event]) -> None:
        """These happened, now."""
        state, now_us = self.state, self.now_us
        for event in events:
            stream = event.stream
            version = state.stream_version(stream) + 1
            evolve(
                state,
                ev.Recorded(
                    state.position + 1, now_us, 1, type(event).__name__, 1, stream, version, "bench",
                    _NO_ID, _NO_ID, 0, b"", b"", event,
                ),
            )  # fmt: skip

    def policy(self, **fields: Any) -> None:
        policy = msgspec.structs.replace(self.state.policy, **fields)
        self.fold([ev.PolicySet(version=self.state.policy_version + 1, policy=policy, by="bench")])

    # --- who waits ------------------------------------------------------------------------------------

    def submit(self, spec: JobSpec) -> Job:
        number = self.state.next_number
        self.fold([ev.JobSubmitted(job_id=job_id(number), number=number, spec=spec)])
        return self.state.numbered[-1]

    def wait(
        self, jobs: int, limits_s: Sequence[int] = TIME_LIMITS_S, users: Sequence[tuple[str, str]] = USERS
    ) -> None:
        """So many jobs come, as a cluster's users ask for them."""
        counts = self.random.choices(list(GPU_COUNTS), list(GPU_COUNTS.values()), k=jobs)
        for gpus in counts:
            self.submit(self._spec(gpus, self.random.choice(limits_s), self.random.choice(users)))

    def wait_alike(self, jobs: int, gpus: int) -> None:
        """So many jobs come that ask for this many GPUs and no more."""
        for number in range(jobs):
            account, user_id = USERS[number % len(USERS)]
            self.submit(JobSpec(user_id, "python train.py", gpus, account=account, time_limit_s=3_600))

    def _spec(self, gpus: int, limit_s: int, user: tuple[str, str]) -> JobSpec:
        one_of = self.random.choice
        account, user_id = user
        cores, memory_gib = one_of(BESIDE_A_GPU)
        return JobSpec(
            user_id,
            "python train.py",
            gpus,
            one_of(PRIORITIES),
            account,
            "train",
            one_of(GPU_TYPES),
            cpu_cores=cores * gpus,
            memory_mib=memory_gib * gpus << 10,
            time_limit_s=limit_s,
            constraints=one_of(CONSTRAINTS),
        )

    # --- what runs ------------------------------------------------------------------------------------

    def fill(self, patterns: Sequence[Sizes], but: Container[str] = (), **fields: Any) -> None:
        """Every GPU is taken, but for some nodes: jobs of these sizes share a node, pattern by pattern."""
        seats = list(_seats([name for name in self.state.nodes if name not in but], patterns))
        begin_us = self.now_us
        for place, (name, slots) in enumerate(seats):
            self.now_us = begin_us + RUNNING_FOR_S * SECOND_US * place // len(seats)
            account, user_id = self.random.choice(USERS)
            limit_s = self.random.randrange(2 * 60, 72 * 60) * 60
            spec = JobSpec(user_id, "python train.py", len(slots), account=account, time_limit_s=limit_s)
            self.run(msgspec.structs.replace(spec, **fields) if fields else spec, name, slots)
        self.now_us = begin_us + (RUNNING_FOR_S + YOUNGEST_S) * SECOND_US

    def take_cores(self, cores: int) -> None:
        """On every node a job takes so many cores and no GPU."""
        for name in list(self.state.nodes):
            self.run(JobSpec("cores", "make", 0, cpu_cores=cores), name, range(0))

    def run(self, spec: JobSpec, node: str, slots: range) -> None:
        """A job of one node runs there since now, on the devices in these slots."""
        job = self.submit(spec)
        devices = self.state.nodes[node].inventory.devices
        uuids = tuple([devices[slot].uuid for slot in slots])
        self.fold(
            [
                ev.JobScheduled(
                    job_id=job.id,
                    attempt=1,
                    allocation=(Placement(node, uuids, spec.cpu_cores, spec.memory_mib),),
                    cycle=self.state.cycle + 1,
                    now_us=self.now_us,
                    rank=1,
                    score=0.0,
                ),
                ev.JobStarted(job_id=job.id, attempt=1),
            ]
        )

    def end_one(self) -> None:
        """The job of one GPU that has run for longest comes to its end, and its GPU is free."""
        job = next(
            job
            for job in self.state.holding.values()
            if job.state is JobState.RUNNING and job.spec.gpu_count == 1
        )
        self.fold(
            [
                ev.JobCompleted(job_id=job.id, attempt=job.attempt, exit=Exit(exit_code=0)),
                ev.AllocationReleased(job_id=job.id, attempt=job.attempt),
            ]
        )

    # --- what is decided ------------------------------------------------------------------------------

    def cycle(self) -> Cycle:
        """One cycle, and what it decided has happened."""
        found = schedule(self.state, self.now_us)
        self.fold(found.events)
        return found


def _seats(names: list[str], patterns: Sequence[Sizes]) -> Iterator[tuple[str, range]]:
    """Each job's node and the slots it has there."""
    for name, sizes in zip(names, cycle(patterns), strict=False):
        begin = 0
        for size in sizes:
            yield name, range(begin, begin + size)
            begin += size


def busy(nodes: int, waiting: int) -> World:
    """Every GPU is held by a mix of jobs, so many others wait, the first of them planned for."""
    world = World(nodes)
    world.fill(MIXED)
    world.wait(waiting)
    world.cycle()
    return world


def kept_for_a_gang(nodes: int, waiting: int) -> World:
    """Every hundredth node is free, and kept for an urgent gang that lacks one more for half an hour; those
    who wait behind it would all take longer."""
    world = World(nodes)
    names = list(world.state.nodes)
    free, soon = names[::100], names[1]
    world.fill(MIXED, but={*free, soon})
    world.run(JobSpec("user-0", "python eval.py", GPUS, time_limit_s=1_800), soon, range(GPUS))
    size = len(free) + 1
    world.submit(
        JobSpec("nobody-yet", "python train.py", size * GPUS, Priority.URGENT, "big", nodes=size)
    )  # who has used nothing goes first
    world.wait(waiting, TIME_LIMITS_S[2:])
    world.cycle()
    return world


def at_its_quota(nodes: int, waiting: int) -> World:
    """Every hundredth node is free, and all who wait are of one account that holds as much as it may."""
    world = World(nodes)
    world.fill(MIXED, but=set(list(world.state.nodes)[::100]))
    held = world.state.accounts[ACCOUNTS[0]].gpus_held
    world.fold([ev.QuotaSet(path=ACCOUNTS[0], max_gpus=held)])
    world.wait(waiting, users=USERS[:5])
    world.cycle()
    return world
