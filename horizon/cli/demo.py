"""``horizon demo``: a whole Horizon for half a minute, real jobs of three users, and proof of its log."""

from __future__ import annotations

import asyncio
import json
import shlex
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from horizon.cli import exits, places
from horizon.cli.client import Client, Refused
from horizon.cli.exits import CliError
from horizon.cli.output import Column, parse_time, print_table, show_duration
from horizon.cli.places import Server, write_token
from horizon.cli.session import Job, job_path

if TYPE_CHECKING:
    from horizon.cli.screen import Screen
    from horizon.cli.server import Scheduler
    from horizon.core.model import Inventory

POLL_S: Final = 0.1
PATIENCE_S: Final = 90.0
"""The demo takes some ten seconds; after this long something is wrong."""
CANCEL_AFTER_S: Final = 0.5

ENDED: Final = ("Completed", "Failed", "Cancelled")


class Wish(NamedTuple):
    """A job that someone in the demo submits."""

    user: str
    account: str
    name: str
    gpus: int
    command: str | list[str]
    priority: str = "Normal"
    nodes: int = 0
    time_limit_s: int = 0
    preemptible: bool = False
    outcome: str = "Completed"
    """How it should end."""
    after: str = ""
    """The name of a job that must be running before this is submitted."""

    def fields(self) -> dict[str, Any]:
        """The request, as `horizon submit` would send it."""
        wire: dict[str, Any] = {"user_id": self.user, "account": self.account, "job_name": self.name}
        wire |= {
            "gpu_count": self.gpus,
            "priority": self.priority,
            "command": self.command,
            "grace_period_s": 1,
        }
        if self.nodes:
            wire["nodes"] = self.nodes
        if self.time_limit_s:
            wire["time_limit_s"] = self.time_limit_s
        if self.preemptible:
            wire["preemptible"] = True
        return wire

    def shown(self) -> str:
        """The command line that asks for the same."""
        words = ["horizon submit --user", self.user, "--account", self.account, "--name", self.name]
        words += ["--gpus", str(self.gpus)]
        words += ["--nodes", str(self.nodes)] if self.nodes else []
        words += ["--time-limit", f"{self.time_limit_s}s"] if self.time_limit_s else []
        words += ["--priority", self.priority] if self.priority != "Normal" else []
        words += ["--preemptible"] if self.preemptible else []
        command = shlex.join(self.command) if isinstance(self.command, list) else shlex.quote(self.command)
        return " ".join([*words, "--", command])


def wishes(nodes: int, gpus_per_node: int) -> list[Wish]:
    """More than the cluster can run at once, of three users, so that some must wait and others make way.

    Training fills the nodes but for a few GPUs; a gang that wants all of them has to wait and is planned for;
    short work fits in before it, long work does not; something urgent makes training give way.
    """
    few, many = max(1, gpus_per_node // 4), max(1, gpus_per_node // 2)
    nlp, vision, ads = "research/nlp", "research/vision", "product/ads"
    trains = max(1, 2 * nodes - 1)
    found = [
        Wish("alice", nlp, f"train-{one}", many, _work(2.5), time_limit_s=20, preemptible=True)
        for one in range(1, trains + 1)
    ]
    last = found[-1].name
    if nodes > 1:
        everything = Wish(
            "bob", vision, "gang", nodes * gpus_per_node, _work(0.8), nodes=nodes, time_limit_s=20
        )
        found.append(everything._replace(after=last))
    found += [
        Wish("carol", ads, "short", few, _work(0.6), "Low", time_limit_s=5, after=last),
        Wish("carol", ads, "long", few, _work(0.6), "Low", time_limit_s=600),
        Wish("carol", ads, "urgent", gpus_per_node, _work(0.8), "Urgent", time_limit_s=20, after=last),
        Wish("bob", vision, "nan", few, "echo 'loss is nan' >&2; exit 3", outcome="Failed"),
        Wish("bob", vision, "mistake", few, ["sleep", "600"], outcome="Cancelled"),
        Wish("alice", nlp, "sweep", few, _work(0.6), "Low"),
    ]
    found += [Wish("bob", vision, f"eval-{one}", many, _work(0.8)) for one in range(1, 4)]
    return found


def _work(seconds: float) -> list[str]:
    return ["sleep", str(seconds)]


@click.command(short_help="Run real jobs of three users on pretend GPUs and verify the log.")
@click.option(
    "--simulate-gpus", default="2*4xH100", show_default=True, metavar="SPEC", help="The pretend GPUs."
)
def demo(simulate_gpus: str) -> int:
    """Run real jobs of three users on pretend GPUs and verify the log.

    Starts a whole Horizon in a temporary directory, has three users submit more than it can run at once,
    shows who gets what and why, then reads the log again and checks that it leads to the same state.

    Ends with 0 only if every job ended as it should and the log holds.
    """
    import uvloop

    from horizon.cli.loglines import configure_logging

    configure_logging("error")
    with (
        tempfile.TemporaryDirectory(prefix="horizon-demo-", ignore_cleanup_errors=True) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_run(Path(directory), simulate_gpus))


async def _run(directory: Path, spec: str) -> int:
    from horizon.cli.server import Scheduler, Settings

    token = write_token(directory)
    scheduler = Scheduler(Settings(directory, "127.0.0.1", 0, token, simulate_gpus=spec))
    hurry = threading.Event()
    signalled = _on_signals(hurry)
    click.echo("Starting Postgres, the scheduler and its nodes ...")
    try:
        await scheduler.start()
        client = Client(Server(scheduler.url, token))
        jobs = await asyncio.to_thread(_play, client, scheduler.inventories, hurry)
        if signalled.done():
            return exits.INTERRUPTED
        _report(jobs)
        wrong = [job for job, wish in jobs if job["state"] != wish.outcome]
        for job in wrong:
            click.echo(
                f"job {job['number']} should not have ended as {job['state']}: {job['reason']}", err=True
            )
        holds = await _verify(scheduler, directory)
        return exits.OK if holds and not wrong else exits.FAILED
    finally:
        if hasattr(scheduler, "engine"):
            await _end_all(scheduler)
        await scheduler.stop()


def _on_signals(hurry: threading.Event) -> asyncio.Future[None]:
    """The first SIGINT or SIGTERM ends the play; what was started is then ended and cleaned up."""
    import signal

    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        hurry.set()
        if not signalled.done():
            signalled.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, note)
    return signalled


# --- the play, in a thread of its own -----------------------------------------------------------------


def _play(
    client: Client, inventories: tuple[Inventory, ...], hurry: threading.Event
) -> list[tuple[Job, Wish]]:
    """Submit everything, show what becomes of it, give the jobs as they ended."""
    from horizon.cli.screen import open_screen

    gpus = [len(inventory.devices) for inventory in inventories]
    submitted: dict[str, Wish] = {}
    client.change("PUT", "/api/v1/policy", {"min_runtime_s": 0})
    click.echo("$ horizon policy set min_runtime_s=0")
    for wish in wishes(len(gpus), min(gpus)):
        if wish.after:
            _wait_until_running(client, submitted, wish.after, hurry)
        job = json.loads(client.change("POST", "/api/v1/jobs", wish.fields()))
        submitted[job["id"]] = wish
        click.echo(f"$ {wish.shown()}")
    click.echo()
    with open_screen() as screen:
        jobs = _watch(client, submitted, screen, hurry)
    return [(job, submitted[job["id"]]) for job in jobs]


def _wait_until_running(
    client: Client, submitted: dict[str, Wish], name: str, hurry: threading.Event
) -> None:
    (job_id,) = [job_id for job_id, wish in submitted.items() if wish.name == name]
    began = time.monotonic()
    while not hurry.is_set() and time.monotonic() - began < PATIENCE_S:
        if json.loads(client.get(job_path(job_id)))["state"] not in ("Queued", "Scheduled"):
            return
        hurry.wait(POLL_S / 10)


def _watch(client: Client, submitted: dict[str, Wish], screen: Screen, hurry: threading.Event) -> list[Job]:
    doomed = [id for id, wish in submitted.items() if wish.outcome == "Cancelled"]
    why: dict[str, str] = {}
    began = time.monotonic()
    while not hurry.is_set():
        jobs: list[Job] = json.loads(client.get("/api/v1/jobs", {"limit": len(submitted)}))["jobs"]
        jobs.sort(key=lambda job: int(job["number"]))
        for job in jobs:
            if job["state"] == "Queued":
                why[job["id"]] = job["reason"]
        screen.show(jobs, time.monotonic() - began)
        if all(job["state"] in ENDED for job in jobs):
            return [{**job, "why": _why(client, job, why.get(job["id"]))} for job in jobs]
        if doomed and time.monotonic() - began > CANCEL_AFTER_S:
            _cancel(client, doomed.pop())
        if time.monotonic() - began > PATIENCE_S:
            raise CliError(f"the jobs have not ended after {PATIENCE_S:.0f} s")
        hurry.wait(POLL_S)
    return []


def _cancel(client: Client, job_id: str) -> None:
    try:
        client.change("DELETE", job_path(job_id))
    except Refused as refused:
        if refused.exit_code != exits.CONFLICT:
            raise


# --- who got what, and why ----------------------------------------------------------------------------


def _seconds(start: str | None, end: str | None) -> float:
    began, ended = parse_time(start), parse_time(end)
    return 0.0 if began is None or ended is None else (ended - began).total_seconds()


def _report(jobs: list[tuple[Job, Wish]]) -> None:
    _report_users(jobs)
    click.echo(
        "\nAnd why (at one priority the user with the smaller figure goes first: GPU-hours used, with those"
    )
    click.echo("held now charged an hour ahead, over the weight of the share):")
    for job, _ in sorted(jobs, key=lambda pair: str(pair[0]["scheduled_at"] or "~")):
        click.echo(f"  {job['number']:>2} {job['user_id']:<5} {job['job_name']:<8} {job['why']}")


def _report_users(jobs: list[tuple[Job, Wish]]) -> None:
    started = sorted(
        (job for job, _ in jobs if job["scheduled_at"]), key=lambda job: str(job["scheduled_at"])
    )
    rows = []
    for user in dict.fromkeys(str(job["user_id"]) for job, _ in jobs):
        own = [job for job, _ in jobs if job["user_id"] == user]
        waits = [_seconds(job["created_at"], job["scheduled_at"]) for job in own if job["scheduled_at"]]
        used = sum(
            _seconds(job["started_at"], job["completed_at"]) * job["resources"]["gpu_count"] for job in own
        )
        turns = " ".join(str(turn) for turn, job in enumerate(started, 1) if job["user_id"] == user)
        mean = sum(waits) / len(waits) if waits else 0.0
        rows.append((user, len(own), f"{used:.1f}", show_duration(mean), turns))
    columns = ("USER", "JOBS", "GPU-SECONDS", "MEAN WAIT", "TURNS (order of starts)")
    click.echo("\nWho got what:")
    print_table([Column(title, right=1 <= at <= 3) for at, title in enumerate(columns)], rows, "")


def _why(client: Client, job: Job, waited_for: str | None) -> str:
    """One sentence on how a job came to its place and to its end, from the log."""
    events = json.loads(client.get(job_path(job["id"], "events")))["events"]
    placed = [event["payload"] for event in events if event["type"] == "JobScheduled"]
    planned = next((event["payload"] for event in events if event["type"] == "JobReserved"), None)
    ended = str(job["state"]).lower()
    ending = job["reason"] if str(job["reason"]).startswith(ended) else f"{ended}: {job['reason']}"
    ending = ended if ended == "completed" else ending
    if not placed:
        return f"{ending} before its turn came"
    told = [_how_it_came(job, placed[0], planned, waited_for)]
    told += [_how_it_made_way(event["payload"]) for event in events if event["type"] == "JobRequeued"]
    told += ["then ran to its end"] if len(placed) > 1 else []
    return "; ".join([*told, ending])


def _how_it_came(
    job: Job, placed: dict[str, Any], planned: dict[str, Any] | None, waited_for: str | None
) -> str:
    where = " and ".join(one["node"] for one in placed["allocation"])
    cause = placed.get("cause", "priority")
    if cause == "backfill":
        return f"filled a gap on {where}, where it delays nobody who is planned ahead of it"
    if cause == "preemption":
        return f"others made way for it on {where}"
    waited_s = _seconds(job["created_at"], job["scheduled_at"])
    if waited_s < POLL_S or not waited_for:
        return f"there was room at once on {where}"
    plan = f", planned on {' and '.join(planned['nodes'])}" if planned else ""
    stood = f"{job['priority']}, {job['user_id']} at {placed['score'] / 3_600:.2f} GPU-h over weight"
    return f"waited for room{plan}, then was number {placed['rank']} in the order ({stood})"


def _how_it_made_way(requeued: dict[str, Any]) -> str:
    return f"{requeued['reason']} and went back to its place"


# --- the proof ----------------------------------------------------------------------------------------


async def _quiet(scheduler: Scheduler) -> None:
    """Until nothing holds a GPU any more."""
    deadline = time.monotonic() + PATIENCE_S
    while scheduler.engine.state.holding and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S / 10)


async def _signed(scheduler: Scheduler) -> None:
    """Until all of the log is signed."""
    engine = scheduler.engine
    assert engine.notary is not None
    engine.notary.sign_soon()
    deadline = time.monotonic() + PATIENCE_S
    while engine.notary.size < engine.state.position and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S / 10)


async def _verify(scheduler: Scheduler, directory: Path) -> bool:
    """Check the log as an auditor would, fold it again, and compare with the state that was lived in."""
    from horizon.core.state import digest
    from horizon.service.keys import KeyFile
    from horizon.service.notefile import NoteFile
    from horizon.service.verify import Unsound, verify
    from horizon.store.port import StoreError
    from horizon.store.reader import LogReader

    await _quiet(scheduler)
    await _signed(scheduler)
    public = KeyFile(places.own_signing_key(directory)).public()
    reader = LogReader(scheduler.dsn)
    try:
        await reader.open()
        notes = [NoteFile(places.checkpoints(directory))]
        found = await verify(reader, notes, [public] if public else [], lambda done, total: None)
    except (StoreError, Unsound) as error:
        click.echo(f"\nThe log does not hold: {error}", err=True)
        return False
    finally:
        await reader.close()
    live = digest(scheduler.engine.state)
    click.echo(
        f"\nThe log: {found.events} events. Each hash was made anew from the bytes in Postgres and the one"
    )
    click.echo(f"before, each move is a legal one, and up to event {found.signed} it is signed under")
    click.echo(f"  {public}")
    if live != found.digest:
        click.echo(f"Folding it gives another state ({found.digest}) than the live one ({live}).", err=True)
        return False
    click.echo("Folding it again gives the live state, to the bit:")
    click.echo(f"  {live}")
    return True


async def _end_all(scheduler: Scheduler) -> None:
    """Leave no process behind: the directory that would tell of it goes away."""
    active: Iterable[str] = [job.id for job in scheduler.engine.state.numbered if not job.state.ended]
    if active and scheduler.engine.ready:
        client = Client(Server(scheduler.url, scheduler.token))
        for job_id in active:
            await asyncio.to_thread(_cancel, client, job_id)
        await _quiet(scheduler)
