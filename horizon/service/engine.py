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
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import structlog

import horizon
from horizon.core import commands as cmd
from horizon.core import events as ev
from horizon.core.at_rest import Unreadable, rests_on
from horizon.core.decide import Events, Given, Rejected, decide
from horizon.core.evolve import evolve
from horizon.core.model import EXECUTOR, SCHEDULER
from horizon.core.refused import kept
from horizon.core.schedule import DECISIONS, Cycle, schedule
from horizon.core.state import State
from horizon.executors.port import Executor, ExecutorError
from horizon.service.batch import BatchBuilder
from horizon.service.clock import Clock, Ids, LogClock
from horizon.service.config import EngineConfig
from horizon.service.inbox import Ask, Inbox, Render, Reply
from horizon.service.launches import Launcher, warn_of_lost
from horizon.service.leadership import Lease, Turn, steady_s
from horizon.service.metrics import EngineMetrics
from horizon.service.notary import Distrust, Notary
from horizon.service.recovery import Progress, fold_nearest
from horizon.store.codec import moved
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


class Stopped(Exception):
    """This scheduler does not lead (any more). The message says why."""


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
        self._last: ev.Recorded | None = None
        """What we appended last."""
        self.snapshots = snapshots
        """Those that there are just now, the newest first."""
        self._clock = LogClock(clock)
        self._config = config or EngineConfig()
        self._inbox = Inbox(store, lambda: self.state.epoch, self._config)
        self._wake = asyncio.Event()
        self._cycle_due = False
        self.cycle = Cycle((), 0, False)
        """The last one: it says why those wait that it did not start."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_us: int | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._stopping = False
        self._leads = False
        self.lease = Lease(self._config.lease_ttl_s, store.renew, self._wake.set)
        self._launcher = Launcher(
            executor,
            store,
            self._report,
            self._lease_in_hand,
            self.metrics,
            self._config.unavailable_retry_s,
        )
        self.trouble = ""
        """Why the store cannot be used just now."""
        self._doubt = ""
        """Why memory can no longer be trusted."""
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
        await self._launcher.close()
        self._inbox.refuse_all(Stopped("Horizon is shutting down"))
        if self.notary is not None:
            await self.notary.stop()
        await self._resign()
        await self.store.close()

    async def _step_down(self, reason: str) -> None:
        """Stop leading at once: answer nobody, start nothing."""
        self._leads = False
        log.error("stepping down", reason=reason)
        self._inbox.refuse_all(Stopped(reason))
        await self.lease.drop()
        if self.notary is not None:
            await self.notary.halt()
        await self._launcher.close()
        if not self.stopped.done():
            self.stopped.set_result(reason)

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
        await self._launcher.close()
        head = await self._elect(again, turn)
        if again:
            await self._check_kept(head)
        self.state = await (recover or self._fold)(self.store, head, self._noting(progress))
        self.folded = None
        announced: Events = ()
        if self.notary is not None:
            announced = await self.notary.begin(self.store, head, self.state, self._wake.set)
        inventories = await self._launcher.open(head)
        warn_of_lost(self.state, inventories)
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
        await self._launcher.adopt(self.state)
        self._cycle_due = True
        self._wake.set()
        self._leads, self.trouble = True, ""
        log.info("leading", epoch=head.epoch, position=self.state.position, jobs=len(self.state.numbered))

    async def _check_kept(self, head: Head) -> None:
        """That the log still has what we have answered to: it may have been set back while it was away."""
        last = self._last
        if last is None:
            return
        found = await self.store.read_at([last.position])
        if not found or found[0].hash != last.hash:
            ours = Head(head.log_id, head.epoch, last.position, last.hash, last.recorded_at_us)
            raise moved(ours, head)

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
        state, self.begun_at = await fold_nearest(store, self.snapshots, head, progress)
        return state

    @property
    def ready(self) -> bool:
        """Whether it leads, and nobody else can."""
        return self._leads and self.lease.holds

    @property
    def inbox_jobs(self) -> int:
        """How many submissions and other commands wait to be answered; a batch counts each of its jobs."""
        return self._inbox.jobs

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
            earlier = await self._inbox.answered(key, fingerprint)
            if earlier is not None:
                return earlier
        if not self._leads:
            raise Stopped("Horizon is not leading yet; try again in a moment")
        if not self.lease.holds:
            raise Stopped("this scheduler has heard nothing of the store for too long; try again in a moment")
        self._inbox.check_room(weight, size_bytes)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        ask = Ask(
            command, actor, self.ids.new(), render, future, key, fingerprint, blobs or {}, weight, size_bytes
        )
        self._put(ask)
        # A caller that goes away does not take back what it asked; one that shares a key must not end the
        # others' wait.
        return await (future if key is None else asyncio.shield(future))

    async def answered(self, key: str, fingerprint: bytes) -> bool:
        """Whether what comes under this key has been answered. Raises ``KeyReused``, ``StoreError``."""
        return await self._inbox.answered(key, fingerprint) is not None

    def _report(self, report: cmd.Report) -> None:
        self._put(Ask(report, EXECUTOR, self.ids.new(), weight=0))

    def doubt(self, error: Unreadable) -> None:
        """What a state rests on cannot be read any more: have it folded anew from the log, if it is ours."""
        if not self._doubt and rests_on(self.state, error.records):
            self._doubt = str(error)
            self._wake.set()

    def _put(self, ask: Ask) -> None:
        self._inbox.put(ask)
        self._wake.set()

    # --- the loop -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                if self.notary is not None and self.notary.failure:
                    raise Distrust(self.notary.failure)
                if self.lease.failure is not None:
                    raise self.lease.failure
                if self._doubt:
                    await self._fold_anew()
                    continue
                try:
                    await self._round()
                except Unreadable as error:  # before there was anything to append
                    self.doubt(error)
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
        batch, asks = self._gather(now_us)
        self._inbox.in_hand = asks
        recorded: tuple[ev.Recorded, ...] = ()
        if batch.drafts or any(ask.key for ask in asks if ask.reply):
            appended = await self._append(batch, asks, now_us)
            if appended is None:
                return
            recorded = appended
            try:
                self._evolve(recorded)
            except Unreadable as error:  # what was appended is durable all the same
                self.doubt(error)
        for ask in asks:
            self._inbox.answer(ask)
        self._inbox.in_hand = []
        if self._doubt:
            return  # whatever is to be started or stopped is, when we lead on
        if await self._lease_in_hand():
            self._launcher.follow(self.state, recorded)
        if self._cycle_due or self._inbox.waiting:
            self._wake.set()
        self._arm_timer()

    def _gather(self, now_us: int) -> tuple[BatchBuilder, list[Ask]]:
        """Decide what is due and what was asked, all on the same durable state."""
        batch = BatchBuilder(self.state)
        if self._cycle_due:
            self._cycle(batch, now_us)
        asks: list[Ask] = []
        deferred: list[Ask] = []
        held_up: set[str | None] = set()
        inbox, size_bytes = self._inbox.waiting, 0
        while inbox and len(batch.drafts) < self._config.append_events_max:
            ask = inbox[0]
            size_bytes += ask.size_bytes
            if asks and (size_bytes > self._config.append_bytes_max or ask.goes_alone or asks[0].goes_alone):
                break
            inbox.popleft()
            stream = cmd.stream_of(ask.command)
            if stream is not None and (stream in held_up or batch.touches(stream)):
                held_up.add(stream)
                deferred.append(ask)
                continue
            try:
                self._decide(batch, ask, now_us)
            except Unreadable as error:
                self.doubt(error)
                inbox.appendleft(ask)  # to be decided on what is folded anew
                break
            asks.append(ask)
        inbox.extendleft(reversed(deferred))
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
                self._inbox.refuse(ask, refusal)
                return
            ask.refusal = refusal
        except Unreadable:
            raise
        except Exception as error:  # deciding is pure, so only this command is harmed
            log.exception("a command could not be decided", command=repr(ask.command))
            self._inbox.refuse(ask, error)
            return
        batch.add(events, ask.actor, ask.command_id, self._causation(ask))

    def _causation(self, ask: Ask) -> int:
        """A report is caused by the last thing that happened to its job; what people ask has no cause."""
        if ask.actor != EXECUTOR:
            return 0
        job = self.state.jobs.get(cmd.stream_of(ask.command)[4:])  # type: ignore[index]
        return job.positions[-1] if job is not None else 0

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
        self._last = recorded[-1] if recorded else self._last
        self.metrics.appended(recorded)
        if self.notary is not None and recorded:
            self.notary.follow(recorded[-1])

    # --- appending, and what becomes of it ------------------------------------------------------------

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
            self._inbox.put_back(asks, error)
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

    def _note_trouble(self, error: StoreError | Unreadable) -> None:
        """Keep it for whoever asks after our health, and log it once, not at every try."""
        if str(error) != self.trouble:
            log.warning("the store cannot be used", error=str(error))
        self.trouble = str(error)

    async def _fold_anew(self) -> None:
        """Lead on with what the log says, and not with a state that nobody can trust or, meanwhile, read."""
        log.error("the log is folded anew", why=self._doubt)
        self._leads = False
        self.state = State()
        while not self._stopping:
            try:
                self._doubt = ""
                await self._lead(again=True)
                return
            except (Unavailable, UnknownOutcome, Unreadable) as error:
                self._note_trouble(error)
                await asyncio.sleep(self._config.unavailable_retry_s)

    async def _settle(self, unknown: UnknownOutcome, batch: Batch, asks: list[Ask]) -> None:
        """Find out whether a batch is in the log: raise the epoch first, then rebuild memory from it."""
        self._leads = False
        self._note_trouble(unknown)
        while not self._stopping:
            try:
                await self._lead(again=True)
                in_log = await self._came_about(batch, unknown)
                break
            except (Unavailable, UnknownOutcome, Unreadable) as error:
                self._note_trouble(error)
                await asyncio.sleep(self._config.unavailable_retry_s)
        else:
            return  # we are stopping; what was asked is refused as unanswered
        if in_log:
            for ask in asks:
                self._inbox.answer(ask)
        else:  # and never will be: its epoch is over
            for ask in asks:
                ask.tries += unknown.position > 0
            self._inbox.put_back(asks, None)
        self._inbox.in_hand = []
        self._wake.set()

    async def _came_about(self, batch: Batch, unknown: UnknownOutcome) -> bool:
        """Whether a batch is in the store. One without events leaves nothing in the log, only its answers."""
        if not batch.drafts:
            return await self.store.answer(batch.answers[0].key) is not None
        found = await self.store.read_at([unknown.position])
        return bool(found) and found[0].hash == unknown.hash

    # --- time -----------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return self._clock.now_us(self.state.recorded_at_us)

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


def _beside(batch: BatchBuilder, asks: list[Ask]) -> tuple[tuple[str, ...], Archive | None]:
    """What goes on in the store beside the log, with what went alone: blobs to erase, an archive to note."""
    if not asks or not batch.drafts or not asks[0].goes_alone:
        return (), None
    event = batch.drafts[-1].event
    if isinstance(event, ev.BlobsErased):
        return event.digests, None
    if not isinstance(event, ev.PartitionArchived):
        return (), None
    frontier, tip, sha256 = map(bytes.fromhex, (event.frontier, event.tip, event.sha256))
    return (), Archive(event.first, event.last, frontier, tip, event.file, sha256)
