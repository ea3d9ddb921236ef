"""What the engine was asked and has not answered, and the answers that may be asked for again.

An idempotency key is answered once for the life of the log: whoever comes with one that is known, or on its
way, gets that answer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

import structlog
from msgspec import Struct

from horizon.core import commands as cmd
from horizon.core.decide import Events, Rejected
from horizon.core.state import State
from horizon.service.config import EngineConfig
from horizon.store.port import Answer, EventStore, StoreError, Unavailable

log = structlog.get_logger()

Render = Callable[[State, Events, int], tuple[int, bytes]]
"""Makes the answer (status, body) to a command from what was decided, recorded at the given time."""


class Busy(Exception):
    """The inbox is full: try again in a moment. Nothing was changed."""


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
    """Whoever waits for the answer; nobody does for that to a report."""
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

    @property
    def goes_alone(self) -> bool:
        """What may have spoilt an append; and what changes more of the store than the log: beside an erasure
        nobody may file what it erases."""
        return self.tries > 0 or type(self.command) in _ALONE


_ALONE: Final[frozenset[type]] = frozenset({cmd.Erase, cmd.RecordArchive})


class Inbox:
    """Whatever somebody waits for takes up room in it until it is answered or refused."""

    def __init__(self, store: EventStore, epoch: Callable[[], int], config: EngineConfig) -> None:
        """``epoch`` is that of the state: it tells when another one was begun."""
        self._store = store
        self._epoch = epoch
        self._config = config
        self.waiting: deque[Ask] = deque()
        """In the order in which they are to be decided."""
        self.in_hand: list[Ask] = []
        """What the batch in hand will answer."""
        self.jobs = 0
        """How many submissions and other commands wait to be answered; a batch counts each of its jobs."""
        self._bytes = 0
        self._in_flight: dict[str, Ask] = {}
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    # --- coming in ------------------------------------------------------------------------------------

    async def answered(self, key: str, fingerprint: bytes) -> Reply | None:
        """The answer under this key, when it was given before or is on its way. Raises ``KeyReused``."""
        while True:
            in_flight = self._in_flight.get(key)
            if in_flight is not None:
                assert in_flight.future is not None
                if in_flight.fingerprint != fingerprint:
                    raise KeyReused(key)
                reply = await asyncio.shield(in_flight.future)
                return Reply(reply.status, reply.body, replayed=True)
            answer, epoch = self._answers.get(key), self._epoch()
            if answer is None:
                answer = await self._store.answer(key)
            if answer is not None:
                if answer.fingerprint != fingerprint:
                    raise KeyReused(key)
                return Reply(answer.status, answer.body, replayed=True)
            # While the store was being asked somebody else may have begun with this key, or even ended; and
            # until we lead, that somebody may be another scheduler.
            if key not in self._in_flight and key not in self._answers and epoch == self._epoch():
                return None

    def check_room(self, weight: int, size_bytes: int) -> None:
        """Raises ``Busy`` when there is none for so much more."""
        if self.jobs and (
            self.jobs + weight > self._config.inbox_jobs_max
            or self._bytes + size_bytes > self._config.inbox_bytes_max
        ):
            raise Busy("too many requests are waiting; try again in a moment")

    def put(self, ask: Ask) -> None:
        if ask.key is not None:
            self._in_flight[ask.key] = ask
        self.jobs += ask.weight
        self._bytes += ask.size_bytes
        self.waiting.append(ask)

    def put_back(self, asks: list[Ask], error: StoreError | None) -> None:
        """Decide the commands anew in the next batch; with an error, refuse those that someone waits for."""
        for ask in reversed(asks):
            if ask.future is None:
                self.waiting.appendleft(ask)
            elif ask.reply is None and ask.refusal is None:
                continue  # it was refused when it was decided
            elif error is not None:
                self.refuse(ask, error)
            elif ask.tries >= self._config.append_tries_max:
                self.refuse(ask, Unavailable("it could not be made durable; nothing was changed"))
            else:
                ask.reply = ask.refusal = None
                self.waiting.appendleft(ask)

    # --- going out ------------------------------------------------------------------------------------

    def answer(self, ask: Ask) -> None:
        """Give it the reply that it has, or its refusal: what the log says of it is durable."""
        if ask.refusal is not None:
            self.refuse(ask, ask.refusal)
            return
        if ask.reply is None or ask.future is None:
            return  # a report, or refused already
        self._leave(ask)
        if ask.key is not None:
            self._answers[ask.key] = Answer(ask.key, ask.fingerprint, ask.reply.status, ask.reply.body)
            if len(self._answers) > self._config.answers_cached_max:
                self._answers.popitem(last=False)
        if not ask.future.done():
            ask.future.set_result(ask.reply)

    def refuse(self, ask: Ask, error: Exception) -> None:
        ask.reply = ask.refusal = None
        if ask.future is None:
            log.error("a report was refused", command=repr(ask.command), error=str(error))
            return
        self._leave(ask)
        if not ask.future.done():
            ask.future.set_exception(error)
            ask.future.exception()  # the caller may be gone: that it is never retrieved is no fault

    def refuse_all(self, error: Exception) -> None:
        """All that is in hand or waits; reports are forgotten."""
        asks = [*self.in_hand, *self.waiting]
        self.in_hand = []
        self.waiting.clear()
        for ask in asks:
            if ask.future is not None and not (ask.future.done() and ask.reply is None):
                self.refuse(ask, error)

    def _leave(self, ask: Ask) -> None:
        self.jobs -= ask.weight
        self._bytes -= ask.size_bytes
        if ask.key is not None:
            del self._in_flight[ask.key]
