"""Checks what is here of a log when some of its archives are away: each part between them like an export.

A part hangs on what is on record of the archive before it. It leads to what was signed since, or, where it
ends at an archive that is away, to what an event says of that end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from horizon.auditor import UNREADABLE, Audit, Key, Note, Wrong
from horizon.cli import exits
from horizon.cli.database import progress_printer
from horizon.cli.exits import CliError
from horizon.store.export import plan_export
from horizon.store.port import Archive
from horizon.store.reader import LogReader


class Notes(NamedTuple):
    """The checkpoints that the log is held to."""

    own: list[Note]
    """Of the scheduler's own file."""
    kept: list[Note]
    """That somebody kept elsewhere: of each it is said if it cannot be checked."""


class Part(NamedTuple):
    """Events that are here; ``last`` is None for the end of the log."""

    first: int
    last: int | None

    def has(self, size: int) -> bool:
        """Whether a checkpoint over so many events can be checked with it."""
        return self.first - 1 <= size and (self.last is None or size <= self.last)


class Checked(NamedTuple):
    """What has been found of a part."""

    first: int
    audit: Audit
    says: list[tuple[dict[str, Any], bool]]
    """What its events say of archives; and whether that is signed, so that nobody has made it up since."""


def parts_beside(away: Sequence[Archive]) -> list[Part]:
    """What is left of a log without these archives, in its order; the last part goes to its end."""
    parts, first = [], 1
    for gap in away:
        if gap.first > first:
            parts.append(Part(first, gap.first - 1))
        first = gap.last + 1
    return [*parts, Part(first, None)]


async def verify_parts(reader: LogReader, away: Sequence[Archive], notes: Notes, keys: list[Key]) -> int:
    """Check all that is here, and say what is not; the exit code. Raises ``CliError``, ``StoreError``."""
    parts = parts_beside(away)
    try:
        found = [await _check(reader, part, notes, keys) for part in parts]
        rest = found[-1].audit
        for note in notes.kept:
            rest.check_origin(note)
        head = await reader.head()
        if head.position == rest.position and head.tip != rest.tip:
            raise Wrong(head.position, "the head of the log does not say what its last event is")
        _check_gaps(away, parts, found)
        linked = [_linked(one, found) for one in found]
    except UNREADABLE as error:
        raise CliError(f"the log cannot be read: {type(error).__name__}: {error}") from error
    except Wrong as wrong:
        raise CliError(f"the log does not hold: {wrong}") from wrong
    _say(away, found, linked)
    for note in notes.kept:
        if not any(part.has(note.size) for part in parts):
            click.echo(f"  kept      the checkpoint at {note.size:,} is over events not here: not checked")
    return exits.PARTIAL


async def _check(reader: LogReader, part: Part, notes: Notes, keys: list[Key]) -> Checked:
    plan = await plan_export(reader, part.first, part.last)
    progress = progress_printer("checking the log")
    kept = [note for note in (*notes.own, *notes.kept) if part.has(note.size)]
    audit: Audit | None = None
    says: list[tuple[int, dict[str, Any]]] = []
    async for position, chunk in plan.lines():
        for text in chunk.splitlines():
            line = json.loads(text)
            if audit is None:
                audit = Audit(line, keys, kept)
            elif part.last is None or "end" not in line:
                audit.line(line)
            if line.get("type") == "PartitionArchived":
                says.append((line["position"], json.loads(line["payload"])))
        progress(position, plan.last)
    assert audit is not None
    audit.check_kept()
    if audit.position != plan.last:
        raise Wrong(audit.position + 1, "it is missing")
    return Checked(part.first, audit, [(said, at <= audit.signed) for at, said in says])


def _check_gaps(away: Sequence[Archive], parts: list[Part], found: list[Checked]) -> None:
    """Of each archive that is away some event must say so; unless that is away, too."""
    says = [said for one in found for said, _ in one.says]
    for gap in away:
        here = gap is away[-1] or any(part.first <= gap.position and part.has(gap.position) for part in parts)
        if here and not any(_are_alike(said, gap) for said in says):
            raise Wrong(
                gap.first, f"events up to {gap.last} are not here, and nothing says that they are archived"
            )


def _are_alike(said: dict[str, Any], archive: Archive) -> bool:
    of_event = (said["first"], said["last"], said["tip"], said["frontier"], said["sha256"])
    known = (archive.tip.hex(), archive.frontier.hex(), archive.sha256.hex())
    return of_event == (archive.first, archive.last, *known)


def _linked(part: Checked, found: list[Checked]) -> int:
    """How many events at the end of a part are linked only. Raises ``Wrong``."""
    audit = part.audit
    if part is not found[-1]:
        end = (audit.position, audit.tip.hex(), b"".join(audit.frontier).hex())
        says = [(said, signed) for one in found for said, signed in one.says if said["last"] == end[0]]
        if any((said["last"], said["tip"], said["frontier"]) != end for said, _ in says):
            raise Wrong(end[0], f"one of the events {part.first} to {end[0]} is not what was archived")
        if any(signed for _, signed in says):
            return 0
        audit.check_vouched()
    return int(audit.position - max(audit.signed, part.first - 1))


def _say(away: Sequence[Archive], found: list[Checked], linked: list[int]) -> None:
    click.echo(f"the log {found[-1].audit.origin} holds as far as it is here")
    for one in away:
        click.echo(
            f"  archived  events {one.first:,} to {one.last:,} are in {one.file}, not here: not checked"
        )
    for part, unsigned in zip(found, linked, strict=True):
        audit = part.audit
        signed = f"signed up to {audit.position - unsigned:,}, {unsigned:,} behind that linked only"
        if audit.position >= part.first:
            click.echo(f"  checked   events {part.first:,} to {audit.position:,}: {signed}")
    checkpoints = sum(one.audit.checkpoints for one in found)
    click.echo("  bytes     of these each hash was made anew from what the database and its files hold")
    click.echo(
        "  order     positions, times, epochs, streams, causes; moves of jobs, as far as they are here"
    )
    click.echo("  blobs     not checked: events that are not here may name environments and scripts, too")
    click.echo(
        f"  signed    up to {found[-1].audit.signed:,}, those not here included: "
        f"{checkpoints:,} checkpoints hold"
    )
