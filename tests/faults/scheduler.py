"""``horizon`` that can be made to kill itself at a named point, or to live by another clock.

    HORIZON_KILL_AT='after commit:3'   SIGKILL when this point is passed for the third time
    HORIZON_CLOCK=FILE                 the wall clock is ahead by as many seconds as stand in the file
    HORIZON_ANSWER_S=SECONDS           how long Postgres may take for a statement
    HORIZON_SIGN_S=SECONDS             how long after a checkpoint the next one is due
    HORIZON_OPEN_S=SECONDS             how long a transaction of others may stay open unremarked

The program itself knows nothing of that: its functions are wrapped from outside.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from horizon.service import notary, transactions
from horizon.store import postgres
from horizon.store.migrate import migrations_dir


class Point(NamedTuple):
    """A place in the program: before a function is called, once it has come back, or while it waits."""

    when: str
    module: str
    function: str
    given: str = ""
    """Only calls with this among their arguments."""


ADD_PARTITION: Final = "SELECT add_partition()"
MIGRATIONS: Final = tuple(sorted(path.name for path in migrations_dir().glob("*.sql")))
IN_MIGRATION: Final = {
    f"in {name}": Point(
        "during", "asyncpg.connection", "Connection.execute", (migrations_dir() / name).read_text()
    )
    for name in MIGRATIONS
}
BEHIND_MIGRATION: Final = {
    f"behind {name}": Point("after", "horizon.store.migrate", "run_sql", name) for name in MIGRATIONS
}
"""Nothing has been committed then."""

POINTS: Final = {
    **IN_MIGRATION,
    **BEHIND_MIGRATION,
    "before a partition": Point("before", "horizon.store.postgres", "PostgresStore._ensure_partitions"),
    "after a partition": Point("after", "asyncpg.connection", "Connection.fetchval", ADD_PARTITION),
    "elected": Point("after", "horizon.store.postgres", "PostgresStore.elect"),
    "folded": Point("before", "horizon.service.notary", "Notary.begin"),
    "trusted": Point("after", "horizon.service.notary", "Notary.begin"),
    "announced": Point("before", "horizon.service.launches", "Launcher.adopt"),
    "adopted": Point("after", "horizon.service.launches", "Launcher.adopt"),
    "before encode": Point("before", "horizon.store.codec", "seal"),
    "before send": Point("before", "asyncpg.prepared_stmt", "PreparedStatement.fetchval"),
    "after send": Point("during", "asyncpg.prepared_stmt", "PreparedStatement.fetchval"),
    "after commit": Point("after", "horizon.store.postgres", "PostgresStore.append"),
    "before acknowledge": Point("before", "horizon.service.inbox", "Inbox.answer"),
    "after acknowledge": Point("before", "horizon.service.launches", "Launcher.follow"),
    "before launch": Point("before", "horizon.executors.local", "LocalExecutor.launch"),
    "mid launch": Point("after", "horizon.executors.local", "LocalExecutor.launch"),
    "before checkpoint": Point("before", "horizon.service.notefile", "NoteFile.append"),
    "mid checkpoint": Point("after", "horizon.service.notefile", "NoteFile.append"),
    "after checkpoint": Point("after", "horizon.store.postgres", "PostgresStore.add_checkpoint"),
    "before snapshot": Point("before", "horizon.store.snapshots", "_write"),
    "mid snapshot": Point("before", "horizon.store.snapshots", "_digest"),
    "snapshot without a name": Point("after", "horizon.store.snapshots", "_write"),
    "snapshot with a name": Point("before", "horizon.store.snapshots", "_sync"),
    "before older snapshots go": Point("before", "horizon.store.snapshots", "Snapshots._prune"),
}


def arm(name: str, passes: int) -> None:
    """Have this process killed when it comes to the point for the n-th time."""
    point = POINTS[name]
    owner: Any = importlib.import_module(point.module)
    *classes, function = point.function.split(".")
    for each in classes:
        owner = getattr(owner, each)
    left = passes

    def passed(arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if not point.given or point.given in arguments:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, function, _wrapped(getattr(owner, function), point.when, passed))


def _wrapped(original: Any, when: str, passed: Callable[[tuple[Any, ...]], None]) -> Any:
    def called(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            passed(arguments)
        result = original(*arguments, **named)
        if inspect.isawaitable(result):
            return waited(result, arguments)
        if when == "after":
            passed(arguments)
        return result

    async def waited(result: Any, arguments: tuple[Any, ...]) -> Any:
        at_work = asyncio.ensure_future(result)
        if when == "during":
            await asyncio.sleep(0)  # it has been sent; the answer takes longer
            passed(arguments)
        given = await at_work
        if when == "after":
            passed(arguments)
        return given

    return called


def follow_clock(file: Path) -> None:
    """Have the wall clock be ahead by what the file says, from the next look on."""
    from horizon.service.clock import SystemClock

    right = SystemClock.now_us

    def now_us(self: SystemClock) -> int:
        return right(self) + round(float(file.read_text()) * 1e6)

    SystemClock.now_us = now_us  # type: ignore[method-assign]


def main() -> None:
    name, _, passes = os.environ.pop("HORIZON_KILL_AT", "").partition(":")
    clock = os.environ.pop("HORIZON_CLOCK", "")
    answer_s = os.environ.pop("HORIZON_ANSWER_S", "")
    sign_s = os.environ.pop("HORIZON_SIGN_S", "")
    open_s = os.environ.pop("HORIZON_OPEN_S", "")
    if name:
        arm(name, int(passes or 1))
    if answer_s:
        postgres.ANSWER_S_MAX = float(answer_s)  # type: ignore[misc]
    if sign_s:
        notary.SIGN_S = float(sign_s)  # type: ignore[misc]
    if open_s:
        transactions.OPEN_S_MAX = float(open_s)  # type: ignore[misc]
        transactions.LOOK_S = float(open_s) / 4  # type: ignore[misc]
    if clock:
        follow_clock(Path(clock))
    from horizon.cli.main import main as horizon

    sys.exit(horizon())


if __name__ == "__main__":
    main()
