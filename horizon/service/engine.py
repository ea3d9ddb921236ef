"""The single writer. Everything that changes Horizon passes through one loop here:

    gather (cycle and inbox -> events)  ->  append  ->  evolve  ->  answer  ->  launch and stop

Nothing is answered and no process is started before its event is durable. Whatever arrives while one batch
commits forms the next one: group commit without a timer. The engine makes none of its parts; store,
executor, clock and ids are given to it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog
from msgspec import Struct

import horizon
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.blobs import decode_environment
from horizon.core.decide import Events, Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import EXECUTOR, SCHEDULER, AllocationState, Exit, JobState
from horizon.core.refused import kept
from horizon.core.schedule import DECISIONS, Cycle, schedule
from horizon.core.state import Job, State
from horizon.executors.port import AttemptKey, Executor, ExecutorError, Held, Launch
from horizon.service.batch import BatchBuilder
from horizon.service.clock import Clock, Ids
from horizon.service.config import EngineConfig
from horizon.service.leadership import Lease, Turn, steady_s
from horizon.service.metrics import EngineMetrics
from horizon.service.notary import Distrust, Notary
from horizon.service.recovery import Progress, fold_log, nearest
from horizon.store.port import (
    Answer,
    Archive,
    Batch,
    Corrupt,
    EventStore,
    Fenced,
    Head,
    Snapshot,
    StoreError,
    Unavailable,
    UnknownOutcome,
)

log = structlog.get_logger()

TIMER_S_MAX: Final = 30.0
"""The timer runs on monotonic time and deadlines on the clock: look again this often, should that be set."""

Recover = Callable[[EventStore, Head, Progress], Awaitable[State]]
Render = Callable[[State, Events, int], tuple[int, bytes]]
"""Makes the answer (status, body) to a command from what was decided, recorded at the given time."""


class Busy(Exception):
    """The inbox is full: try again in a moment. Nothing was changed."""


class Stopped(Exception):
    """This scheduler does not lead (any more). The message says why."""


class KeyReused(Exception):
    """An idempotency key came with another request than the first time."""


class Reply(Struct, frozen=True):
    """What is answered to whoever asked."""

    status: int
    body: bytes
    replayed: bool = False
    """Whether it was answered before, to the same idempotency key."""


class Ask(Struct):
    """A command on its way through the engine."""

    command: cmd.Command
    actor: str
    command_id: bytes
    render: Render | None = None
    future: asyncio.Future[Reply] | None = None
    key: str | None = None
    fingerprint: bytes = b""
    blobs: dict[str, bytes] = {}
    weight: int = 1
    size_bytes: int = 0
    tries: int = 0
    """How many appends it was in that did not come about, for a reason unknown."""
    reply: Reply | None = None
    refusal: Rejected | None = None
    """Set when it was refused and the log is to say so before it is answered."""


_WORTH_A_CYCLE: Final = frozenset(
    {
        ev.JobHeld,
        ev.JobReleased,
        ev.JobRequeued,
        ev.JobUpdated,
        ev.JobCancelled,
        ev.AllocationReleased,
        ev.NodeRegistered,
        ev.NodeChanged,
        ev.NodeLost,
        ev.NodeCordoned,
        ev.NodeResumed,
        ev.DeviceFailed,
        ev.DeviceRecovered,
        ev.BookingMade,
        ev.BookingEnded,
        ev.ShareSet,
        ev.QuotaSet,
        ev.PolicySet,
    }
)
"""After any of these a job may start that could not before: there is more room, or a job that was planned
for goes elsewhere or not at all. After a submission it may be the job that came (``Cycle.settles``)."""

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


class Engine:
    """Leads one log. ``state`` may be read at any time and holds durable facts only."""

    def __init__(
        self,
        store: EventStore,
        executor: Executor,
        clock: Clock,
        ids: Ids,
        config: EngineConfig | None = None,
        metrics: EngineMetrics | None = None,
        notary: Notary | None = None,
        snapshots: Iterable[Snapshot] = (),
    ) -> None:
        self.store = store
        self.executor = executor
        self.ids = ids
        self.metrics = metrics or EngineMetrics()
        self.notary = notary
        """Signs the log; without one it is chained and not signed."""
        self.state = State()
        self.snapshots = snapshots
        """Those that there are just now, the newest first."""
        self._clock = clock
        self._config = config or EngineConfig()
        self._inbox: deque[Ask] = deque()
        self._inbox_jobs = 0
        self._inbox_bytes = 0
        self._asks: list[Ask] = []
        """What the batch in hand will answer."""
        self._wake = asyncio.Event()
        self._cycle_due = False
        self.cycle = Cycle((), 0, False)
        """The last one: it says why those wait that it did not start."""
        self._read_us = 0
        """The last reading of time, and when it was taken on a clock that never goes back."""
        self._read_at_us = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us: int | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._launches: set[asyncio.Task[None]] = set()
        self._in_flight: dict[str, Ask] = {}
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._stopping = False
        self._leads = False
        self.lease = Lease(self._config.lease_ttl_s, store.renew, self._wake.set)
        self.trouble = ""
        """Why the store cannot be used just now."""
        self.folded: tuple[int, int] | None = None
        """While the log is being read: how many of its events have been, of how many."""
        self.begun_at = 0
        """The position of the snapshot that the state was folded from; 0 when there was none."""
        self.stopped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolves with the reason when the engine has stopped leading by itself."""

    # --- starting and stopping ------------------------------------------------------------------------

    async def start(
        self,
        progress: Progress = lambda done, total: None,
        turn: Turn | None = None,
        recover: Recover | None = None,
    ) -> None:
        """Take the lead, rebuild the state, adopt what runs; then serve.

        Without a ``turn`` whoever leads is deposed; ``recover`` gives the state as of the head, which is
        folded from the nearest snapshot on without it. Raises ``Fenced`` when another was elected,
        ``StoreError``, ``ExecutorError``, and ``Distrust`` when this is not the log that was signed.
        """
        await self.store.open()
        try:
            await self._lead(progress, turn=turn, recover=recover)
        except BaseException:
            await self.lease.drop()  # whoever starts again is elected again
            raise
        self._loop_task = asyncio.create_task(self._run(), name="engine")

    async def stop(self) -> None:
        """Finish the batch in hand and stop. Running jobs go on running; the next start adopts them."""
        self._leads = False
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        self._wake.set()
        if self._loop_task is not None:
            await self._loop_task  # never cancelled: an append cut short would leave its outcome unknown
        await self._cancel_launches()
        await self.executor.close()
        self._refuse_all(Stopped("Horizon is shutting down"))
        if self.notary is not None:
            await self.notary.stop()
        await self._resign()
        await self.store.close()

    async def _resign(self) -> None:
        """Nobody has to wait for a lease that is not used any more."""
        await self.lease.drop()
        try:
            await self.store.resign()
        except StoreError as error:
            log.warning("the lease is left to end by itself", error=str(error))

    async def _lead(
        self,
        progress: Progress = lambda done, total: None,
        again: bool = False,
        turn: Turn | None = None,
        recover: Recover | None = None,
    ) -> None:
        """Raise the epoch, fold the log, record that we lead, then take over nodes and attempts.

        ``again`` raises ``Fenced`` when another scheduler has led since we last did.
        """
        await self._cancel_launches()
        await self.executor.close()
        head = await self._elect(again, turn)
        self.state = await (recover or self._fold)(self.store, head, self._noting(progress))
        self.folded = None
        announced: Events = ()
        if self.notary is not None:
            announced = await self.notary.begin(self.store, head, self.state, self._wake.set)
        inventories = await self.executor.open(head.log_id.hex(), head.epoch, self._report)
        batch = BatchBuilder(self.state)
        now_us = self._now_us()
        elected = ev.LeaderElected(
            epoch=head.epoch,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=horizon.__version__,
            config_digest=self._config.digest(),
            decisions=DECISIONS,
        )
        batch.add((elected, *announced), SCHEDULER, self.ids.new(), 0)
        if not self.state.policy_version:
            # From the first on the log says itself what was decided by, whatever a later program's defaults.
            first = ev.PolicySet(version=1, policy=self.state.policy, by=SCHEDULER)
            batch.add((first,), SCHEDULER, self.ids.new(), 0)
        names = {inventory.name for inventory in inventories}
        joins: list[cmd.Command] = [cmd.RegisterNode(inventory) for inventory in inventories]
        leaves: list[cmd.Command] = [
            cmd.LoseNode(name, "it is not among this scheduler's nodes any more")
            for name in self.state.nodes
            if name not in names
        ]
        for command in joins + leaves:
            given = Given(EXECUTOR, now_us, batch.next_number)
            batch.add(decide(self.state, command, given), EXECUTOR, self.ids.new(), 0)
        recorded = await self._append_leased(Batch(tuple(batch.drafts), now_us))
        self._evolve(recorded)
        await self._adopt()
        self._cycle_due = True
        self._wake.set()
        self._leads, self.trouble = True, ""
        log.info("leading", epoch=head.epoch, position=self.state.position, jobs=len(self.state.numbered))

    async def _elect(self, again: bool, turn: Turn | None) -> Head:
        asked_at = steady_s()
        if turn is None:
            head = await self.store.elect(again)
        else:
            head = await self.store.elect(over=turn.over, living=turn.living)
        self.lease.granted(asked_at)
        self.lease.keep()
        return head

    def _noting(self, progress: Progress) -> Progress:
        def note(done: int, total: int) -> None:
            self.folded = (done, total)
            progress(done, total)

        return note

    async def _fold(self, store: EventStore, head: Head, progress: Progress) -> State:
        """The state as of the head, by way of the nearest snapshot."""
        progress(0, head.position)
        begun = await nearest(store, self.snapshots, head.position, head.log_id)
        self.begun_at = begun.state.position
        return await fold_log(store, head, progress, begun)

    async def _adopt(self) -> None:
        """Hand the attempts that the log says hold something to the executor; launch those it never saw."""
        held = [
            Held(
                _key(job),
                len(job.allocation),
                started=job.started_at_us > 0,
                stopping=job.allocation_state is AllocationState.RELEASING or job.stop is not None,
                grace_period_s=job.spec.grace_period_s,
                elsewhere=any(self.state.nodes[placement.node].lost for placement in job.allocation),
            )
            for job in self.state.holding.values()
        ]
        failed = [uuid for uuid, fault in self.state.devices.failed.items() if fault.by == EXECUTOR]
        never_launched = await self.executor.adopt(held, failed)
        for job in list(self.state.holding.values()):
            if _key(job) in never_launched and job.state is JobState.SCHEDULED:
                self._launch_soon(job)

    @property
    def ready(self) -> bool:
        """Whether it leads, and nobody else can."""
        return self._leads and self.lease.holds

    @property
    def inbox_jobs(self) -> int:
        """How many submissions and other commands wait to be answered; a batch counts each of its jobs."""
        return self._inbox_jobs

    # --- asking ---------------------------------------------------------------------------------------

    async def ask(
        self,
        command: cmd.Command,
        actor: str,
        render: Render,
        *,
        blobs: dict[str, bytes] | None = None,
        key: str | None = None,
        fingerprint: bytes = b"",
        weight: int = 1,
        size_bytes: int = 0,
    ) -> Reply:
        """Have a command decided, and its events made durable, before it is answered.

        With an idempotency ``key`` the command takes effect once for the life of the log, however often it
        is asked. Raises ``Rejected``, ``Busy``, ``Stopped``, ``KeyReused``, ``StoreError``.
        """
        if key is not None:
            earlier = await self._answered(key, fingerprint)
            if earlier is not None:
                return earlier
        if not self._leads:
            raise Stopped("Horizon is not leading yet; try again in a moment")
        if not self.lease.holds:
            raise Stopped("this scheduler has heard nothing of the store for too long; try again in a moment")
        if self._inbox_jobs and (
            self._inbox_jobs + weight > self._config.inbox_jobs_max
            or self._inbox_bytes + size_bytes > self._config.inbox_bytes_max
        ):
            raise Busy("too many requests are waiting; try again in a moment")
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        ask = Ask(
            command, actor, self.ids.new(), render, future, key, fingerprint, blobs or {}, weight, size_bytes
        )
        if key is not None:
            self._in_flight[key] = ask
        self._inbox_jobs += weight
        self._inbox_bytes += size_bytes
        self._put(ask)
        # A caller that goes away does not take back what it asked; one that shares a key must not end the
        # others' wait.
        return await (future if key is None else asyncio.shield(future))

    async def _answered(self, key: str, fingerprint: bytes) -> Reply | None:
        """The answer under this key, when it was given before or is on its way."""
        while True:
            in_flight = self._in_flight.get(key)
            if in_flight is not None:
                assert in_flight.future is not None
                if in_flight.fingerprint != fingerprint:
                    raise KeyReused(key)
                reply = await asyncio.shield(in_flight.future)
                return Reply(reply.status, reply.body, replayed=True)
            answer, epoch = self._answers.get(key), self.state.epoch
            if answer is None:
                answer = await self.store.answer(key)
            if answer is not None:
                if answer.fingerprint != fingerprint:
                    raise KeyReused(key)
                return Reply(answer.status, answer.body, replayed=True)
            # While the store was being asked somebody else may have begun with this key, or even ended; and
            # until we lead, that somebody may be another scheduler.
            if key not in self._in_flight and key not in self._answers and epoch == self.state.epoch:
                return None

    def _report(self, report: cmd.Report) -> None:
        self._put(Ask(report, EXECUTOR, self.ids.new(), weight=0))

    def _put(self, ask: Ask) -> None:
        self._inbox.append(ask)
        self._wake.set()

    # --- the loop -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                if self.notary is not None and self.notary.failure:
                    raise Distrust(self.notary.failure)
                if self.lease.failure:
                    raise Fenced(self.lease.failure)
                await self._round()
                await asyncio.sleep(0)  # the answers go out before the next cycle is thought about
        except Fenced as error:
            await self._step_down(f"another scheduler leads this log now: {error}")
        except (Corrupt, Distrust, ExecutorError) as error:
            await self._step_down(str(error))
        except Exception as error:
            log.exception("the engine failed")
            await self._step_down(f"internal error: {type(error).__name__}: {error}")

    async def _round(self) -> None:
        """One batch: decide, append, evolve, answer, act."""
        now_us = self._now_us()
        batch, self._asks = self._gather(now_us)
        recorded: tuple[ev.Recorded, ...] = ()
        if batch.drafts or any(ask.key for ask in self._asks if ask.reply):
            appended = await self._append(batch, self._asks, now_us)
            if appended is None:
                return
            recorded = appended
            self._evolve(recorded)
        for ask in self._asks:
            self._answer(ask)
        self._asks = []
        if await self._lease_in_hand():
            self._act(recorded)
        if self._cycle_due or self._inbox:
            self._wake.set()
        self._arm_timer()

    def _gather(self, now_us: int) -> tuple[BatchBuilder, list[Ask]]:
        """Decide what is due and what was asked, all on the same durable state."""
        batch = BatchBuilder(self.state)
        if self._cycle_due:
            self._cycle(batch, now_us)
        asks: list[Ask] = []
        deferred: list[Ask] = []
        waiting: set[str | None] = set()
        size_bytes = 0
        while self._inbox and len(batch.drafts) < self._config.append_events_max:
            ask = self._inbox[0]
            size_bytes += ask.size_bytes
            if asks and (
                size_bytes > self._config.append_bytes_max or _goes_alone(ask) or _goes_alone(asks[0])
            ):
                break
            self._inbox.popleft()
            stream = cmd.stream_of(ask.command)
            if stream is not None and (stream in waiting or batch.touches(stream)):
                waiting.add(stream)
                deferred.append(ask)
                continue
            self._decide(batch, ask, now_us)
            asks.append(ask)
        self._inbox.extendleft(reversed(deferred))
        return batch, asks

    def _cycle(self, batch: BatchBuilder, now_us: int) -> None:
        began = time.perf_counter()
        self._cycle_due = False
        self.cycle = cycle = schedule(self.state, now_us)
        batch.add(cycle.events, SCHEDULER, self.ids.new(), self.state.position)
        if cycle.more:
            self._cycle_due = True
        self.metrics.cycle(time.perf_counter() - began, cycle.examined)

    def _decide(self, batch: BatchBuilder, ask: Ask, now_us: int) -> None:
        given = Given(ask.actor, now_us, batch.next_number)
        try:
            events = decide(self.state, ask.command, given)
            if ask.render is not None:
                status, body = ask.render(self.state, events, now_us)
                ask.reply = Reply(status, body)
        except Rejected as refusal:
            events = kept(self.state, ask.command, refusal, ask.actor)
            if not events:
                self._refuse(ask, refusal)
                return
            ask.refusal = refusal
        except Exception as error:  # deciding is pure, so only this command is harmed
            log.exception("a command could not be decided", command=repr(ask.command))
            self._refuse(ask, error)
            return
        batch.add(events, ask.actor, ask.command_id, self._causation(ask))

    def _causation(self, ask: Ask) -> int:
        """A report is caused by the last thing that happened to its job; what people ask has no cause."""
        if ask.actor != EXECUTOR:
            return 0
        job = self.state.jobs.get(cmd.stream_of(ask.command)[4:])  # type: ignore[index]
        return job.positions[-1] if job is not None else 0

    async def _append(
        self, builder: BatchBuilder, asks: list[Ask], now_us: int
    ) -> tuple[ev.Recorded, ...] | None:
        """Make the batch durable; None when it is not in the log and its commands have been dealt with."""
        answers = tuple(
            Answer(ask.key, ask.fingerprint, ask.reply.status, ask.reply.body)
            for ask in asks
            if ask.key is not None and ask.reply is not None
        )
        blobs = {digest: data for ask in asks for digest, data in ask.blobs.items() if ask.reply is not None}
        batch = Batch(tuple(builder.drafts), now_us, blobs, answers, *_beside(builder, asks))
        try:
            return await self._append_leased(batch)
        except UnknownOutcome as unknown:
            await self._settle(unknown, batch, asks)
        except Unavailable as error:
            self._note_trouble(error)
            self._put_back(asks, error)
            self._cycle_due = True
            await asyncio.sleep(self._config.unavailable_retry_s)
            self._wake.set()
        return None

    async def _append_leased(self, batch: Batch) -> tuple[ev.Recorded, ...]:
        """An append renews the lease; while it is under way nothing else does."""
        asked_at, self.lease.appending = steady_s(), True
        try:
            recorded = await self.store.append(batch)
        finally:
            self.lease.appending = False
        self.lease.granted(asked_at)
        return recorded

    async def _lease_in_hand(self) -> bool:
        """Before processes are started: we may have stood still since the append, and others may lead by now.

        The nodes refuse an older epoch, but those of another data directory have not heard of it. False when
        we stop without one: whoever leads next starts what is to be started.
        """
        while not self.lease.holds:
            if self._stopping:
                return False
            try:
                await self.lease.renew()
            except Unavailable as error:
                self._note_trouble(error)
                await asyncio.sleep(self._config.unavailable_retry_s)
        return True

    def _note_trouble(self, error: StoreError) -> None:
        """Keep it for whoever asks after our health, and log it once, not at every try."""
        if str(error) != self.trouble:
            log.warning("the store cannot be used", error=str(error))
        self.trouble = str(error)

    async def _settle(self, unknown: UnknownOutcome, batch: Batch, asks: list[Ask]) -> None:
        """Find out whether a batch is in the log: raise the epoch first, then rebuild memory from it."""
        self._leads = False
        self._note_trouble(unknown)
        while not self._stopping:
            try:
                await self._lead(again=True)
                in_log = await self._came_about(batch, unknown)
                break
            except (Unavailable, UnknownOutcome) as error:
                self._note_trouble(error)
                await asyncio.sleep(self._config.unavailable_retry_s)
        else:
            return  # we are stopping; what was asked is refused as unanswered
        if in_log:
            for ask in asks:
                self._answer(ask)
        else:  # and never will be: its epoch is over
            for ask in asks:
                ask.tries += unknown.position > 0
            self._put_back(asks, None)
        self._asks = []
        self._wake.set()

    async def _came_about(self, batch: Batch, unknown: UnknownOutcome) -> bool:
        """Whether a batch is in the store. One without events leaves nothing in the log, only its answers."""
        if not batch.drafts:
            return await self.store.answer(batch.answers[0].key) is not None
        found = await self.store.read_at([unknown.position])
        return bool(found) and found[0].hash == unknown.hash

    def _put_back(self, asks: list[Ask], error: StoreError | None) -> None:
        """Decide the commands anew in the next batch; with an error, refuse those that someone waits for."""
        for ask in reversed(asks):
            if ask.future is None:
                self._inbox.appendleft(ask)
            elif ask.reply is None and ask.refusal is None:
                continue  # it was refused when it was decided
            elif error is not None:
                self._refuse(ask, error)
            elif ask.tries >= self._config.append_tries_max:
                self._refuse(ask, Unavailable("it could not be made durable; nothing was changed"))
            else:
                ask.reply = ask.refusal = None
                self._inbox.appendleft(ask)

    # --- what follows from what is durable ------------------------------------------------------------

    def _evolve(self, recorded: tuple[ev.Recorded, ...]) -> None:
        state = self.state
        waiting = len(state.queue)
        for one in recorded:
            evolve(state, one)
            kind = type(one.event)
            if kind in _WORTH_A_CYCLE:
                self._cycle_due = True
            elif kind is ev.JobSubmitted and not self._cycle_due:
                job = state.numbered[one.event.number - 1]  # type: ignore[attr-defined]
                waiting += job.number in state.queue
                self._cycle_due = not self.cycle.settles(state, job)
        if len(state.queue) > waiting or state.doomed:  # what jobs depended on has been decided
            self._cycle_due = True
        self.metrics.appended(recorded)
        if self.notary is not None and recorded:
            self.notary.follow(recorded[-1])

    def _act(self, recorded: tuple[ev.Recorded, ...]) -> None:
        """Start and stop processes as the log now says."""
        for one in recorded:
            kind = type(one.event)
            if kind not in _STARTS_OR_STOPS:
                continue
            job = self.state.jobs[one.event.job_id]  # type: ignore[attr-defined]
            if kind is ev.JobScheduled:
                self.metrics.wait(job.scheduled_at_us - job.created_at_us)
                self._launch_soon(job)
                continue
            array = self.state.arrays.get(job.number)
            for one_job in [job] if array is None else self.state.tasks(array):
                if one_job.allocation_state is not None:
                    self.executor.stop(_key(one_job), one_job.spec.grace_period_s)

    def _launch_soon(self, job: Job) -> None:
        spec = job.spec
        digests = [digest for digest in (spec.environment_digest, spec.script_digest) if digest]
        if not digests:
            self.executor.launch(self._launch(job, {}))
            return
        task = asyncio.create_task(self._launch_with_blobs(job, digests))
        self._launches.add(task)
        task.add_done_callback(self._launches.discard)

    async def _launch_with_blobs(self, job: Job, digests: list[str]) -> None:
        """Launch once the environment and the script are here; a job that lacks one of them fails."""
        key = _key(job)
        while True:
            try:
                blobs = await self.store.blobs(digests)
                launch = self._launch(job, blobs)
                break
            except StoreError as error:
                log.warning("cannot read a job's environment yet", job=job.number, error=str(error))
                await asyncio.sleep(self._config.unavailable_retry_s)
            except Exception:
                log.exception("a job's environment or script cannot be used", job=job.number)
                blobs = {}
                break
        try:
            if not await self._lease_in_hand():
                return
        except Fenced:
            return  # the loop learns of it, too, and steps down
        if job.attempt != key.attempt:
            return
        if job.allocation_state is not AllocationState.HELD:
            self.executor.stop(key, 0)
        elif all(digest in blobs for digest in digests):
            self.executor.launch(launch)
        else:
            exit = Exit(error="not started: its environment or its script has been erased")
            self._report(cmd.ReportEnded(job.id, job.attempt, exit, started=False))
            self.executor.stop(key, 0)  # and never shall be

    def _launch(self, job: Job, blobs: dict[str, bytes]) -> Launch:
        spec = job.spec
        return Launch(
            key=_key(job),
            number=job.number,
            epoch=self.state.epoch,
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

    # --- answering ------------------------------------------------------------------------------------

    def _answer(self, ask: Ask) -> None:
        if ask.refusal is not None:
            self._refuse(ask, ask.refusal)
            return
        if ask.reply is None or ask.future is None:
            return  # a report, or refused already
        self._leave_inbox(ask)
        if ask.key is not None:
            del self._in_flight[ask.key]
            self._answers[ask.key] = Answer(ask.key, ask.fingerprint, ask.reply.status, ask.reply.body)
            if len(self._answers) > self._config.answers_cached_max:
                self._answers.popitem(last=False)
        if not ask.future.done():
            ask.future.set_result(ask.reply)

    def _refuse(self, ask: Ask, error: Exception) -> None:
        ask.reply = ask.refusal = None
        if ask.future is None:
            log.error("a report was refused", command=repr(ask.command), error=str(error))
            return
        self._leave_inbox(ask)
        if ask.key is not None:
            del self._in_flight[ask.key]
        if not ask.future.done():
            ask.future.set_exception(error)
            ask.future.exception()  # the caller may be gone: that it is never retrieved is no fault

    def _leave_inbox(self, ask: Ask) -> None:
        self._inbox_jobs -= ask.weight
        self._inbox_bytes -= ask.size_bytes

    def _refuse_all(self, error: Exception) -> None:
        asks = [*self._asks, *self._inbox]
        self._asks = []
        self._inbox.clear()
        for ask in asks:
            if ask.future is not None and not (ask.future.done() and ask.reply is None):
                self._refuse(ask, error)

    async def _cancel_launches(self) -> None:
        """What waits to be launched in this epoch is not; whoever leads next finds it in the log."""
        launches = list(self._launches)
        for task in launches:
            task.cancel()
        await asyncio.gather(*launches, return_exceptions=True)

    async def _step_down(self, reason: str) -> None:
        """Stop leading at once: answer nobody, start nothing."""
        self._leads = False
        log.error("stepping down", reason=reason)
        self._refuse_all(Stopped(reason))
        await self.lease.drop()
        if self.notary is not None:
            await self.notary.halt()
        await self._cancel_launches()
        await self.executor.close()
        if not self.stopped.done():
            self.stopped.set_result(reason)

    # --- time -----------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        """The clock, but never before what is in the log; while it stands behind, time goes on all the same.

        A clock that was set back an hour must not keep a time limit from being reached for an hour; nor one
        that was right before, with an hour too much in the log that we took over.
        """
        clock_us, steady_us = self._clock.now_us(), time.monotonic_ns() // 1_000
        if self._read_us < self.state.recorded_at_us:
            self._read_us, self._read_at_us = self.state.recorded_at_us, steady_us
        if clock_us < self._read_us:
            clock_us = self._read_us + steady_us - self._read_at_us
        self._read_us, self._read_at_us = clock_us, steady_us
        return clock_us

    def _arm_timer(self) -> None:
        """Have a cycle run when time alone changes something: a limit is reached, a begin time comes."""
        moments = (self.state.next_deadline_us(), self.cycle.again_us)
        at_us = min((moment for moment in moments if moment is not None), default=None)
        if at_us == self._timer_us:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_us = at_us
        if at_us is not None:
            delay_s = min(max(0.0, (at_us - self._now_us()) / 1e6), TIMER_S_MAX)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_us = None, None
        self._cycle_due = True
        self._wake.set()


_ALONE: Final[frozenset[type]] = frozenset({cmd.Erase, cmd.RecordArchive})


def _goes_alone(ask: Ask) -> bool:
    """What may have spoilt an append; and what changes more of the store than the log: beside an erasure
    nobody may file what it erases."""
    return ask.tries > 0 or type(ask.command) in _ALONE


def _beside(batch: BatchBuilder, asks: list[Ask]) -> tuple[tuple[str, ...], Archive | None]:
    """What goes on in the store beside the log, with what went alone: blobs to erase, an archive to note."""
    if not asks or not batch.drafts or not _goes_alone(asks[0]):
        return (), None
    event = batch.drafts[-1].event
    if isinstance(event, ev.BlobsErased):
        return event.digests, None
    if not isinstance(event, ev.PartitionArchived):
        return (), None
    frontier, tip, sha256 = map(bytes.fromhex, (event.frontier, event.tip, event.sha256))
    return (), Archive(event.first, event.last, frontier, tip, event.file, sha256)


def _key(job: Job) -> AttemptKey:
    return AttemptKey(job.id, job.attempt)
