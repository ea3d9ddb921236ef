"""Has the executor run what the log says: it is told what has become durable, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.blobs import decode_environment, digests_of, fault_in
from horizon.core.model import EXECUTOR, AllocationState, Exit, Inventory, JobState
from horizon.core.state import Job, State
from horizon.executors.port import AttemptKey, Executor, Held, Launch
from horizon.service.metrics import EngineMetrics
from horizon.store.port import EventStore, Fenced, Head, SetBack, StoreError

log = structlog.get_logger()

_STARTS_OR_STOPS: Final = frozenset(
    {
        ev.JobScheduled,
        ev.JobCancelled,
        ev.TimeLimitReached,
        ev.PreemptionRequested,
        ev.RequeueRequested,
    }
)
"""What the executor must be told. (Looked up by type: ``isinstance`` on a Struct costs a Python call.)"""


class Launcher:
    """Launches and stops attempts, from one ``open`` to the next ``close``.

    A job with an environment or a script is launched once they have been read, which may take its time: by
    then others may lead. ``in_hand`` is asked then whether the lease still holds.
    """

    def __init__(
        self,
        executor: Executor,
        store: EventStore,
        report: Callable[[cmd.Report], None],
        in_hand: Callable[[], Awaitable[bool]],
        metrics: EngineMetrics,
        retry_s: float,
    ) -> None:
        self._executor = executor
        self._store = store
        self._report = report
        self._in_hand = in_hand
        self._metrics = metrics
        self._retry_s = retry_s
        self._tasks: set[asyncio.Task[None]] = set()
        """Launches that wait for an environment or a script."""

    async def open(self, head: Head) -> tuple[Inventory, ...]:
        """Find the nodes, for whoever leads this log in this epoch. Raises ``ExecutorError``."""
        return await self._executor.open(head.log_id.hex(), head.epoch, self._report)

    async def adopt(self, state: State) -> None:
        """Hand the attempts that the log says hold something to the executor; launch those it never saw."""
        held = [
            Held(
                _key(job),
                len(job.allocation),
                started=job.started_at_us > 0,
                stopping=job.allocation_state is AllocationState.RELEASING or job.stop is not None,
                grace_period_s=job.spec.grace_period_s,
                elsewhere=any(state.nodes[placement.node].lost for placement in job.allocation),
            )
            for job in state.holding.values()
        ]
        failed = [uuid for uuid, fault in state.devices.failed.items() if fault.by == EXECUTOR]
        never_launched = await self._executor.adopt(held, failed)
        for job in list(state.holding.values()):
            if _key(job) in never_launched and job.state is JobState.SCHEDULED:
                self._launch(job, state.epoch)

    def follow(self, state: State, recorded: Iterable[ev.Recorded]) -> None:
        """Start and stop processes as the log now says."""
        for one in recorded:
            kind = type(one.event)
            if kind not in _STARTS_OR_STOPS:
                continue
            job = state.jobs[one.event.job_id]  # type: ignore[attr-defined]
            if kind is ev.JobScheduled:
                self._metrics.wait(job.scheduled_at_us - job.created_at_us)
                self._launch(job, state.epoch)
                continue
            array = state.arrays.get(job.number)
            for one_job in [job] if array is None else state.tasks(array):
                if one_job.allocation_state is not None:
                    self._executor.stop(_key(one_job), one_job.spec.grace_period_s)

    async def close(self) -> None:
        """What waits to be launched in this epoch is not: whoever leads next finds it in the log. What runs
        goes on running."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._executor.close()

    def _launch(self, job: Job, epoch: int) -> None:
        spec = job.spec
        digests = digests_of(spec)
        if not digests:
            self._executor.launch(launch_of(job, epoch, {}))
            return
        task = asyncio.create_task(self._launch_with_blobs(job, epoch, digests))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch_with_blobs(self, job: Job, epoch: int, digests: list[str]) -> None:
        """Launch once the environment and the script are here; a job fails whose are not what was given."""
        key = _key(job)
        while True:
            try:
                blobs = await self._store.blobs(digests)
                break
            except StoreError as error:
                log.warning("cannot read a job's environment yet", job=job.number, error=str(error))
                await asyncio.sleep(self._retry_s)
        try:
            if not await self._in_hand():
                return
        except (Fenced, SetBack):
            return  # the engine learns of it, too, and steps down
        if job.attempt != key.attempt:
            return
        if job.allocation_state is not AllocationState.HELD:
            self._executor.stop(key, 0)
        elif not (wrong := _fault(job, blobs)):
            self._executor.launch(launch_of(job, epoch, blobs))
        else:
            log.error("a job is not launched", job=job.number, reason=wrong, digests=digests)
            exit = Exit(error=f"not started: {wrong}")
            self._report(cmd.ReportEnded(job.id, job.attempt, exit, started=False))
            self._executor.stop(key, 0)  # and never shall be


def warn_of_lost(state: State, inventories: Iterable[Inventory]) -> None:
    """Say which of the devices that jobs hold are not there, or are others, on the nodes as they are now.

    What runs goes on: nobody takes a device from a process. But nobody else knows that it has it.
    """
    there = {one.name: devices_of(one) for one in inventories}
    for job in state.holding.values():
        for placement in job.allocation:
            node, now = state.nodes[placement.node], there.get(placement.node)
            held = {one for one in devices_of(node.inventory) if one[0] in placement.gpu_ids}
            if now is not None and (lost := held - now):
                log.warning(
                    "devices that a job holds are gone, or are others: was this scheduler started with "
                    "another --simulate-gpus?",
                    job=job.number,
                    node=placement.node,
                    devices=", ".join(f"{gpu_type} {uuid}" for uuid, gpu_type in sorted(lost)),
                )


def devices_of(inventory: Inventory) -> set[tuple[str, str]]:
    """Which ones, by UUID, and of which types."""
    return {(device.uuid, device.gpu_type) for device in inventory.devices}


def _fault(job: Job, blobs: dict[str, bytes]) -> str:
    """What is wrong with what the store has of a job's environment and script; nothing when it is theirs."""
    spec = job.spec
    for name, digest in (("environment", spec.environment_digest), ("script", spec.script_digest)):
        if digest and (wrong := fault_in(digest, blobs.get(digest))):
            return f"its {name} {wrong}"
    try:
        decode_environment(blobs.get(spec.environment_digest or ""))
    except ValueError:
        return "its environment cannot be read"
    return ""


def launch_of(job: Job, epoch: int, blobs: dict[str, bytes]) -> Launch:
    """Its attempt, with the environment and the script if they are among the blobs."""
    spec = job.spec
    return Launch(
        key=_key(job),
        number=job.number,
        epoch=epoch,
        user_id=spec.user_id,
        job_name=spec.job_name,
        allocation=job.allocation,
        command=spec.command,
        script=blobs.get(spec.script_digest) if spec.script_digest else None,
        environment=decode_environment(blobs.get(spec.environment_digest or "")),
        working_dir=spec.working_dir,
        grace_period_s=spec.grace_period_s,
        stop_signal=spec.stop_signal,
        array=job.array,
        index=job.index,
    )


def _key(job: Job) -> AttemptKey:
    return AttemptKey(job.id, job.attempt)
