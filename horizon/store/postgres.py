"""The log in Postgres 14 or newer. The contract is ``store.port``, the bytes are ``store.codec``.

One connection writes, as a role that may insert and not change; a small pool reads. An append is one
statement and one round trip: it moves the head by compare-and-swap on (epoch, position, tip) and inserts
the batch in the same breath, so whoever lost the lead changes 0 rows and knows it.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
from msgspec.structs import astuple

from horizon.core.events import Recorded, Stored
from horizon.store import codec, guards
from horizon.store.archive import Archives
from horizon.store.feed import TURN_EVENTS, fed, is_long
from horizon.store.fitness import POOLER_HINT, check_server, check_sessions
from horizon.store.migrate import SCHEMA_REVISION, current_revision, migrate
from horizon.store.port import (
    GENESIS_HASH,
    Answer,
    Archivable,
    Archive,
    Batch,
    Candidate,
    Corrupt,
    Fenced,
    Head,
    Leader,
    OpenTransaction,
    Signed,
    StoreError,
    Unavailable,
    UnknownOutcome,
    Wanted,
)

log = structlog.get_logger()

READ_EVENTS: Final = 5_000
"""Events per read: short reads hold no snapshot that would keep the head row from being pruned."""
PARTITION_MARGIN: Final = 5
"""The next partition is made when less than this part of one is left."""
_READ_CHECKPOINTS: Final = 1_000
READERS_MAX: Final = 4
APPLICATION: Final = "horizon"
"""What our connections are called in the database."""
CONNECT_S_MAX: Final = 10.0
ANSWER_S_MAX: Final = 30.0
"""How long a statement may take. Then its connection counts as broken: it may have been cut where neither end
is told of it, and would be waited for in vain."""

_EVENTS: Final = """
    INSERT INTO events (position, recorded_at_us, epoch, type, schema_version, stream, stream_version, actor,
                        command_id, correlation_id, causation, payload, hash)
    SELECT $2 + e.n, $5, $1, e.type, e.schema_version, e.stream, e.stream_version, e.actor,
           e.command_id, e.correlation_id, e.causation, e.payload, e.hash
    FROM head, unnest($7::text[], $8::smallint[], $9::text[], $10::bigint[], $11::text[],
                      $12::bytea[], $13::bytea[], $14::bigint[], $15::bytea[], $16::bytea[])
         WITH ORDINALITY AS e (type, schema_version, stream, stream_version, actor,
                               command_id, correlation_id, causation, payload, hash, n)
    RETURNING 1"""
_HEAD: Final = """
    UPDATE log_head SET position = $4, tip = $6, recorded_at_us = $5,
                        lease_until = clock_timestamp() + lease_ttl
    WHERE id = 1 AND epoch = $1 AND position = $2 AND tip = $3
    RETURNING position"""
_APPEND: Final = f"WITH head AS ({_HEAD}), e AS ({_EVENTS}) SELECT count(*) FROM head"
_BESIDE: Final = f"""
WITH head AS ({_HEAD}), e AS ({_EVENTS}),
b AS (INSERT INTO blobs (digest, data)
      SELECT b.* FROM head, unnest($17::text[], $18::bytea[]) AS b
      ON CONFLICT (digest) DO NOTHING),
a AS (INSERT INTO answers (key, fingerprint, status, body, position)
      SELECT a.*, $4 FROM head, unnest($19::text[], $20::bytea[], $21::smallint[], $22::bytea[]) AS a)"""
_APPEND_WITH: Final = f"{_BESIDE} SELECT count(*) FROM head"
_APPEND_ERASING: Final = f"""{_BESIDE},
d AS (DELETE FROM blobs USING head WHERE digest = ANY($23::text[]))
SELECT count(*) FROM head"""
_APPEND_ARCHIVE: Final = f"""{_BESIDE},
p AS (INSERT INTO archives (first, last, frontier, tip, file, sha256, position)
      SELECT $23::bigint, $24::bigint, $25::bytea, $26::bytea, $27::text, $28::bytea, $4 FROM head)
SELECT count(*) FROM head"""
COLUMNS: Final = """position, recorded_at_us, epoch, type, schema_version, stream, stream_version, actor,
                     command_id, correlation_id, causation, payload, hash"""
SELECT_EVENTS: Final = f"SELECT {COLUMNS} FROM events WHERE position > $1 ORDER BY position LIMIT $2"


def _with_previous(query: str) -> str:
    """The events of a query, each beside the hash of the one before, by which it can be checked."""
    return f"""SELECT *, (SELECT hash FROM events AS before WHERE before.position = found.position - 1)
               FROM ({query}) AS found ORDER BY position"""


_SELECT_AT: Final = _with_previous(f"SELECT {COLUMNS} FROM events WHERE position = ANY($1::bigint[])")
_FITS: Final = "($3::text IS NULL OR actor = $3) AND ($4::text[] IS NULL OR type = ANY($4))"
_WITHIN: Final = f"SELECT {COLUMNS} FROM events WHERE position > $1 AND position <= $2 AND {_FITS}"
_FIND: Final = _with_previous(f"{_WITHIN} ORDER BY position LIMIT $5")
_FIND_AT: Final = _with_previous(f"{_WITHIN} AND position = ANY($6::bigint[]) ORDER BY position LIMIT $5")
_POSITION_AT: Final = """
    WITH RECURSIVE half (low, high) AS (
        SELECT 0::bigint, position FROM log_head
        UNION ALL
        SELECT CASE WHEN is_later THEN low ELSE middle END, CASE WHEN is_later THEN middle - 1 ELSE high END
        FROM half, LATERAL (SELECT (low + high + 1) / 2 AS middle) AS m,
             LATERAL (SELECT EXISTS (SELECT FROM events
                                     WHERE position = middle AND recorded_at_us > $1) AS is_later) AS e
        WHERE low < high)
    SELECT max(low) FROM half"""
"""Halves the log until one position is left. What is not in the table any more was before all that is."""
_SELECT_CHECKPOINTS: Final = """SELECT size, frontier, note FROM checkpoints WHERE size > $1
                                ORDER BY size LIMIT $2"""
_NEWEST_RECORDS: Final = """SELECT DISTINCT ON (first) first, last, frontier, tip, file, sha256, position
                            FROM archives ORDER BY first, position DESC"""
SELECT_RECORDED: Final = f"SELECT * FROM ({_NEWEST_RECORDS}) AS newest ORDER BY first"
SELECT_ARCHIVES: Final = f"""SELECT * FROM ({_NEWEST_RECORDS}) AS newest WHERE last < partitions_begin()
                             ORDER BY first"""
SELECT_HEAD: Final = "SELECT log_id, epoch, position, tip, recorded_at_us FROM log_head WHERE id = 1"
_LEASE_ENDED: Final = "clock_timestamp() NOT BETWEEN lease_until - 2 * lease_ttl AND lease_until"
"""One that has longer to go than twice what it was made for says that the clock was set back, and not that
somebody leads: whoever does will have it begun anew by then."""
_IN_TURN: Final = f"""(leader = $1 OR (NOT $2 AND ($3::bigint IS NULL OR (
                          epoch = $3 AND ($4 OR {_LEASE_ENDED})))))"""
"""Whether there may be an election: name, again, over, living."""
_ELECT: Final = f"""
    UPDATE log_head SET epoch = epoch + 1, leader = $1, leader_home = $5, leader_name = $6, leader_url = $7,
                        leader_pid = pg_backend_pid(), lease_ttl = make_interval(secs => $8),
                        lease_until = clock_timestamp() + make_interval(secs => $8)
    WHERE id = 1 AND {_IN_TURN}
    RETURNING log_id, epoch, position, tip, recorded_at_us"""
_LOCK_WAIT: Final = "SET lock_timeout = '1s'"
"""How long an election waits for the head's lock: an append that goes on for longer is cut off."""
_CUT_OFF: Final = f"""
    SELECT pg_terminate_backend(pid) FROM log_head JOIN pg_stat_activity ON pid = log_head.leader_pid
    WHERE application_name = '{APPLICATION}' AND datname = current_database() AND {_IN_TURN}"""
_WHO_LOCKS: Final = """
    SELECT DISTINCT pid, application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = 'log_head'::regclass AND granted AND mode IN ('RowShareLock', 'RowExclusiveLock',
          'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"""
_RENEW: Final = """UPDATE log_head SET lease_until = clock_timestamp() + lease_ttl
                   WHERE id = 1 AND epoch = $1 RETURNING 1"""
_RESIGN: Final = "UPDATE log_head SET lease_until = clock_timestamp() WHERE id = 1 AND epoch = $1"
_SELECT_LEADER: Final = f"""
    SELECT log_id, epoch, position, tip, recorded_at_us, leader_home, leader_name, leader_url,
           (extract(epoch FROM lease_until) * 1000000)::bigint AS lease_until_us,
           CASE WHEN {_LEASE_ENDED} THEN 0
                ELSE extract(epoch FROM lease_until - clock_timestamp()) END::float8 AS lease_left_s
    FROM log_head WHERE id = 1"""

_OPEN: Final = """
    SELECT pid, application_name, usename, coalesce(backend_xid, backend_xmin)::text
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename IS NOT NULL
      AND coalesce(backend_xid, backend_xmin) IS NOT NULL
      AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    ORDER BY pid"""
"""These columns everybody sees of every session. One that has read and only waits has neither of the two
numbers, unless it is to see the same again or has written; without a user is autovacuum."""

TROUBLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what a connection says that was cut in the middle of something
)
"""Whatever the driver raises when a statement fails for a reason that is not ours."""

_UNKNOWN_STATES: Final = ("08", "40003", "57P")
"""SQLSTATEs after which a statement may have committed: connection trouble, and a backend told to go."""
_UNKNOWN_SEVERITIES: Final = ("FATAL", "PANIC")
"""The same for what ended the backend, or the server, whatever for: a disk may be full when a commit has been
written and not yet flushed, and what was written of it may survive."""


class PostgresStore:
    """One scheduler's view of the log in a database."""

    def __init__(self, dsn: str, candidate: Candidate | None = None, archive: Sequence[Path] = ()) -> None:
        """``archive`` are the directories where the files of archived partitions may be."""
        self._dsn = dsn
        self._archive = archive
        self._candidate = candidate or Candidate()
        self._name = os.urandom(16)
        """Tells our own elections, even one whose answer was lost, from those of others."""
        self._writer: asyncpg.Connection[Any] | None = None
        self._append: Any = None
        self._append_with: Any = None
        self._readers: asyncpg.Pool[Any] | None = None
        self._head: Head | None = None
        self._partitions_end = self._partition_margin = 0
        self._as_owner = False

    # --- opening --------------------------------------------------------------------------------------

    async def open(self) -> Head:
        owner = await connect(self._dsn)
        try:
            await check_server(owner)
            if await current_revision(owner) != SCHEMA_REVISION:
                await _migrate(self._dsn, owner)
            await _check_schema(owner)
            why = await _why_as_owner(owner)
            self._as_owner = bool(why)
            if why:
                log.warning(f"the scheduler writes as the owner of the log: {why}")
            await self._check_sessions(owner)
            head = head_of(await owner.fetchrow(SELECT_HEAD))
        finally:
            await owner.close()
        await self._open_readers()
        return head

    async def _check_sessions(self, owner: asyncpg.Connection[Any]) -> None:
        """That connections are our own, and in the role they are to be in."""
        settings = self._settings()
        other = await connect(self._dsn, settings)
        try:
            await check_sessions(owner, other, settings.get("role"))
        finally:
            await other.close()

    async def _open_readers(self) -> None:
        if self._readers is None:
            try:
                self._readers = await asyncpg.create_pool(
                    self._dsn,
                    min_size=1,
                    max_size=READERS_MAX,
                    timeout=CONNECT_S_MAX,
                    command_timeout=ANSWER_S_MAX,
                    server_settings=self._settings(),
                )
            except TROUBLE as error:
                raise Unavailable(f"Postgres cannot be reached: {error}") from error

    def _settings(self) -> dict[str, str]:
        role = {} if self._as_owner else {"role": "horizon_writer"}
        return {"application_name": APPLICATION, **role}

    async def elect(self, again: bool = False, over: int | None = None, living: bool = False) -> Head:
        """Raise the epoch on a fresh connection.

        The row lock makes this wait for any append still under way, so once it returns no earlier append
        can ever be committed.
        """
        await self._drop_writer()
        who = self._candidate
        asked = (self._name, again, over, living, who.home, who.name, who.url, who.lease_ttl_s)
        try:
            await self._ensure_partitions()
            writer = await connect(self._dsn, self._settings(), ANSWER_S_MAX)
            self._writer = writer
            self._append = await writer.prepare(_APPEND)
            self._append_with = await writer.prepare(_APPEND_WITH)
            row = await self._elected(writer, asked)
        except TROUBLE as error:
            raise Unavailable(f"cannot take the lead: {error}") from error
        if row is None:
            raise Fenced("another scheduler has been elected")
        self._head = head_of(row)
        return self._head

    async def _elected(self, writer: asyncpg.Connection[Any], asked: tuple[Any, ...]) -> Any:
        """The head as we have it then; None when it was not our turn."""
        await writer.execute(_LOCK_WAIT)
        try:
            row = await writer.fetchrow(_ELECT, *asked)
        except asyncpg.LockNotAvailableError:
            await self._cut_off(asked[:4])
            row = await writer.fetchrow(_ELECT, *asked)
        await writer.execute("RESET lock_timeout")
        return row

    async def _cut_off(self, turn: tuple[Any, ...]) -> None:
        """End the append of whoever leads no more, which keeps the head locked, as its user may.

        Its process may stand still, or the way to it be cut: then it would be waited for for ever.
        """
        owner = await connect(self._dsn, answer_s_max=ANSWER_S_MAX)
        try:
            if not await owner.fetch(_CUT_OFF, *turn):
                who = await owner.fetch(_WHO_LOCKS)
                names = ", ".join(f"{row['pid']} ({row['application_name'] or 'unnamed'})" for row in who)
                raise Unavailable(
                    f"the head of the log is locked by another transaction: end process {names} of Postgres"
                )
        finally:
            await owner.close()

    async def _drop_writer(self) -> None:
        if self._writer is not None:
            self._writer.terminate()
        self._writer = self._head = None

    async def _ensure_partitions(self, tail: int = 0) -> None:
        """Have room ahead of this position and of the end: made as the owner, on a connection of its own."""
        owner = await connect(self._dsn, answer_s_max=ANSWER_S_MAX)
        try:
            position = max(tail, await owner.fetchval("SELECT position FROM log_head"))
            size = await owner.fetchval("SELECT partition_size()")
            self._partition_margin = size // PARTITION_MARGIN
            self._partitions_end = await owner.fetchval("SELECT partitions_end()")
            while position + self._partition_margin >= self._partitions_end:
                self._partitions_end = await owner.fetchval("SELECT add_partition()")
        finally:
            await owner.close()

    async def _top_up_partitions(self, tail: Head) -> None:
        """There is room for a long while yet: that no more can be made is a warning until there is none."""
        try:
            await self._ensure_partitions(tail.position)
        except (StoreError, *TROUBLE) as error:
            log.warning("no partition can be added to the log", error=str(error), end=self._partitions_end)
            if tail.position >= self._partitions_end:
                raise Unavailable(f"the log has no room: {error}") from error

    async def leader(self) -> Leader:
        rows = await self._fetch(_SELECT_LEADER)
        row = tuple(rows[0]) if rows else None
        return Leader(head_of(row and row[:5]), *(row or ())[5:])

    async def renew(self) -> None:
        """Not on the writer, which an append may be using. It waits for that append as for any."""
        head = self._head
        if head is None:
            raise Unavailable("this scheduler has not been elected")
        if not await self._fetch(_RENEW, head.epoch):
            raise codec.moved(head, await self._head_now())

    async def _head_now(self) -> Head:
        rows = await self._fetch(SELECT_HEAD)
        return head_of(rows[0] if rows else None)

    async def resign(self) -> None:
        if self._head is not None:
            await self._fetch(_RESIGN, self._head.epoch)

    # --- writing --------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> tuple[Recorded, ...]:
        head, writer = self._head, self._writer
        if head is None or writer is None or writer.is_closed():
            # The writer broke while idle. Whether another leads is settled by a new election, like any doubt.
            raise UnknownOutcome("the connection to Postgres was lost", 0, b"")
        sealed = codec.seal(head, batch.drafts, batch.recorded_at_us)
        tail = codec.after(head, sealed)
        if tail.position + self._partition_margin >= self._partitions_end:
            await self._top_up_partitions(tail)
        arguments: tuple[Any, ...] = (
            head.epoch,
            head.position,
            head.tip,
            tail.position,
            tail.recorded_at_us,
            tail.tip,
            [one.type for one in sealed],
            [one.schema_version for one in sealed],
            [one.stream for one in sealed],
            [one.stream_version for one in sealed],
            [one.actor for one in sealed],
            [one.command_id for one in sealed],
            [one.correlation_id for one in sealed],
            [one.causation for one in sealed],
            [one.payload for one in sealed],
            [one.hash for one in sealed],
        )
        statement = self._append
        if batch.blobs or batch.answers or batch.erased or batch.archive:
            statement = self._append_with
            arguments = (*arguments, *_beside(batch))
        try:
            if batch.erased:  # too seldom to be prepared
                count = await writer.fetchval(_APPEND_ERASING, *arguments, list(batch.erased))
            elif batch.archive:
                count = await writer.fetchval(_APPEND_ARCHIVE, *arguments, *astuple(batch.archive)[:-1])
            else:
                count = await statement.fetchval(*arguments)
        except Exception as error:  # whatever the driver raises, the question is what it says of the outcome
            raise _classify(error, tail) from error
        if count == 0:
            raise codec.moved(head, await self._head_now())
        self._head = tail
        return sealed

    # --- reading --------------------------------------------------------------------------------------

    async def read(
        self, after: int, limit: int | None = None, previous: bytes | None = None
    ) -> AsyncIterator[Recorded]:
        position = after
        if previous is None:
            previous = await self._hash_at(after)
        if is_long(limit):
            async with aclosing(fed(self._dsn, self._archive, after, after + limit, previous)) as events:
                async for recorded in events:
                    yield recorded
            return
        reading = self._reading(after, limit)
        try:
            while reading is not None:
                rows, more = await reading
                limit = None if limit is None else limit - len(rows)
                # While these are looked at the next ones are on their way.
                reading = self._reading(rows[-1][0], limit) if more else None
                for row in rows:
                    recorded = _recorded(row)
                    codec.check_link(recorded, position + 1, previous)
                    position, previous = recorded.position, recorded.hash
                    yield recorded
                    if position % TURN_EVENTS == 0:
                        await asyncio.sleep(0)
        finally:
            if reading is not None:
                reading.cancel()

    def _reading(self, after: int, limit: int | None) -> asyncio.Task[tuple[list[Any], bool]] | None:
        """The next rows, on their way; None when no more are wanted."""
        if limit == 0:
            return None
        some = READ_EVENTS if limit is None else min(READ_EVENTS, limit)
        reading = asyncio.create_task(self._rows(after, some))
        reading.add_done_callback(_note_taken)
        return reading

    async def _rows(self, after: int, limit: int) -> tuple[list[Any], bool]:
        """The next rows, at most so many, and whether there may be more."""
        rows = await self._fetch(SELECT_EVENTS, after, limit)
        if rows and rows[0][0] > after + 1:
            return await self._archived(after, limit) or rows, True
        return rows, len(rows) == limit

    async def _hash_at(self, position: int) -> bytes:
        """What the event behind this position must hang on."""
        if not position:
            return GENESIS_HASH
        archive = (await self.archives()).ending_at(position)
        if archive is not None and archive.last == position:
            return archive.tip
        return next((one.hash for one in await self.read_at([position])), GENESIS_HASH)

    async def archives(self) -> Archives:
        """The partitions that are in files and not in the table any more."""
        return Archives([Archive(*row) for row in await self._fetch(SELECT_ARCHIVES)], self._archive)

    async def archivable(self, first: int) -> Archivable | None:
        from horizon.store.partitions import archivable
        from horizon.store.reader import LogReader

        reader = LogReader(self._dsn, self._archive)
        await reader.open()
        try:
            return await archivable(reader, first)
        finally:
            await reader.close()

    async def read_at(self, positions: Iterable[int]) -> list[Recorded]:
        wanted = sorted(set(positions))
        found = await self._checked(await self._fetch(_SELECT_AT, wanted))
        if len(found) < len(wanted):
            archives, here = await self.archives(), {one.position for one in found}
            missing = [one for one in wanted if one not in here and archives.holding(one)]
            found = [*[await self._archived_at(archives, one) for one in missing], *found]
        return found

    async def _checked(self, rows: list[Any]) -> list[Recorded]:
        """The events of rows that have the hash of the event before at their end. Raises ``Corrupt``."""
        found = []
        for *row, previous in rows:
            recorded = _recorded(row)
            if previous is None:
                previous = await self._hash_before(recorded.position)
            codec.check_link(recorded, recorded.position, previous)
            found.append(recorded)
        return found

    async def _hash_before(self, position: int) -> bytes:
        """What the first event of the log hangs on, or the first that is in the table."""
        archive = (await self.archives()).ending_at(position - 1)
        if position > 1 and (archive is None or archive.last != position - 1):
            raise Corrupt(f"event {position - 1} is missing")
        return GENESIS_HASH if archive is None else archive.tip

    async def _archived(self, after: int, limit: int) -> list[tuple[Any, ...]]:
        """So many events behind a position, or some less, out of a file; none when they are in none."""
        archives = await self.archives()
        if archives.holding(after + 1) is None:
            return []
        return [astuple(one) for one in await asyncio.to_thread(archives.some, after, after + limit)]

    @staticmethod
    async def _archived_at(archives: Archives, position: int) -> Recorded:
        [stored] = await asyncio.to_thread(archives.find, Wanted(positions=(position,)), 0, position, 1)
        return _recorded(astuple(stored))

    async def find(self, wanted: Wanted, after: int, end: int, limit: int) -> list[Recorded]:
        while True:
            archives = await self.archives()
            found = await self._found(archives, wanted, after, end, limit)
            if (await self.archives()).end == archives.end:  # else what is in neither may have gone between
                return found

    async def _found(
        self, archives: Archives, wanted: Wanted, after: int, end: int, limit: int
    ) -> list[Recorded]:
        archived: list[Stored] = []
        if after < archives.end:
            archived = await asyncio.to_thread(archives.find, wanted, after, end, limit)
            if len(archived) == limit or end <= archives.end:
                return [_recorded(astuple(one)) for one in archived]
            after, limit = archives.end, limit - len(archived)
        asked: list[object] = [after, end, wanted.actor, list(wanted.types) or None, limit]
        if wanted.positions is None:
            rows = await self._fetch(_FIND, *asked)
        else:
            rows = await self._fetch(_FIND_AT, *asked, list(wanted.positions))
        return [*(_recorded(astuple(one)) for one in archived), *await self._checked(rows)]

    async def position_at(self, moment_us: int) -> int:
        position: int = (await self._fetch(_POSITION_AT, moment_us))[0][0]
        archives = await self.archives()
        if archives.known and position <= archives.end:
            return await asyncio.to_thread(archives.position_at, moment_us)
        return position

    async def blobs(self, digests: Iterable[str]) -> dict[str, bytes]:
        rows = await self._fetch(
            "SELECT digest, data FROM blobs WHERE digest = ANY($1::text[])", list(digests)
        )
        return {row["digest"]: row["data"] for row in rows}

    async def answer(self, key: str) -> Answer | None:
        rows = await self._fetch("SELECT key, fingerprint, status, body FROM answers WHERE key = $1", key)
        return Answer(*rows[0]) if rows else None

    async def hashes(self, after: int, previous: bytes, limit: int) -> list[bytes]:
        found = []
        for position, row in enumerate(await self._fetch(SELECT_EVENTS, after, limit), after + 1):
            stored = Stored(*row)
            codec.check_link(stored, position, previous)
            previous = stored.hash
            found.append(previous)
        return found

    async def add_checkpoint(self, signed: Signed) -> None:
        await self._fetch(
            "INSERT INTO checkpoints (size, frontier, note) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            signed.size,
            signed.frontier,
            signed.note,
        )

    async def newest_checkpoint(self) -> Signed | None:
        rows = await self._fetch("SELECT size, frontier, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        return Signed(*rows[0]) if rows else None

    def checkpoints(self, after: int = 0) -> AsyncIterator[Signed]:
        return checkpoints_by(self._fetch, after)

    async def ping(self) -> None:
        await self._fetch("SELECT 1")

    async def open_transactions(self) -> list[OpenTransaction]:
        """Sessions that keep vacuum in this database from what was deleted since they began, for as long as
        the number of one stays the same. Prepared transactions, replication slots and standbys with feedback
        do that, too, and are not among them."""
        return [OpenTransaction(*row) for row in await self._fetch(_OPEN)]

    async def _fetch(self, query: str, *arguments: object) -> list[Any]:
        if self._readers is None:
            raise Unavailable("the store is not open")
        try:
            return list(await self._readers.fetch(query, *arguments))
        except TROUBLE as error:
            raise Unavailable(f"Postgres does not answer: {error}") from error

    async def close(self) -> None:
        if self._writer is not None and not self._writer.is_closed():
            await self._writer.close()
        self._writer = self._head = None
        if self._readers is not None:
            readers, self._readers = self._readers, None
            await readers.close()


# --- helpers ------------------------------------------------------------------------------------------


async def connect(
    dsn: str, settings: dict[str, str] | None = None, answer_s_max: float | None = None
) -> asyncpg.Connection[Any]:
    """A connection, or a sentence on why there is none; a bound is for each of its statements."""
    where = "check DATABASE_URL, and that the server runs"
    try:
        connection: asyncpg.Connection[Any] = await asyncpg.connect(
            dsn,
            timeout=CONNECT_S_MAX,
            command_timeout=answer_s_max,
            server_settings=settings or {"application_name": APPLICATION},
        )
        return connection
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        raise Unavailable(
            f"Postgres refused the login ({error}): check user and password in DATABASE_URL"
        ) from error
    except asyncpg.InvalidCatalogNameError as error:
        raise Unavailable(f"{error}: create the database, or name another one in DATABASE_URL") from error
    except (OSError, ssl.SSLError, TimeoutError) as error:
        raise Unavailable(f"Postgres cannot be reached ({error or type(error).__name__}): {where}") from error
    except ValueError:
        # What the driver says of an address that it cannot read may be a piece of the password.
        raise Unavailable(
            "DATABASE_URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/NAME, and in the "
            "password %XX for what is no letter or digit, such as %2F for /"
        ) from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if "unsupported startup parameter" in str(error):
            where = POOLER_HINT
        raise Unavailable(f"Postgres refused the connection ({error}): {where}") from error


async def _migrate(dsn: str, connection: asyncpg.Connection[Any]) -> None:
    revision = await current_revision(connection)
    if revision is not None and revision > SCHEMA_REVISION:
        raise Unavailable(
            f"the database is at schema {revision}, this Horizon knows {SCHEMA_REVISION}: use a newer Horizon"
        )
    try:
        await migrate(dsn)
    except (asyncpg.PostgresError, OSError) as error:
        raise Unavailable(f"the schema could not be brought up to date: {error}") from error
    except Exception as error:  # SQLAlchemy wraps what the driver says
        if error.__class__.__module__.startswith("sqlalchemy"):
            raise Unavailable(f"the schema could not be brought up to date: {error}") from error
        raise


async def _check_schema(connection: asyncpg.Connection[Any]) -> None:
    """That the log is still protected: someone may have dropped a trigger."""
    unguarded = await guards.missing(connection.fetch)
    if unguarded:
        raise Unavailable(guards.what_to_do(unguarded))


async def _why_as_owner(connection: asyncpg.Connection[Any]) -> str:
    """Why the scheduler cannot write as the role that may insert and no more; empty when it can."""
    is_member, user = await connection.fetchrow(
        """SELECT (SELECT pg_has_role(oid, 'MEMBER') FROM pg_roles WHERE rolname = 'horizon_writer'),
                  quote_ident(current_user)"""
    )
    if is_member is None:
        return "the role horizon_writer is not there"
    if is_member:
        return ""
    return f"{user} is no member of the role horizon_writer: as a superuser, GRANT horizon_writer TO {user}"


def _note_taken(reading: asyncio.Task[Any]) -> None:
    """Whoever looks at no more events need not hear that reading them failed."""
    if not reading.cancelled():
        reading.exception()


async def checkpoints_by(fetch: Callable[..., Awaitable[list[Any]]], after: int) -> AsyncIterator[Signed]:
    """The checkpoints over more than so many events, the smallest first, in short reads."""
    while rows := await fetch(_SELECT_CHECKPOINTS, after, _READ_CHECKPOINTS):
        for row in rows:
            yield Signed(*row)
        after = rows[-1]["size"]


def head_of(row: Any) -> Head:
    if row is None:
        raise Corrupt("the log has no head: log_head is empty")
    return Head(*row)


def _recorded(row: Any) -> Recorded:
    """From the columns of an event in their order."""
    values = (*row, codec.open_payload(row[0], row[3], row[4], row[11]))
    return Recorded(*values)


def _beside(batch: Batch) -> tuple[list[Any], ...]:
    """The arguments for what stands beside the events."""
    answers = batch.answers
    return (
        list(batch.blobs),
        list(batch.blobs.values()),
        [answer.key for answer in answers],
        [answer.fingerprint for answer in answers],
        [answer.status for answer in answers],
        [answer.body for answer in answers],
    )


def _classify(error: Exception, tail: Head) -> StoreError:
    """What an error of an append says about its outcome; in doubt, that it is unknown."""
    state = getattr(error, "sqlstate", None)
    severity = getattr(error, "severity_en", None) or getattr(error, "severity", None)
    if state is None or state.startswith(_UNKNOWN_STATES) or severity in _UNKNOWN_SEVERITIES:
        return UnknownOutcome(f"the connection broke during an append: {error}", tail.position, tail.tip)
    return Unavailable(f"Postgres refused an append: {error}")
