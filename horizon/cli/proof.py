"""``verify``, ``prove``, ``export``, ``keys``: the log for people who do not trust whoever keeps it."""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

import horizon
from horizon.cli import exits, places
from horizon.cli.exits import CliError
from horizon.cli.output import clean

if TYPE_CHECKING:
    from horizon.service.notefile import NoteFile
    from horizon.service.verify import Decisions, Report, Said
    from horizon.store.note import VerifyKey
    from horizon.store.port import Archive
    from horizon.store.proof import Proof
    from horizon.store.reader import LogReader


@click.group(
    invoke_without_command=True,
    short_help="Show the key that the log is signed with; `keys rotate` makes a new one.",
)
@click.option("--data-dir", metavar="DIR", help="Whose key.")
@click.pass_context
def keys(ctx: click.Context, data_dir: str | None) -> None:
    """Show the public half of the key that signs the checkpoints of the log.

    Keep a copy where the log's keepers cannot reach: it is what `horizon verify` and the auditor go by.
    After `keys rotate` it is the old key until the next start. The public halves of all older keys stay
    beside it, as signing-ID.pub: what was exported or proven before a rotation is checked with the one in
    force then.
    """
    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    ctx.obj = {**ctx.find_root().obj, "data_dir": str(directory)}
    if ctx.invoked_subcommand is not None:
        return
    from horizon.service.keys import BadKey, KeyFile

    place = KeyFile(places.signing_key(directory))
    try:
        key, newest = place.in_force(), place.public()
    except BadKey as error:
        raise CliError(str(error)) from error
    if key is None:
        raise CliError(f"there is no key in {place.path} yet: `horizon up` makes one", exits.NOT_FOUND)
    click.echo(str(key))
    if str(newest) != str(key):
        click.echo(f"from the next start of Horizon on the log is signed with {newest}", err=True)


@keys.command()
@click.pass_context
def rotate(ctx: click.Context) -> None:
    """Make a new key, which counts from the next start on; the old one hands over to it and is deleted."""
    from horizon.service.keys import BadKey, KeyFile

    try:
        public = KeyFile(places.signing_key(Path(ctx.obj["data_dir"]))).rotate()
    except BadKey as error:
        raise CliError(str(error)) from error
    click.echo("this key counts from the next start of Horizon on", err=True)
    click.echo(str(public))


@click.command(short_help="Check the whole log, or an export of it.")
@click.option("--export", "exported", metavar="FILE", help="Check this export instead of the database.")
@click.option("--key", "texts", multiple=True, metavar="PUB", help="A public key to trust, or its file.")
@click.option("--checkpoint", "kept", multiple=True, metavar="OLD", help="A file of kept checkpoints.")
@click.option("--decisions", is_flag=True, help="Run every recorded scheduling cycle again, too.")
@click.option("--data-dir", metavar="DIR", help="Whose log, keys and checkpoints.")
@click.pass_context
def verify(
    ctx: click.Context,
    exported: str | None,
    texts: tuple[str, ...],
    kept: tuple[str, ...],
    decisions: bool,
    data_dir: str | None,
) -> int:
    """Check the whole log: bytes, order, rules, and every checkpoint under the keys it was signed with.

    It reads the database itself, whether Horizon runs or not. The key and the file of checkpoints are those
    of the data directory, unless --key names another. Ends with 0 only if all of it holds, with 1 and the
    first position that does not, and with 6 if what is here holds and archives of the log are not here.

    With --decisions every scheduling cycle that the log tells of is run again on the state before it, and
    must decide what was recorded; where one does not, both are shown. Cycles that other decision code
    recorded are not run again, only counted.
    """
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    keys = _keys(texts) or own_keys(directory)
    if exported is None:
        return asyncio.run(_verify(directory, _kept(kept), keys, decisions))
    if not keys:
        raise CliError("name the key to check it with: --key PUB, as `horizon keys` shows it", exits.USAGE)
    code = _verify_export(exported, keys, _kept(kept), directory)
    if decisions:
        code = asyncio.run(_decide_again(directory, exported)) or code
    return code


def _verify_export(exported: str, keys: list[VerifyKey], kept: list[Said], directory: Path) -> int:
    """As the auditor does, but for what it cannot know: which keys there were before."""
    from horizon.auditor import Key, Note, Unvouched, Wrong, audit_export
    from horizon.service.keys import KeyFile

    try:
        Path(exported).open("rb").close()
    except OSError as error:
        raise CliError(f"{exported} cannot be read: {error.strerror}", exits.USAGE) from error
    try:
        return audit_export(exported, [Key(str(key)) for key in keys], [Note(said.note) for said in kept])
    except Wrong as wrong:
        hint, place = "", KeyFile(places.signing_key(directory))
        for path in map(place.retired_path, wrong.key_ids if isinstance(wrong, Unvouched) else ()):
            if path.exists():
                hint += f"\n{path} is that key, which was in force before a rotation: name it with --key if "
                hint += "nobody else can have signed with it until this was exported"
        raise CliError(f"NOT PROVEN: {wrong}{hint}") from wrong


def own_keys(directory: Path) -> list[VerifyKey]:
    """The key of a data directory, and the one before while that has not handed over."""
    from horizon.service.keys import BadKey, KeyFile

    place = KeyFile(places.signing_key(directory))
    try:
        public, outgoing = place.public(), place.outgoing()
    except BadKey as error:
        raise CliError(str(error)) from error
    return [key for key in (public, None if outgoing is None else outgoing.public) if key is not None]


def _keys(texts: tuple[str, ...]) -> list[VerifyKey]:
    from horizon.store.note import BadNote, VerifyKey

    try:
        return [VerifyKey.read(Path(text).read_text() if Path(text).exists() else text) for text in texts]
    except (OSError, UnicodeDecodeError, BadNote) as error:
        raise CliError(str(error), exits.USAGE) from error


def _kept(files: tuple[str, ...]) -> list[Said]:
    from horizon.service.verify import kept_in
    from horizon.store.note import BadNote

    try:
        return [said for file in files for said in kept_in(Path(file))]
    except OSError as error:
        raise CliError(f"{error.filename} cannot be read: {error.strerror}", exits.USAGE) from error
    except BadNote as error:
        raise CliError(f"{error}: --checkpoint names a file of kept checkpoints", exits.USAGE) from error


async def _verify(directory: Path, kept: list[Said], keys: list[VerifyKey], with_decisions: bool) -> int:
    from horizon.cli.database import log_reader, progress_printer
    from horizon.service.notefile import NoteFile
    from horizon.service.verify import Decisions, Unsound, verify
    from horizon.store.guards import what_to_do

    decisions = Decisions() if with_decisions else None
    own = NoteFile(places.checkpoints(directory))
    progress = progress_printer("checking the log")
    async with log_reader(directory) as reader:
        if unguarded := await reader.unguarded():
            click.echo(f"warning: {what_to_do(unguarded)}", err=True)
        away = (await reader.archives()).away()
        if away:
            if with_decisions:
                raise CliError(
                    f"cycles are run again from the first event on, and {away[0].file} is not here: name its "
                    "directory in HORIZON_ARCHIVE"
                )
            return await _verify_parts(reader, away, own, kept, keys)
        try:
            found = await verify(reader, [own], keys, progress, decisions, kept)
        except Unsound as unsound:
            raise CliError(f"the log does not hold: {unsound}") from unsound
    _say(found, trusted=bool(keys))
    return exits.OK if decisions is None else _say_decisions(decisions)


async def _verify_parts(
    reader: LogReader, away: list[Archive], own: NoteFile, kept: list[Said], keys: list[VerifyKey]
) -> int:
    """Without the archives that are not here."""
    from horizon.auditor import Key, Note
    from horizon.cli.parts import Notes, verify_parts

    if not keys:
        raise CliError("name the key to check it with: --key PUB, as `horizon keys` shows it", exits.USAGE)
    try:
        notes = Notes([Note(note) for note in own.notes()], [Note(said.note) for said in kept])
    except ValueError as error:
        raise CliError(f"a checkpoint in {own.path} cannot be read: {error}") from error
    return await verify_parts(reader, away, notes, [Key(str(key)) for key in keys])


async def _decide_again(directory: Path, exported: str) -> int:
    """Of an export that the auditor has found to hold."""
    from horizon.cli.database import log_events, progress_printer
    from horizon.service.verify import Decisions, fold_checked

    decisions = Decisions()
    async with log_events(directory, Path(exported)) as (log, end):
        await fold_checked(log, end, progress_printer("running cycles again"), decisions)
    return _say_decisions(decisions)


def _say_decisions(found: Decisions) -> int:
    """What came of running the cycles again, and the exit code for it."""
    rerun = found.rerun
    if rerun.cycles:
        verdict = f"{rerun.differing:,} of them otherwise" if rerun.differing else "all of them as recorded"
        rate = f"{rerun.cycles / max(found.seconds, 1e-6):,.0f}/s"
        click.echo(f"  decisions {_cycles(rerun.cycles)} run again, {verdict} ({rate})")
    else:
        click.echo("  decisions none was run again: there is no cycle of this code in the log")
    for code, cycles in sorted(rerun.others.items()):
        name = f"code {code}" if code else "code that the log does not name"
        click.echo(f"            {_cycles(cycles)} decided by other code, not run again: {name}")
    for one in found.differences:
        click.echo(f"cycle {one.cycle:,} differs at position {one.position:,}")
        click.echo(f"  recorded  {clean(one.recorded)} (by Horizon {clean(one.version) or 'unknown'})")
        click.echo(f"  run again {clean(one.decided)} (by Horizon {horizon.__version__})")
        for name, (recorded, decided) in one.fields.items():
            texts = (msgspec.json.encode(value).decode() for value in (recorded, decided))
            click.echo(clean(f"  {name}: {', run again '.join(texts)}"))
    if rerun.differing > len(found.differences):
        click.echo(f"and {_cycles(rerun.differing - len(found.differences))} more")
    return exits.FAILED if rerun.differing else exits.OK


def _cycles(count: int) -> str:
    return f"{count:,} cycle{'s' * (count != 1)}"


def _say(found: Report, trusted: bool) -> None:
    keys = f"{found.keys} key{'s' * (found.keys != 1)}"
    kept = f", {found.kept:,} kept elsewhere" if found.kept else ""
    whose = "" if trusted else "; no key was given, so the first that the log names was believed"
    lost = (
        f"  missing   {found.not_in_table:,} in files are not in the table: a crash between the two may",
        "            leave one out, any more were taken away there",
    )
    for line in (
        f"the log {found.origin} holds",
        f"  bytes     {found.events:,} events, each hash made anew from what the database holds, to the head",
        f"  order     positions, times, epochs up to {found.epoch:,}, streams, causes",
        f"  rules     {found.jobs:,} jobs; every event may follow from what came before; they fold to",
        f"            {found.digest}",
        f"  blobs     {_blobs(found.blobs)}",
        f"  signed    up to {found.signed:,}: {found.in_table:,} checkpoints in the table, "
        f"{found.in_files:,} in files{kept}, under {keys}{whose}",
        *(lost if found.not_in_table else ()),
        f"  unsigned  {found.events - found.signed:,} events behind that are linked only",
    ):
        click.echo(line)


def _blobs(count: int | None) -> str:
    if count is None:
        return "not checked: this login may not read what jobs were given, as horizon_writer may"
    return f"{count:,} environments and scripts are what the log names; what was erased is gone"


@click.command(short_help="Prove that a job's events are in the log that was signed.")
@click.argument("job")
@click.option("--out", metavar="FILE", help="Write to this file.")
@click.option("--data-dir", metavar="DIR", help="Whose embedded Postgres, if DATABASE_URL is not set.")
@click.pass_context
def prove(ctx: click.Context, job: str, out: str | None, data_dir: str | None) -> None:
    """Prove that the events of a job are in the log that was signed: JSON that needs no more of the log.

    It holds the events, the newest checkpoint, and for each event the hashes from it to the root that was
    signed. `python -m horizon.auditor --proof FILE --key PUB` checks it.
    """
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    proof = asyncio.run(_prove(directory, job))
    with _output(out) as file:
        file.write(msgspec.json.format(msgspec.json.encode(proof), indent=1) + b"\n")
    if proof.unsigned:
        click.echo(
            f"{proof.unsigned} events of it are newer than the checkpoint, and not in the proof", err=True
        )


async def _prove(directory: Path, job: str) -> Proof:
    from horizon.cli.database import log_reader, progress_printer
    from horizon.store.proof import NotFound, prove

    async with log_reader(directory) as reader:
        try:
            return await prove(reader, job, progress_printer("reading hashes"))
        except NotFound as error:
            raise CliError(str(error), exits.NOT_FOUND) from error


@click.command(short_help="Write the log out, for whoever checks it without Horizon.")
@click.option(
    "--from", "first", type=click.IntRange(1), default=1, show_default=True, help="The first event."
)
@click.option(
    "--to",
    "last",
    type=click.IntRange(1),
    help="The last event, best one with a checkpoint: behind the last of those in it nothing is proven.  "
    "[where the log ends]",
)
@click.option("--out", metavar="FILE", help="Write to this file, gzipped if its name ends in .gz.")
@click.option("--data-dir", metavar="DIR", help="Whose embedded Postgres, if DATABASE_URL is not set.")
@click.pass_context
def export(ctx: click.Context, first: int, last: int | None, out: str | None, data_dir: str | None) -> None:
    """Write the log out as lines of JSON, straight from the database, for whoever checks it without Horizon.

    Every event with the exact bytes that were hashed, and every signed checkpoint. Any role that may read the
    log will do, such as horizon_auditor. `python -m horizon.auditor` checks what comes out.
    """
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    with _output(out) as file:
        asyncio.run(_export(directory, first, last, file))


@contextmanager
def _output(out: str | None) -> Iterator[Any]:
    """Stdout, or a file of this name: written beside it, and given the name when it is whole and on disk. So
    what failed or was stopped leaves what was there."""
    if out is None:
        yield sys.stdout.buffer
        return
    path = partial = Path(out).resolve()
    if path.is_file() or not path.exists():  # else a pipe, or /dev/null, whose place nothing can take
        partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            if path.is_file():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)  # who may read it stays as it was
            packs = gzip.GzipFile("", "wb", fileobj=file) if out.endswith(".gz") else nullcontext(file)
            with packs as packed:
                yield packed
            if partial is not path:
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
    except OSError as error:
        raise CliError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        if partial is not path:
            partial.unlink(missing_ok=True)


async def _export(directory: Path, first: int, last: int | None, file: IO[bytes]) -> None:
    from horizon.cli.database import log_reader, progress_printer
    from horizon.store.export import plan_export

    progress = progress_printer("writing the log")
    async with log_reader(directory) as reader:
        try:
            plan = await plan_export(reader, first, last)
        except ValueError as error:
            raise CliError(str(error), exits.USAGE) from error
        if last is not None:
            await _warn_of_end(reader, first, last)
        async for position, lines in plan.lines():
            file.write(lines)
            progress(position - plan.first + 1, plan.last - plan.first + 1)
        file.flush()


async def _warn_of_end(reader: LogReader, first: int, last: int) -> None:
    """What is behind the last checkpoint of an export its reader must take on trust."""
    newest = await reader.newest_checkpoint(last)
    following = await anext(reader.checkpoints(last - 1), None)
    signed = 0 if newest is None else newest.size
    if following is None or following.size == last:
        return
    proves = f"only up to {signed}" if signed >= first else "nothing of it"
    click.echo(
        f"no checkpoint is at {last}, so the auditor can prove {proves}: --to {following.size} takes it to "
        "the next one",
        err=True,
    )
