"""``horizon replay``: the system as it was, folded from the log without asking a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from horizon.cli import exits, places
from horizon.cli.bookings import print_bookings
from horizon.cli.cluster import print_nodes, print_order
from horizon.cli.exits import CliError
from horizon.cli.output import (
    Column,
    clean,
    json_option,
    print_fields,
    print_json,
    print_table,
    show_time,
    state_style,
)
from horizon.cli.session import name_of
from horizon.cli.shares import print_shares
from horizon.cli.values import AT

if TYPE_CHECKING:
    from horizon.core.changes import Change
    from horizon.core.state import State
    from horizon.service.replay import Look, Moment
    from horizon.service.verify import StoredEvents


class Then(NamedTuple):
    """One of the moments, as it was found."""

    position: int
    now_us: int
    digest: str

    def fields(self) -> dict[str, Any]:
        from horizon.api.times import rfc3339

        return {"position": self.position, "at": rfc3339(self.now_us), "digest": self.digest}


class Source(NamedTuple):
    """What is folded."""

    directory: Path
    exported: Path | None
    from_zero: bool


@click.command(short_help="Fold the log up to a moment: the system as it was, or what changed.")
@click.option(
    "--until", type=AT, metavar="POSITION|TIME", help="As it was then; a day is included.  [the end]"
)
@click.option(
    "--diff", nargs=2, type=AT, metavar="POSITION|TIME POSITION|TIME", help="What changed between the two."
)
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Fold this export instead of the database.",
)
@click.option("--from-zero", is_flag=True, help="Fold from the first event: no snapshot is believed.")
@click.option("--data-dir", metavar="DIR", help="Whose embedded Postgres, if DATABASE_URL is not set.")
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    until: str | None,
    diff: tuple[str, str] | None,
    exported: Path | None,
    from_zero: bool,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Fold the log up to a position or a moment, such as 2030-01-31T14:05, and show the system as it was; or,
    with --diff, what is different between two of them.

    It reads the database itself, whether Horizon runs or not, and checks every event on the way, as `verify`
    does, but for signatures. It begins at the nearest snapshot in the data directory that the log bears out,
    and says so: what is below that is believed. With --from-zero, or of an export, it begins at the first
    event. The digest is over all that a decision can depend on: whoever folds the same log gets the same.
    """
    if until is not None and diff is not None:
        raise click.UsageError("--until and --diff exclude each other")
    from horizon.cli.loglines import configure_logging

    configure_logging()  # of a snapshot that cannot be used
    source = Source(places.data_directory(data_dir or ctx.find_root().obj["data_dir"]), exported, from_zero)
    if diff is None:
        asyncio.run(_show_state(source, until, as_json))
    else:
        asyncio.run(_show_changes(source, diff, as_json))


# --- reading ------------------------------------------------------------------------------------------


def _moment(text: str, end: int) -> Moment:
    from horizon.api.times import microseconds
    from horizon.service.replay import Moment

    if not text.isdecimal():
        return Moment(None, microseconds(datetime.fromisoformat(text)))
    if not 1 <= int(text) <= end:
        raise CliError(f"the log has positions 1 to {end}, not {text}", exits.USAGE)
    return Moment(int(text), None)


async def _fold(source: Source, log: StoredEvents, end: int, looks: list[tuple[Moment, Look]]) -> int:
    """Where it began: the position of a snapshot, or 0."""
    from horizon.cli.database import progress_printer
    from horizon.service.recovery import nearest
    from horizon.service.replay import replay
    from horizon.store.reader import LogReader
    from horizon.store.snapshots import Snapshots

    begun, position = None, 0
    if isinstance(log, LogReader) and not source.from_zero:
        kept = Snapshots(places.snapshots(source.directory))
        before = (one for one in kept if all(moment.is_after(one) for moment, _ in looks))
        begun = await nearest(log, before, end, (await log.head()).log_id)
        position = begun.state.position
    await replay(log, end, looks, progress_printer("folding the log"), begun)
    return position


def _how(position: int) -> str:
    if not position:
        return "from the first event on, each one checked"
    return (
        f"from the snapshot as of {position:,} on: those behind it are checked, those up to it are believed; "
        "--from-zero checks them, too"
    )


# --- the system as it was -----------------------------------------------------------------------------


async def _show_state(source: Source, until: str | None, as_json: bool) -> None:
    from horizon.api.state import state_body
    from horizon.cli.database import log_events
    from horizon.core.state import digest
    from horizon.service.replay import Moment

    found: list[tuple[State, int]] = []
    async with log_events(source.directory, source.exported) as (log, end):
        moment = Moment(end, None) if until is None else _moment(until, end)
        looks: list[tuple[Moment, Look]] = [(moment, lambda state, now_us: found.append((state, now_us)))]
        begun = await _fold(source, log, end, looks)
        ((state, now_us),) = found
        body = await state_body(state, now_us, digest(state))
    if as_json:
        click.echo(f"folded {_how(begun)}", err=True)
        print_json(body)
    else:
        _print_state(json.loads(body), begun)


def _print_state(told: dict[str, Any], begun: int) -> None:
    queue = told["queue"]
    print_fields(
        (
            ("as of", f"position {told['position']:,}, {show_time(told['at'], 'milliseconds')}"),
            ("led", f"epoch {told['epoch']:,}, {told['cycle']:,} cycles that decided something"),
            ("policy", f"version {told['policy_version']:,}, " + _policy(told["policy"])),
            ("jobs", ", ".join(f"{count:,} {state}" for state, count in told["jobs"].items() if count)),
            ("queue", f"{queue['total']:,} waiting, {queue['held']:,} held back"),
            ("digest", told["digest"]),
            ("folded", _how(begun)),
        )
    )
    for title, print_some in (
        ("holding", _print_holding),
        ("waiting", partial(print_order, then=True)),
        ("nodes", print_nodes),
        ("shares", print_shares),
        ("bookings", print_bookings),
    ):
        if told[title]:
            click.echo()
            print_some(told[title])


def _policy(policy: dict[str, Any]) -> str:
    """What is not as it is by default."""
    from horizon.core.policy import Policy

    default = json.loads(json.dumps({name: getattr(Policy(), name) for name in policy}))
    chosen = [f"{name}={json.dumps(value)}" for name, value in policy.items() if value != default[name]]
    return ", ".join(chosen) or "all by default"


def _print_holding(jobs: list[dict[str, Any]]) -> None:
    titles = ("JOB", "NAME", "USER", "ACCOUNT", "STATE", "PRIORITY", "GPUS", "STARTED", "WHERE")
    columns = [Column(title, right=title in ("JOB", "GPUS"), style=state_style) for title in titles]
    rows = [
        (name_of(job), job["job_name"], job["user_id"], job["account"], job["state"], job["priority"],
         job["gpu_count"], show_time(job["started_at"]), ",".join(job["node_ids"]))
        for job in jobs
    ]  # fmt: skip
    print_table(columns, rows, "")


# --- what changed -------------------------------------------------------------------------------------


async def _show_changes(source: Source, diff: tuple[str, str], as_json: bool) -> None:
    from horizon.cli.database import log_events
    from horizon.core.changes import Picture, changes, picture
    from horizon.core.state import digest

    found: list[Then] = []
    pictures: list[Picture] = []
    different: list[Change] = []

    def look(state: State, now_us: int) -> None:
        """The one that is reached first is the earlier one, in whichever order they were given."""
        found.append(Then(state.position, now_us, digest(state)))
        if pictures:
            different.extend(changes(pictures[0], state, now_us))
        else:
            pictures.append(picture(state, now_us))

    async with log_events(source.directory, source.exported) as (log, end):
        begun = await _fold(source, log, end, [(_moment(text, end), look) for text in diff])
    click.echo(f"folded {_how(begun)}", err=True)
    if as_json:
        told = [{name: getattr(one, name) for name in one.__struct_fields__} for one in different]
        first, second = (one.fields() for one in found)
        print_json({"from": first, "to": second, "changes": told})
        return
    for line in _told(found, different):
        click.echo(clean(line))


def _told(found: list[Then], different: list[Change]) -> Iterator[str]:
    for word, one in zip(("from", "to  "), found, strict=True):
        fields = one.fields()
        yield f"{word} position {one.position:,}, {show_time(fields['at'], 'milliseconds')}, {one.digest}"
    for change in different:
        yield f"  {change.sentence}"
    if not different:
        yield "  nothing is different"
