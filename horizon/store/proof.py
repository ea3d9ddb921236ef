"""Proves of a job's events that they are in the log that was signed.

Each comes with its path to the root of the newest checkpoint. ``horizon/auditor.py --proof`` checks it, and
needs nothing else of the log.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

from horizon.core import events as ev
from horizon.core.admission import task_ids
from horizon.core.events import Stored
from horizon.store import codec
from horizon.store.line import Line, line_of
from horizon.store.note import read_note
from horizon.store.port import GENESIS_HASH, Corrupt
from horizon.store.reader import LogReader
from horizon.store.tree import inclusion_ranges, roots

VERSION: Final = 1
_NUMBER: Final = re.compile(r"([0-9]{1,18})(?:_([0-9]{1,18}))?")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ID_BEGINS: Final = 24
"""The ids of an array and of its tasks are alike so far."""

Progress = Callable[[int, int], None]


class ProvenLine(Line):
    """An event, the hash of the one before it, and the hashes on its way up to the root."""

    previous: str
    path: list[str]


class Proof(Struct):
    horizon_proof: int
    log_id: str
    job: str
    streams: list[str]
    """The job's own; for a task, that of its array behind it."""
    unsigned: int
    """Events of the job that are newer than the checkpoint, and so not here."""
    checkpoint: str
    events: list[ProvenLine]


class NotFound(Exception):
    """There is nothing to prove. The message says why."""


async def prove(reader: LogReader, job: str, progress: Progress = lambda done, total: None) -> Proof:
    """One pass over the hashes of the log. Raises ``NotFound`` and what a reader raises."""
    streams = await _streams(reader, job)
    head = await reader.head()
    newest = await reader.newest_checkpoint(head.position)
    if newest is None:
        raise NotFound("nothing of the log has been signed yet")
    events = [one async for one in _in_files(reader) if one.stream in streams]
    events += await reader.where("stream = ANY($1::text[]) ORDER BY position", streams)
    proven = [one for one in events if one.position <= newest.size]
    if not proven:
        raise NotFound(f"job {job} is newer than the newest checkpoint; the next one comes in some seconds")
    lines = await proven_lines(proven, newest.note, reader.hashes, progress)
    unsigned = len(events) - len(proven)
    return Proof(VERSION, head.log_id.hex(), _as_written(job), streams, unsigned, newest.note, lines)


async def proven_lines(
    events: Sequence[Stored],
    note: str,
    hashes: Callable[[int, int], AsyncIterator[bytes]],
    progress: Progress = lambda done, total: None,
) -> list[ProvenLine]:
    """The events with their paths, given the hashes of the log's events behind one position up to another."""
    checkpoint, _ = read_note(note)
    before = dict.fromkeys((one.position - 1 for one in events), GENESIS_HASH)

    async def leaves() -> AsyncIterator[bytes]:
        position = 0
        async for hash in hashes(0, checkpoint.size):
            position += 1
            if position in before:
                before[position] = hash
            if position % 10_000 == 0:
                progress(position, checkpoint.size)
            yield hash

    try:
        parts = await roots(leaves(), checkpoint.size, [one.position - 1 for one in events])
    except ValueError as error:
        raise Corrupt(str(error)) from error
    if parts[0, checkpoint.size] != checkpoint.root:
        raise Corrupt("the log is not the one that its newest checkpoint signed: `horizon verify` says where")
    return [_proven(one, before[one.position - 1], checkpoint.size, parts) for one in events]


def _proven(stored: Stored, before: bytes, size: int, parts: dict[tuple[int, int], bytes]) -> ProvenLine:
    path = [parts[part].hex() for part in inclusion_ranges(stored.position - 1, size)]
    line = line_of(stored, stored.payload.decode())
    fields: tuple[Any, ...] = (*msgspec.structs.astuple(line), before.hex(), path)
    return ProvenLine(*fields)


# --- which events are a job's -------------------------------------------------------------------------


def _as_written(job: str) -> str:
    """A job's number, id, or array and index, in the one way to write it."""
    number = _NUMBER.fullmatch(job)
    return job.lower() if number is None else "_".join(str(int(one)) for one in number.groups() if one)


async def _streams(reader: LogReader, job: str) -> list[str]:
    """Of a job by its number, id, or array and index. The stream of a task, and that of its array."""
    number, id = _NUMBER.fullmatch(job), job.lower()
    if number is not None:
        number_of_it, index = int(number[1]), number[2]
        condition = "(convert_from(payload, 'UTF8')::jsonb->>'number')::bigint <= $1"
        found = await _submissions(reader, f"{condition} ORDER BY position DESC LIMIT 1", number_of_it)
        streams = partial(_numbered, number=number_of_it, index=index)
    elif _UUID.fullmatch(id):
        condition = "convert_from(payload, 'UTF8') LIKE '%\"job_id\":\"' || $1 || '%' ORDER BY position"
        found = await _submissions(reader, condition, id[:_ID_BEGINS])
        streams = partial(_named, id=id)
    else:
        raise NotFound(f"{job!r} is no job: give its number, its id, or for a task NUMBER_INDEX")
    for submitted in found:
        if one := streams(submitted):
            return one
    async for stored in _in_files(reader):
        if stored.type == "JobSubmitted" and (one := streams(_submission(stored))):
            return one
    raise NotFound(f"there is no job {job} in the log")


async def _submissions(reader: LogReader, condition: str, argument: object) -> list[ev.JobSubmitted]:
    found = await reader.where(f"type = 'JobSubmitted' AND {condition}", argument)
    return [_submission(one) for one in found]


def _submission(stored: Stored) -> ev.JobSubmitted:
    event = codec.open_payload(stored.position, stored.type, stored.schema_version, stored.payload)
    assert isinstance(event, ev.JobSubmitted), "open_payload has compared the types"
    return event


async def _in_files(reader: LogReader) -> AsyncIterator[Stored]:
    """The events that are in archives and not in the table any more; ``Archived`` when those are away."""
    archives = await reader.archives()
    for chunk in archives.stored(0, archives.end):
        for one in chunk:
            yield one


def _numbered(submitted: ev.JobSubmitted, number: int, index: str | None) -> list[str]:
    """The streams of the job of this number, if it is the one submitted or a task of it."""
    array, place = submitted.spec.array, number - submitted.number - 1
    if index is not None:
        found = None if array is None or place != -1 else array.task_of(int(index))
        return [] if found is None else _task(submitted, found)
    if place == -1:
        return [submitted.stream]
    return _task(submitted, place) if array is not None and place < array.tasks else []


def _named(submitted: ev.JobSubmitted, id: str) -> list[str]:
    if submitted.job_id == id:
        return [submitted.stream]
    array, first = submitted.spec.array, submitted.job_id
    place = (int(id[_ID_BEGINS:], 16) - int(first[_ID_BEGINS:], 16) - 1) % 2**48
    fits = array is not None and place < array.tasks and first[:_ID_BEGINS] == id[:_ID_BEGINS]
    return _task(submitted, place) if fits else []


def _task(submitted: ev.JobSubmitted, place: int) -> list[str]:
    return [f"job/{task_ids(submitted.job_id)(place)}", submitted.stream]
