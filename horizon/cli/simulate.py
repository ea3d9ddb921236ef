"""``simulate``: what Horizon would have done with the jobs of a real trace, under one policy or several; or
with those of its own log, if things had been otherwise (``cli.whatif``)."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import msgspec
from click.core import ParameterSource
from msgspec import Struct

import horizon
from horizon.cli import exits
from horizon.cli.exits import CliError
from horizon.cli.output import Column, print_json, print_table, show_duration
from horizon.cli.values import BEGINNING, OVER, Parsed, is_date
from horizon.core import limits
from horizon.core.policy import UNLIMITED, Order, Policy
from horizon.core.state import SECOND_US
from horizon.service.outcomes import BSLD_THRESHOLD_S, Outcome, outcome_of
from horizon.service.simulator import ANY_TYPE, Hardware, Instants, Limits, Simulation
from horizon.service.simulator import simulate as run_trace
from horizon.service.traces import Trace, TraceError, load

NAMED_MAX: Final = 10
"""Jobs named in a message; summary.json has all of them."""
GPUS_MAX: Final = 100_000

_CLUSTER: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})(?::([A-Za-z0-9][A-Za-z0-9._-]{0,127}))?")
_DEPTHS: Final = {"easy": 1, "conservative": UNLIMITED}
_BACKFILL_FORMS: Final = "none, easy, conservative or a number of reservations"

Moment = tuple[datetime, bool]
"""In no zone when it was given in none; and whether a whole day is meant."""


def _parse_cluster(text: str) -> Hardware:
    """``64x8`` or ``64x8:H100``."""
    match = _CLUSTER.fullmatch(text)
    if match is None or int(match[1]) * int(match[2]) > GPUS_MAX:
        raise ValueError(
            f"{text!r} is no cluster: write NODESxGPUS or NODESxGPUS:TYPE, such as 64x8:H100, "
            f"{GPUS_MAX:,} GPUs at most in all"
        )
    return Hardware(int(match[1]), int(match[2]), match[3] or ANY_TYPE)


def _parse_moment(text: str) -> Moment:
    """A date, or a date and a time."""
    try:
        return datetime.fromisoformat(text), is_date(text)
    except ValueError:
        raise ValueError(f"{text!r} is no moment: write such as 2017-10-03 or 2017-10-03T08:00") from None


def _ended(moment: Moment) -> datetime:
    """When it, or the day that is meant, is over."""
    return moment[0] + (OVER if moment[1] else BEGINNING)


def _in_log_us(moment: datetime) -> int:
    """Microseconds since 1970; without a zone it is one of this machine's."""
    return int(moment.astimezone().timestamp()) * SECOND_US


def _in_trace_s(moment: datetime) -> int:
    """Seconds since 1970; without a zone it is one of the trace's own."""
    return int((moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment).timestamp())


def _checked_backfill(text: str) -> str:
    """What ``parse_backfill`` reads, kept as it was written."""
    parse_backfill(text)
    return text


def parse_backfill(text: str) -> tuple[bool, int]:
    """Whether the first blocked job keeps all behind it waiting, and how many get a reservation."""
    if text == "none":
        return True, 0
    if text in _DEPTHS:
        return False, _DEPTHS[text]
    if not (text.isdecimal() and text.isascii() and int(text) <= limits.RESERVATIONS_MAX):
        raise ValueError(
            f"{text!r} is no backfill: write {_BACKFILL_FORMS}, up to {limits.RESERVATIONS_MAX:,}"
        )
    return False, int(text)


_HARDWARE: Final = Parsed("cluster", _parse_cluster)
_MOMENT: Final = Parsed("moment", _parse_moment)
_BACKFILL: Final = Parsed("backfill", _checked_backfill)


class Contender(NamedTuple):
    """A policy, and by which limits it plans."""

    label: str
    policy: Policy
    limits: Limits

    @property
    def folder(self) -> str:
        """For its results, beside those of others."""
        return self.label.replace("/", "-")


class Setting(Struct, frozen=True):
    """What was simulated, for those who read the numbers later."""

    trace: str
    sha256: str
    """Of the trace's file."""
    jobs: int
    first_submission: str | None
    """None when the trace does not say when it was; all times in jobs.csv are seconds from there."""
    dropped: dict[str, int]
    """Records of the trace that cannot be simulated, by why."""
    cluster: Hardware
    events: Instants


class Speed(Struct, frozen=True):
    """What the simulation itself took."""

    events: int
    cycles: int
    wall_s: float
    jobs_per_s: float


class Summary(Struct, frozen=True):
    """What summary.json holds."""

    label: str
    policy: Policy
    estimates: Limits
    setting: Setting
    outcome: Outcome
    speed: Speed
    bounded_slowdown_threshold_s: int = BSLD_THRESHOLD_S
    horizon: str = horizon.__version__


class Result(NamedTuple):
    contender: Contender
    summary: Summary
    simulation: Simulation


@click.command(short_help="Run a trace of a real cluster, or the log once more, through the scheduler.")
@click.argument("trace", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--from-log", is_flag=True, help="The log of this Horizon instead of a trace.")
@click.option(
    "--what-if", "what_ifs", multiple=True, metavar="POLICY.toml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is to be otherwise: fields of `horizon policy`, and shares. May be given more than once.",
)  # fmt: skip
@click.option(
    "--export", "exported", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
    help="With --from-log: an export of the whole log instead of the database.",
)  # fmt: skip
@click.option("--data-dir", metavar="DIR", help="With --from-log: whose log, if DATABASE_URL is not set.")
@click.option(
    "--cluster", type=_HARDWARE, metavar="NODESxGPUS[:TYPE]",
    help="The cluster, as 64x8:H100. With --from-log one to take the place of all recorded nodes.",
)  # fmt: skip
@click.option(
    "--order", type=click.Choice([*map(str, Order)]), default=Order.FAIR.value, show_default=True,
    help="Who goes first: by fair shares, or who came first.",
)  # fmt: skip
@click.option(
    "--backfill", type=_BACKFILL, default="16", show_default=True, metavar="none|easy|conservative|N",
    help="How many of the first blocked jobs get a reservation: easy is 1, conservative all. With 0 whatever "
    "fits starts. With none the first blocked job keeps all behind it waiting.",
)  # fmt: skip
@click.option(
    "--estimates", type=click.Choice([*map(str, Limits)]), default=Limits.USER.value, show_default=True,
    help="The time limits to plan by: what users said, or what jobs really take.",
)  # fmt: skip
@click.option(
    "--events", "instants", type=click.Choice([*map(str, Instants)]), default=Instants.BATCH.value,
    show_default=True,
    help="What happens in one second is dealt with together, ends first; or each event by itself, "
    "submissions first.",
)  # fmt: skip
@click.option("--since", type=_MOMENT, metavar="MOMENT", help="Only jobs submitted from then on.")
@click.option(
    "--until",
    type=_MOMENT,
    metavar="MOMENT",
    help="Only jobs submitted before; a date alone is included.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first so many of them.")
@click.option(
    "--compare", "others", multiple=True, metavar="POLICY",
    help="Another policy, as ORDER/BACKFILL or ORDER/BACKFILL/ESTIMATES, or a TOML file with the fields of "
    "`horizon policy`. May be given more than once.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to write."
)
@click.option("--json", "as_json", is_flag=True, help="Print what summary.json has, one for each policy.")
@click.pass_context
def simulate(
    ctx: click.Context,
    trace: Path | None,
    from_log: bool,
    what_ifs: tuple[Path, ...],
    exported: Path | None,
    data_dir: str | None,
    cluster: Hardware | None,
    order: str,
    backfill: str,
    estimates: str,
    instants: str,
    since: Moment | None,
    until: Moment | None,
    limit: int | None,
    others: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a trace of a real cluster, or the log once more, through the scheduler, on a clock of its own.

    TRACE is a log in the standard workload format (SWF; processors become GPUs, groups accounts) or a csv
    file with the columns timestamp,duration,num_gpus,gpu_time,cluster (clusters become accounts; there are no
    users' estimates, the true durations stand for them). Either may be gzipped. Moments without a zone are
    those of the trace.

    Writes into --out: jobs.csv (when each job was submitted, started and ended, in seconds from the first
    submission), summary.json, and pictures of waits by size, of utilisation and queue over time and, with
    --compare, of the policies side by side; the results of other policies go into folders of their own.

    With --from-log the recorded history is gone through once more: what people asked for, and the nodes, as
    they are recorded; what Horizon decides under what --what-if and --cluster say, or, without either, as it
    was, which gives what is recorded. A file says what is to be otherwise, all else stays as it was:

    \b
      reservation_depth = "easy"
      preemption = false
      [shares."research/nlp"]
      weight = 2
      max_gpus = 16
    """
    if from_log:
        from horizon.cli import places, whatif

        _refuse(ctx, _TRACE_ONLY, "is for traces, not for the log")
        directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
        bounds = (since and _in_log_us(since[0])), (until and _in_log_us(_ended(until)))
        source = whatif.Source(directory, exported, *bounds)
        whatif.run(source, what_ifs, cluster, out, as_json)
        return
    _refuse(ctx, _LOG_ONLY, "is for the log: give --from-log")
    if trace is None:
        raise click.UsageError("there is nothing to simulate: name a TRACE, or give --from-log")
    if cluster is None:
        raise click.UsageError("Missing option '--cluster': say what the trace is to run on, as 64x8:H100")
    contenders = _contenders(f"{order}/{backfill}/{estimates}", others)
    part = _part_of(_loaded(trace), since, until, limit)
    _simulate_trace(part, _setting(part, cluster, Instants(instants)), contenders, out, as_json)


def _simulate_trace(
    part: Trace, setting: Setting, contenders: Sequence[Contender], out: Path | None, as_json: bool
) -> None:
    results = [_simulated(part, setting, contender) for contender in contenders]
    _say_what_was_left_out(part, results[0].summary.outcome)
    if out is not None:
        _write(out, part, results)
    if as_json:
        print_json(msgspec.to_builtins([result.summary for result in results]))
    else:
        _print(results)


# --- what to simulate ---------------------------------------------------------------------------------

_TRACE_ONLY: Final = {
    "trace": "TRACE",
    "order": "--order",
    "backfill": "--backfill",
    "estimates": "--estimates",
    "instants": "--events",
    "limit": "--limit",
    "others": "--compare",
}
_LOG_ONLY: Final = {"what_ifs": "--what-if", "exported": "--export", "data_dir": "--data-dir"}


def _refuse(ctx: click.Context, options: dict[str, str], why: str) -> None:
    """Options that would mean nothing here."""
    for parameter, name in options.items():
        if ctx.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{name} {why}")


def _contenders(first: str, others: Sequence[str]) -> list[Contender]:
    main = _named(first)
    found = [main, *(_contender(text, main.limits) for text in others)]
    folders = [contender.folder for contender in found]
    for contender in found:
        if folders.count(contender.folder) > 1:
            raise CliError(f"{contender.label} is given twice: there is nothing to compare", exits.USAGE)
    return found


def _contender(text: str, estimates: Limits) -> Contender:
    if text.endswith(".toml"):
        return Contender(Path(text).stem, _policy_in(Path(text)), estimates)
    return _named(text if text.count("/") == 2 else f"{text}/{estimates}")


def _named(text: str) -> Contender:
    """The policy that ``order/backfill/estimates`` stands for. Jobs of a trace never preempt each other."""
    try:
        order, backfill, estimates = text.split("/")
        strict, depth = parse_backfill(backfill)
        policy = Policy(
            order=Order(order),
            strict=strict,
            reservation_depth=depth,
            examined_max=limits.EXAMINED_MAX,
            preemption=False,
        )
        return Contender(text, policy, Limits(estimates))
    except ValueError:
        message = (
            f"{text!r} is no policy: name a .toml file, or write ORDER/BACKFILL or ORDER/BACKFILL/ESTIMATES, "
            f"such as fair/easy/user (orders: {', '.join(Order)}; backfill: {_BACKFILL_FORMS}; "
            f"estimates: {', '.join(Limits)})"
        )
        raise CliError(message, exits.USAGE) from None


def _policy_in(path: Path) -> Policy:
    try:
        policy = msgspec.toml.decode(path.read_bytes(), type=Policy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CliError(f"{path} is no policy: {error}", exits.USAGE) from None
    for field, fault in policy.faults():
        raise CliError(f"{path} is no policy: {field} {fault}", exits.USAGE)
    return policy


def _loaded(path: Path) -> Trace:
    try:
        return load(path)
    except TraceError as error:
        raise CliError(str(error)) from None


def _part_of(trace: Trace, since: Moment | None, until: Moment | None, limit: int | None) -> Trace:
    since_s, until_s = (since and _in_trace_s(since[0])), (until and _in_trace_s(_ended(until)))
    try:
        part = trace.part(since_s, until_s, limit)
    except ValueError as error:
        raise CliError(f"no part of {trace.name} can be chosen by time: {error}", exits.USAGE) from None
    if not part.jobs:
        raise CliError(f"no job of {trace.name} was submitted in that time; {_span_of(trace)}")
    return part


def _span_of(trace: Trace) -> str:
    first, last = (_moment(trace, job.submit_s) for job in (trace.jobs[0], trace.jobs[-1]))
    return f"its jobs are of {first:%Y-%m-%d} to {last:%Y-%m-%d}"


def _moment(trace: Trace, at_s: int) -> datetime:
    assert trace.zero_s is not None
    return datetime.fromtimestamp(trace.zero_s + at_s, UTC)


def _setting(trace: Trace, cluster: Hardware, instants: Instants) -> Setting:
    first = None if trace.zero_s is None else _moment(trace, trace.jobs[0].submit_s).isoformat()
    return Setting(trace.name, trace.digest, len(trace.jobs), first, trace.dropped, cluster, instants)


# --- simulating -----------------------------------------------------------------------------------------


def _simulated(trace: Trace, setting: Setting, contender: Contender) -> Result:
    with progress_bar(contender.label, len(trace.jobs), "jobs") as progress:
        simulation = run_trace(
            trace.jobs, setting.cluster, contender.policy, contender.limits, setting.events, progress
        )
    if not simulation.ran:
        raise CliError(f"none of the {len(trace.jobs):,} jobs could start: the cluster is too small for them")
    wall_s = simulation.wall_s
    speed = Speed(simulation.events, simulation.cycles, wall_s, len(simulation.ran) / wall_s)
    outcome = outcome_of(simulation, setting.cluster)
    return Result(contender, Summary(*contender, setting, outcome, speed), simulation)


@contextmanager
def progress_bar(label: str, total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn(what), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.update(task, completed=done)


# --- showing --------------------------------------------------------------------------------------------


def _say_what_was_left_out(trace: Trace, outcome: Outcome) -> None:
    if trace.dropped:
        why = ", ".join(f"{count:,} with {reason}" for reason, count in trace.dropped.items())
        click.echo(f"records of {trace.name} that cannot be simulated: {why}", err=True)
    for names, what in (
        (outcome.too_large, "left out, since this cluster can never hold them"),
        (outcome.never_started, "that never started"),
    ):
        say_which(f"jobs {what}", names)
    if not trace.estimated:
        click.echo(f"{trace.name} has no users' estimates: the true run times stand for them", err=True)


def say_which(what: str, names: Sequence[str]) -> None:
    """Say on stderr how many of them there are, if any, and the first by name."""
    if names:
        more = ", ..." if len(names) > NAMED_MAX else ""
        click.echo(f"{what} ({len(names):,}): {', '.join(names[:NAMED_MAX])}{more}", err=True)


def _print(results: Sequence[Result]) -> None:
    titles = (
        "POLICY", "JOBS", "MEAN WAIT", "MEDIAN", "95 %", "SLOWDOWN", "UTILISATION", "MAKESPAN", "FAIRNESS",
        "ON TIME", "TOOK",
    )  # fmt: skip
    columns = [Column(title, right=title != "POLICY") for title in titles]
    print_table(columns, (_row(result.summary) for result in results), "")


def _row(summary: Summary) -> tuple[Any, ...]:
    outcome = summary.outcome
    planned = outcome.planned_starts
    return (
        summary.label,
        f"{outcome.jobs:,}",
        show_duration(outcome.wait_s.mean),
        show_duration(outcome.wait_s.median),
        show_duration(outcome.wait_s.p95),
        f"{outcome.bounded_slowdown.mean:,.2f}",
        f"{outcome.utilisation:.1%}",
        show_duration(outcome.makespan_s),
        f"{outcome.fairness.index:.3f}",
        f"{1 - planned.late / planned.planned:.0%} of {planned.planned:,}" if planned.planned else "-",
        show_duration(summary.speed.wall_s),
    )


# --- writing --------------------------------------------------------------------------------------------


def _write(out: Path, trace: Trace, results: Sequence[Result]) -> None:
    """The first policy's results, and those of each other one in a folder below."""
    directories = [out, *(out / result.contender.folder for result in results[1:])]
    for directory, result in zip(directories, results, strict=True):
        directory.mkdir(parents=True, exist_ok=True)
        _write_jobs(directory / "jobs.csv", result.simulation)
        body = msgspec.json.format(msgspec.json.encode(result.summary), indent=2)
        (directory / "summary.json").write_bytes(body + b"\n")
    _draw(trace, directories, results)
    click.echo(f"wrote {out}", err=True)


def _write_jobs(path: Path, simulation: Simulation) -> None:
    zero_s = simulation.zero_s
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("job", "submit_s", "start_s", "end_s", "wait_s"))
        for one in simulation.ran:
            times = (one.job.submit_s - zero_s, one.start_s - zero_s, one.end_s - zero_s)
            writer.writerow((one.job.name, *times, one.wait_s))


def _draw(trace: Trace, directories: Sequence[Path], results: Sequence[Result]) -> None:
    try:
        from horizon.cli import pictures
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        click.echo("no pictures: they need matplotlib, which horizon-gpu-scheduler[plot] brings", err=True)
        return
    hardware = results[0].summary.setting.cluster
    began = None if trace.zero_s is None else _moment(trace, trace.jobs[0].submit_s)
    drawn = [
        pictures.Drawn(result.summary.label, result.simulation, result.summary.outcome, began)
        for result in results
    ]
    where = f"{len(trace.jobs):,} jobs of {trace.name} on {_shown(hardware)}"
    for directory, one in zip(directories, drawn, strict=True):
        pictures.draw_waits(directory / "waits.png", one, f"{where}; policy {one.label}")
        pictures.draw_timeline(
            directory / "timeline.png", one, f"{where}; policy {one.label}", hardware.gpus_total
        )
    if len(drawn) > 1:
        pictures.draw_comparison(directories[0] / "comparison.png", drawn, where)


def _shown(hardware: Hardware) -> str:
    if hardware.nodes == 1:
        return f"one node of {hardware.gpus_per_node:,} {hardware.gpu_type}s"
    return f"{hardware.nodes:,} nodes of {hardware.gpus_per_node:,} {hardware.gpu_type}s"
