"""A time of its own: an event loop whose clock jumps to whatever comes next, and whose chance is a seed.

Whoever runs on it is of a ``Process``, which can be killed or stopped between any two steps like a real one:
nothing of it is cleaned up, nothing is told to anyone. What is ready at one moment runs in an order drawn by
the seed. No thread, no file, no socket: the same seed gives the same run.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, NamedTuple

STEPS_MAX = 200_000
"""Callbacks after which a run counts as one that never ends."""


class Process:
    """What can be killed, and stopped and continued. Tasks and timers inherit it from whoever made them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.parked: list[_Step] = []
        """What came due while it was stopped."""


CURRENT: ContextVar[Process | None] = ContextVar("CURRENT", default=None)


class _Step(NamedTuple):
    handle: asyncio.Handle
    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: Context
    process: Process | None


class _Task(asyncio.Task[Any]):
    """One that a set has at the same place in every run: not by where it is in memory."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **named: Any) -> None:
        self._number = number
        super().__init__(coro, **named)

    def __hash__(self) -> int:
        return self._number


class VirtualLoop(asyncio.AbstractEventLoop):
    """Enough of an event loop for tasks, futures and timers."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = 0.0
        self._ready: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[Any]] = []
        self._dead: list[_Step] = []
        """What dead processes would have done next."""
        self._closed = self._reaping = False
        self.unhandled: list[str] = []

    # --- running ----------------------------------------------------------------------------------------

    def run_until_complete(self, future: Any) -> Any:
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(future)
            steps = 0
            while not task.done():
                steps += self._run_once()
                assert steps < STEPS_MAX, f"still running after {STEPS_MAX} steps, at {self._now:.3f} s"
            return task.result()
        finally:
            asyncio._set_running_loop(None)

    def _run_once(self) -> int:
        while not self._ready:
            assert self._timers, f"everything waits, and for nothing, at {self._now:.3f} s"
            when, _, step = heapq.heappop(self._timers)
            if not step.handle.cancelled():
                self._now = max(self._now, when)
                self._ready.append(step)
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])
        steps = list(self._ready)
        self._ready.clear()
        if len(steps) > 1:
            self._rng.shuffle(steps)
        for step in steps:
            self._run(step)
        return len(steps)

    def _run(self, step: _Step) -> None:
        process = step.process
        if process is not None and not process.alive and not self._reaping:
            self._dead.append(step)
        elif process is not None and process.stopped and not self._reaping:
            process.parked.append(step)
        elif not step.handle.cancelled():
            step.context.run(step.callback, *step.args)

    def carry_on(self, process: Process) -> None:
        """SIGCONT: what came due while it was stopped comes now."""
        process.stopped = False
        self._ready += process.parked
        process.parked.clear()

    def time(self) -> float:
        return self._now

    # --- what asyncio asks for --------------------------------------------------------------------------

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        context = copy_context() if context is None else context
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(_Step(handle, callback, args, context, context.get(CURRENT)))
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:  # type: ignore[override]
        context = copy_context() if context is None else context
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        step = _Step(handle, callback, args, context, context.get(CURRENT))
        heapq.heappush(self._timers, (when, next(self._numbers), step))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It stays in the heap until its time."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = _Task(next(self._numbers), coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, function: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done at some later moment, all at once."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_later(self._rng.random() * 0.01, run)
        return future

    def spawn(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this process."""
        context = copy_context()
        context.run(CURRENT.set, process)
        return self.create_task(coro, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None:
            self.unhandled.append(f"{context['message']}: {type(error).__name__}: {error}")

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Have everybody, the dead too, end in peace: nothing is left to the garbage collector."""
        self._reaping = True
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        self._ready += self._dead
        for step in self._dead:
            if step.process is not None:
                self._ready += step.process.parked
                step.process.parked.clear()
        self._dead.clear()
        asyncio._set_running_loop(self)
        try:
            while not all(task.done() for task in left) and (self._ready or self._timers):
                self._run_once()
        finally:
            asyncio._set_running_loop(None)
        self._closed = True
        self.unhandled.clear()


class VirtualTime:
    """Stands in for the module ``time`` where the service asks it how long something took."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.monotonic = loop.time
        self.perf_counter = loop.time
        self._loop = loop

    def monotonic_ns(self) -> int:
        return round(self._loop.time() * 1e9)


@contextmanager
def virtual_time(loop: VirtualLoop) -> Iterator[None]:
    """Have ``horizon.service``, and the log in memory, live in the loop's time."""
    shim = VirtualTime(loop)
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith(("horizon.service.", "horizon.store.")) and getattr(module, "time", None) is time
    ]
    for module in modules:
        module.time = shim  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.time = time  # type: ignore[attr-defined]
