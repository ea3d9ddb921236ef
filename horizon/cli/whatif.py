"""``simulate --from-log``: the history of this Horizon once more, if some things had been otherwise."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from msgspec import Struct

import horizon
from horizon.cli import exits
from horizon.cli.database import log_events, progress_printer
from horizon.cli.exits import CliError
from horizon.cli.output import Column, print_json, print_table, show_duration
from horizon.cli.simulate import progress_bar, say_which
from horizon.cli.supposition import read_supposition
from horizon.core.events import Recorded
from horizon.core.state import SECOND_US
from horizon.service.course import (
    Attempt,
    Bounds,
    Course,
    Fared,
    course_of,
    fared,
    gpus_most,
    simulation_of,
)
from horizon.service.simulator import ANY_TYPE, Hardware
from horizon.service.supposition import BadSupposition, SupposedShare, Supposition
from horizon.service.whatif import WhatIf, what_if
from horizon.store import codec
from horizon.store.port import GENESIS_HASH

RECORDED: Final = "recorded"
USERS_SHOWN: Final = 10


class Source(NamedTuple):
    """Which log, and which of its jobs count: from one moment on, before another."""

    directory: Path
    exported: Path | None
    since_us: int | None
    until_us: int | None


class Asked(NamedTuple):
    """One course that might have been."""

    label: str
    supposition: Supposition


class LogPart(Struct, frozen=True):
    """What was gone through."""

    events: int
    first: str
    """When the first of them was recorded."""
    last: str
    since: str | None
    """Jobs count that were submitted from here on,"""
    until: str | None
    """and before this."""


class Rerun(Struct, frozen=True):
    """How a course came about that might have been."""

    policy: dict[str, Any]
    """What was otherwise."""
    shares: dict[str, SupposedShare]
    cluster: Hardware | None
    diverged_position: int | None
    """The first recorded event that it does not share; None when it shares all."""
    diverged_at: str | None
    guessed_run_times: tuple[str, ...]
    """Jobs that ran and never did in the record."""
    never_fit: tuple[str, ...]
    """Jobs that wait in the end and could not start were the cluster empty."""
    refused: int
    """Recorded requests that could not be met, for their job was not, or was no longer, what it was."""
    cycles: int
    wall_s: float
    events_per_s: float


class CourseSummary(Struct, frozen=True):
    """What summary.json holds."""

    label: str
    log: LogPart
    outcome: Fared
    rerun: Rerun | None
    """None of the record itself."""
    horizon: str = horizon.__version__


class Shown(NamedTuple):
    """A course, to be shown."""

    summary: CourseSummary
    course: Course
    bounds: Bounds

    @property
    def label(self) -> str:
        return self.summary.label


def run(
    source: Source,
    files: Sequence[Path],
    cluster: Hardware | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Go through the log once more for each file, and show what came of it beside the record."""
    asked = _asked(files, cluster)
    log = asyncio.run(_read(source))
    recorded = course_of(log)
    bounds = _bounds(source, recorded)
    part = LogPart(
        len(log),
        _moment(recorded.first_us),
        _moment(recorded.last_us),
        None if source.since_us is None else _moment(source.since_us),
        None if source.until_us is None else _moment(source.until_us),
    )
    first = CourseSummary(RECORDED, part, fared(recorded, bounds), None)
    shown = [Shown(first, recorded, bounds), *(_rerun(log, recorded, bounds, part, one) for one in asked)]
    for one in shown[1:]:
        _say(one)
    if out is not None:
        _write(out, shown)
    if as_json:
        print_json(msgspec.to_builtins([one.summary for one in shown]))
    else:
        _print(shown)


def _asked(files: Sequence[Path], cluster: Hardware | None) -> list[Asked]:
    where = ""
    if cluster is not None:
        kind = "" if cluster.gpu_type == ANY_TYPE else f"-{cluster.gpu_type}"
        where = f"{cluster.nodes}x{cluster.gpus_per_node}{kind}"
    if not files:
        return [Asked(where or "once-more", Supposition(cluster=cluster))]
    labels = ["-".join(filter(None, (path.stem, where))) for path in files]
    for label in labels:
        if [RECORDED, *labels].count(label) > 1:
            raise CliError(f"two courses would be called {label}: rename the file", exits.USAGE)
    found = [read_supposition(path) for path in files]
    return [
        Asked(label, Supposition(policy, shares, cluster))
        for label, (policy, shares) in zip(labels, found, strict=True)
    ]


def _bounds(source: Source, course: Course) -> Bounds:
    """Raises ``CliError`` when the log has nothing in that time."""
    since_us, until_us = source.since_us or 0, source.until_us or course.last_us + 1
    span = f"the log is of {_moment(course.first_us)} to {_moment(course.last_us)}"
    if since_us > course.last_us or until_us <= course.first_us:
        raise CliError(f"nothing was recorded in that time; {span}", exits.USAGE)
    if since_us >= until_us:
        raise CliError(f"--since must be before --until; {span}", exits.USAGE)
    if not course.counted(since_us, until_us):
        raise CliError(f"no job was submitted in that time; {span}")
    return Bounds(since_us, until_us, course.last_us)


def _moment(us: int) -> str:
    return datetime.fromtimestamp(us // SECOND_US, UTC).replace(microsecond=us % SECOND_US).isoformat()


# --- reading --------------------------------------------------------------------------------------------


async def _read(source: Source) -> list[Recorded]:
    """The whole log, its chain checked. ``CliError`` when it is none, does not hold, or is empty."""
    log: list[Recorded] = []
    progress = progress_printer("reading the log")
    async with log_events(source.directory, source.exported) as (events, end):
        async for chunk in events.stored(0, end):
            for stored in chunk:
                log.append(codec.open_stored(stored, len(log) + 1, log[-1].hash if log else GENESIS_HASH))
            progress(len(log), end)
    if not log:
        raise CliError("the log is empty: there is no history to go through")
    return log


# --- going through it once more -------------------------------------------------------------------------


def _rerun(log: list[Recorded], recorded: Course, bounds: Bounds, part: LogPart, asked: Asked) -> Shown:
    with progress_bar(asked.label, len(log), "events") as progress:
        try:
            found = what_if(log, recorded, asked.supposition, bounds.since_us, progress)
        except BadSupposition as error:
            raise CliError(f"{asked.label}: {error}", exits.USAGE) from error
    summary = CourseSummary(
        asked.label, part, fared(found.course, bounds), _rerun_of(found, asked.supposition, len(log))
    )
    return Shown(summary, found.course, bounds)


def _rerun_of(found: WhatIf, supposition: Supposition, events: int) -> Rerun:
    return Rerun(
        supposition.policy,
        supposition.shares,
        supposition.cluster,
        found.diverged or None,
        _moment(found.diverged_us) if found.diverged else None,
        found.guessed,
        found.impossible,
        found.refused,
        found.cycles,
        found.wall_s,
        events / found.wall_s,
    )


def _say(one: Shown) -> None:
    """How far to trust it, on stderr."""
    rerun = one.summary.rerun
    assert rerun is not None
    took = f"{one.summary.log.events:,} events in {show_duration(rerun.wall_s)}, {rerun.events_per_s:,.0f}/s"
    if rerun.diverged_position is None:
        click.echo(f"{one.label}: every decision is the recorded one ({took})", err=True)
        return
    since = f"event {rerun.diverged_position:,} on, {rerun.diverged_at}"
    click.echo(f"{one.label}: goes otherwise from {since} ({took})", err=True)
    if not (rerun.policy or rerun.shares or rerun.cluster):
        what = "other code decided then, which `horizon verify --decisions` tells of"
        click.echo(f"  and nothing was supposed to be otherwise: {what}", err=True)
    for names, what in (
        (rerun.guessed_run_times, "that never ran in the record, their run times guessed"),
        (rerun.never_fit, "that wait and that this cluster can never hold"),
    ):
        say_which(f"  jobs {what}", names)
    if rerun.refused:
        click.echo(
            f"  recorded requests that did not apply to their job any more: {rerun.refused:,}", err=True
        )


# --- showing --------------------------------------------------------------------------------------------


def _print(shown: Sequence[Shown]) -> None:
    titles = (
        "COURSE", "JOBS", "RAN", "MEAN WAIT", "MEDIAN", "95 %", "LONGEST", "SLOWDOWN", "UTILISATION",
        "FAIRNESS", "PREEMPTED", "LOST GPU-H",
    )  # fmt: skip
    columns = [Column(title, right=title != "COURSE") for title in titles]
    print_table(columns, (_row(one.label, one.summary.outcome) for one in shown), "")
    click.echo()
    _print_users(shown)


def _row(label: str, outcome: Fared) -> tuple[Any, ...]:
    waits = outcome.wait_s
    return (
        label,
        f"{outcome.counted:,}",
        f"{outcome.jobs:,}",
        *(show_duration(wait_s) for wait_s in (waits.mean, waits.median, waits.p95, waits.max)),
        f"{outcome.bounded_slowdown.mean:,.2f}",
        f"{outcome.utilisation:.1%}",
        f"{outcome.fairness.index:.3f}",
        f"{outcome.preemptions:,}",
        f"{outcome.lost_gpu_h:,.1f}",
    )


def _print_users(shown: Sequence[Shown]) -> None:
    """How each user fared in each course: the mean wait, and which part of the time the jobs ran."""
    users = shown[0].summary.outcome.fairness.users
    columns = [Column("ACCOUNT"), Column("USER"), Column("JOBS", right=True), Column("GPU-H", right=True)]
    columns += [Column(f"{title} {one.label}", right=True) for one in shown for title in ("WAIT", "PROGRESS")]
    fates = [{(one.account, one.user): one for one in each.summary.outcome.fairness.users} for each in shown]
    rows: list[list[str]] = []
    for user in users[:USERS_SHOWN]:
        row = [user.account, user.user, f"{user.jobs:,}", f"{user.gpu_s / 3_600:,.1f}"]
        for fate in (by_user[user.account, user.user] for by_user in fates):
            row += [show_duration(fate.mean_wait_s), f"{fate.progress:.0%}"]
        rows.append(row)
    print_table(columns, rows, "")
    if len(users) > USERS_SHOWN:
        click.echo(
            f"{len(users) - USERS_SHOWN:,} more users; --json or summary.json has all of them", err=True
        )


# --- writing --------------------------------------------------------------------------------------------


def _write(out: Path, shown: Sequence[Shown]) -> None:
    """What might have been first stands in the folder itself, all else in folders below."""
    directories = [out / RECORDED, out, *(out / one.label for one in shown[2:])]
    for directory, one in zip(directories, shown, strict=True):
        directory.mkdir(parents=True, exist_ok=True)
        _write_jobs(directory / "jobs.csv", one)
        body = msgspec.json.format(msgspec.json.encode(one.summary), indent=2)
        (directory / "summary.json").write_bytes(body + b"\n")
    _draw(directories, shown)
    click.echo(f"wrote {out}", err=True)


_COLUMNS: Final = (
    "job", "account", "user", "gpus", "state", "submitted", "attempt", "scheduled", "started", "ended",
    "released", "nodes", "gpu_ids",
)  # fmt: skip


def _write_jobs(path: Path, one: Shown) -> None:
    """A line for each attempt, and one for a job that never was placed."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for life in one.course.counted(one.bounds.since_us, one.bounds.until_us):
            spec = life.spec
            job = (
                life.name,
                spec.account,
                spec.user_id,
                spec.gpu_count,
                life.state,
                _moment(life.submitted_us),
            )
            for number, attempt in enumerate(life.attempts, 1):
                writer.writerow((*job, number, *_fields(attempt)))
            if not life.attempts:
                writer.writerow((*job, 0, "", "", _when(life.ended_us), "", "", ""))


def _fields(attempt: Attempt) -> tuple[str, ...]:
    moments = (attempt.scheduled_us, attempt.started_us, attempt.ended_us, attempt.released_us)
    nodes = [one.node for one in attempt.allocation]
    gpu_ids = [uuid for one in attempt.allocation for uuid in one.gpu_ids]
    return (*map(_when, moments), " ".join(nodes), " ".join(gpu_ids))


def _when(us: int) -> str:
    return _moment(us) if us else ""


def _draw(directories: Sequence[Path], shown: Sequence[Shown]) -> None:
    """Pictures take each attempt as a job of its own, that waits from when its job did."""
    if not all(one.summary.outcome.jobs for one in shown):
        click.echo("no pictures: in one of the courses no job ran", err=True)
        return
    try:
        from horizon.cli import pictures
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        click.echo("no pictures: they need matplotlib, which horizon-gpu-scheduler[plot] brings", err=True)
        return
    simulations = [simulation_of(one.course, one.bounds) for one in shown]
    drawn = [
        pictures.Drawn(
            one.label, simulation, one.summary.outcome, datetime.fromtimestamp(simulation.zero_s, UTC)
        )
        for one, simulation in zip(shown, simulations, strict=True)
    ]
    where = f"{shown[0].summary.outcome.counted:,} jobs of the log"
    for directory, one, picture in zip(directories, shown, drawn, strict=True):
        title = f"{where}; {one.label}"
        pictures.draw_waits(directory / "waits.png", picture, title)
        pictures.draw_timeline(directory / "timeline.png", picture, title, max(1, gpus_most(one.course)))
    pictures.draw_comparison(directories[1] / "comparison.png", drawn, where)
