"""What every handler works with: the engine, a clock to read, and a few things shared between requests."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from aiohttp import web

from horizon.api.answers import NOTHING_HIDDEN, Hidden, hidden_in
from horizon.api.auth import OWNER
from horizon.api.faults import clipped
from horizon.api.past import Past
from horizon.api.problems import malformed, not_found, unavailable
from horizon.api.reading import fingerprint, idempotency_key
from horizon.core.at_rest import Unreadable
from horizon.core.blobs import digests_of, fault_in
from horizon.core.commands import Command
from horizon.core.explain import explainer
from horizon.core.schedule import schedule
from horizon.core.state import Job, State
from horizon.service.clock import Clock
from horizon.service.engine import Engine, Stopped
from horizon.service.inbox import Render, Reply
from horizon.service.standby import Standby

log = structlog.get_logger()

REACH_S_MAX: Final = 2.0
REACH_POLL_S: Final = 0.005
"""How long, and how often it is looked, while somebody waits for a position."""

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_TASK: Final = re.compile(r"([0-9]{1,18})_([0-9]{1,18})")


class Context:
    """One per application."""

    def __init__(
        self, engine: Engine, token: str | None, clock: Clock, standby: Standby | None = None
    ) -> None:
        self.engine = engine
        self.standby = standby
        """What follows the log until the engine leads; None where the engine leads from the start."""
        self.started_us = clock.now_us()
        self.cursor_key = hashlib.sha256(b"horizon cursor " + (token or "").encode()).digest()
        """Cursors outlive a restart, and not a change of the token."""
        self.past = Past(engine.store, lambda: self.latest.position, engine.snapshots)
        self.followers: set[asyncio.Task[object]] = set()
        """Requests that go on for as long as a job does."""
        self._clock = clock
        self._said: set[str] = set()
        """Digests of blobs that something is wrong with, and it has been logged."""
        self._explained: tuple[State, int, Callable[[Job], str]] | None = None

    @property
    def following(self) -> Standby | None:
        """The standby, while another scheduler leads."""
        return self.standby if self.standby is not None and self.standby.following else None

    @property
    def latest(self) -> State:
        """What is known here of the durable state: the leader's own, or what a standby has folded of it."""
        following = self.following
        return self.engine.state if following is None else following.follower.state

    async def reach(self, position: int) -> None:
        """Wait for what is known here to reach a position of the log, but not for long."""
        deadline = time.monotonic() + REACH_S_MAX
        while self.latest.position < position:
            if time.monotonic() > deadline:
                raise unavailable(
                    f"what is known here ends at {self.latest.position} and not yet at {position}", 1
                )
            if (following := self.following) is not None:
                following.follower.hurry()
            await asyncio.sleep(REACH_POLL_S)

    @property
    def state(self) -> State:
        """The durable state; raises ``Stopped`` before the log has been read."""
        state = self.latest
        if not state.epoch:
            raise Stopped("Horizon is starting: the log is still being read")
        return state

    def doubt(self, error: Unreadable) -> None:
        """What a state rests on cannot be read any more: whoever has that state makes it anew."""
        self.past.doubt(error)
        following = self.following
        (self.engine if following is None else following.follower).doubt(error)

    def now_us(self) -> int:
        """The clock, but never before what is in the log."""
        return max(self._clock.now_us(), self.latest.recorded_at_us)

    async def as_of(self, request: web.Request, at: str | None) -> tuple[State, int]:
        """The state and the moment that a question is about: those of now unless it says ``at``."""
        state = self.state
        return (state, self.now_us()) if at is None else await self.past.at(request, at)

    # --- jobs -----------------------------------------------------------------------------------------

    def find_job(self, id: str) -> Job:
        """The job that is called so. Raises ``Problem``."""
        job = job_called(self.state, id)
        if job is None:
            raise not_found(f"there is no job {id}")
        return job

    def reasons(self, state: State) -> Callable[[Job], str]:
        """Why jobs wait, in the state as it is; worked out once for as long as nothing happens."""
        known = self._explained
        if known is not None and known[0] is state and known[1] == state.position:
            return known[2]
        now_us = self.now_us()
        # Cycles are the leader's; a standby runs one for itself, which is pure, to see what it says.
        cycle = self.engine.cycle if self.following is None else schedule(state, now_us)
        reason = explainer(state, cycle, now_us)
        self._explained = (state, state.position, reason)
        return reason

    async def hidden(self, job: Job) -> Hidden:
        """The environment and the script of a job."""
        if not digests_of(job.spec):
            return NOTHING_HIDDEN
        return hidden_in(job, self.state, await self.blobs_of([job]))

    async def blobs_of(self, jobs: Iterable[Job]) -> dict[str, bytes]:
        """The blobs of many jobs, in one query; without those that are not what they are filed as."""
        whose = {digest: job for job in jobs for digest in digests_of(job.spec)}
        found = await self.engine.store.blobs(sorted(whose)) if whose else {}
        intact = {}
        for digest, job in whose.items():
            data = found.get(digest)
            wrong = fault_in(digest, data)
            if data is not None and not wrong:
                intact[digest] = data
            elif digest not in self._said and not (data is None and job.state.ended):  # it may be erased
                self._said.add(digest)
                log.error("what a job was given", job=job.number, reason=wrong, digest=digest)
        return intact

    # --- asking ---------------------------------------------------------------------------------------

    async def answered(self, request: web.Request, body: bytes) -> bool:
        """Whether this is the same request again, and ``ask`` has its answer."""
        key = idempotency_key(request)
        return key is not None and await self.engine.answered(key, fingerprint(request, body))

    async def ask(
        self,
        request: web.Request,
        body: bytes,
        command: Command,
        render: Render,
        *,
        blobs: dict[str, bytes] | None = None,
        weight: int = 1,
    ) -> Reply:
        """Have the engine do it, once for each idempotency key. Raises what ``Engine.ask`` does."""
        key = idempotency_key(request)
        if key is None:
            return await self.engine.ask(
                command, OWNER, render, blobs=blobs, weight=weight, size_bytes=len(body)
            )
        return await self.engine.ask(
            command,
            OWNER,
            render,
            blobs=blobs,
            key=key,
            fingerprint=fingerprint(request, body),
            weight=weight,
            size_bytes=len(body),
        )


def job_called(state: State, id: str) -> Job | None:
    """By id (a UUID, in any case), by number, or a task by its array's number and its index: 12_7.

    Raises ``Problem`` for what can be none of these.
    """
    job = state.jobs.get(id)
    if job is not None:
        return job
    if _NUMBER.fullmatch(id):
        return state.job_numbered(int(id))
    if task := _TASK.fullmatch(id):
        return _task(state, int(task[1]), int(task[2]))
    if _UUID.fullmatch(id.lower()):
        return state.jobs.get(id.lower())
    raise malformed(
        f"{clipped(id)!r} is no job: give its id (a UUID), its number, or for a task of an array its "
        "array's number and its index, such as 12_7"
    )


def _task(state: State, number: int, index: int) -> Job | None:
    array = state.arrays.get(number)
    if array is None or array.job.spec.array is None:
        return None
    place = array.job.spec.array.task_of(index)
    return None if place is None else state.job_numbered(array.first + place)
