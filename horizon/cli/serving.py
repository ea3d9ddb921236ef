"""``up``, ``serve``, ``migrate`` and ``token``: the commands of whoever runs a Horizon."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import horizon
from horizon.cli import exits, lock, places
from horizon.cli.exits import CliError
from horizon.cli.values import PAIR

if TYPE_CHECKING:
    from horizon.cli.server import Scheduler, Settings
    from horizon.store.port import Leader


def _server_options(default_host: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    options = (
        click.option("--data-dir", metavar="DIR", help="Where everything is kept.  [HORIZON_DATA_DIR]"),
        click.option("--host", default=default_host, show_default=True, help="The address to listen on."),
        click.option(
            "--port", type=click.IntRange(0, 65_535), default=places.DEFAULT_PORT, show_default=True,
            help="The port to listen on; 0 for any that is free.",
        ),
        click.option(
            "--simulate-gpus", metavar="SPEC", envvar="HORIZON_SIMULATE_GPUS",
            help="Pretend GPUs with real processes, such as 8xH100, or 2*8xH100@rack=r1,4xA100 for three "
            "nodes, two of them labelled.",
        ),
        click.option("--no-gpus", is_flag=True, help="Use no GPU: this machine takes CPU jobs only."),
        click.option(
            "--label", "labels", type=PAIR, multiple=True, metavar="K=V",
            help="A label of this machine, such as rack=r2: for --constraint, and to keep gangs together.",
        ),
        click.option(
            "--advertise", metavar="URL", envvar="HORIZON_ADVERTISE",
            help="Where other schedulers on the same database reach this one, if not where it listens.",
        ),
        click.option(
            "--lease-ttl", "lease_ttl_s", type=click.FloatRange(0.5, 3_600), default=10.0, show_default=True,
            metavar="SECONDS", envvar="HORIZON_LEASE_TTL_S",
            help="How long this one may be silent, as leader, before another one takes over.",
        ),
    )  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command(short_help="Run everything on this machine: Postgres, scheduler, node.")
@_server_options(places.DEFAULT_HOST)
@click.pass_context
def up(ctx: click.Context, /, data_dir: str | None, **choices: Any) -> int:
    """Run everything on this machine: Postgres, scheduler, node.

    Postgres is an embedded one under the data directory, or the one that DATABASE_URL names. Ctrl-C or
    SIGTERM stops it; running jobs go on running and the next `horizon up` on the same data directory adopts
    them. Clients of this machine find the server and its token in the data directory.
    """
    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    return _run(directory, os.environ.get("DATABASE_URL") or None, lambda: _local_token(directory), choices)


@click.command(short_help="Run the service on a given Postgres, for containers.")
@_server_options("0.0.0.0")
@click.option(
    "--standby",
    is_flag=True,
    help="Follow whoever leads this log: answer reads, forward changes, and lead when nobody else does.",
)
@click.pass_context
def serve(ctx: click.Context, /, data_dir: str | None, **choices: Any) -> int:
    """Run the service on the Postgres that DATABASE_URL names, with the token in HORIZON_TOKEN.

    Like `horizon up`, with nothing made up on the spot: for containers and service managers. Of several with
    --standby on one database, one leads and the others take over when it ends. On one machine they share a
    data directory, and so the jobs that run; see "Two schedulers" in the README.
    """
    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    database_url = _required(
        "DATABASE_URL", "the address of a Postgres, such as postgresql://user:password@host/db"
    )
    token = _required("HORIZON_TOKEN", "a long random text that clients must send")
    return _run(directory, database_url, lambda: token, choices)


@click.command(short_help="Bring a database's schema up to date.")
@click.option("--data-dir", metavar="DIR", help="Whose embedded Postgres, if DATABASE_URL is not set.")
@click.pass_context
def migrate(ctx: click.Context, data_dir: str | None) -> None:
    """Bring the schema of the database up to date, as `up` and `serve` do when they start."""
    import asyncio

    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    database_url = os.environ.get("DATABASE_URL")
    if database_url:
        asyncio.run(_migrate(database_url))
    else:
        with lock.hold(directory):
            asyncio.run(_migrate_embedded(directory))
    click.echo("the schema is up to date")


@click.command(short_help="Show the token of the server on this machine.")
@click.option("--data-dir", metavar="DIR", help="Whose token.")
@click.option("--rotate", is_flag=True, help="Make a new one first; it counts from the next `horizon up` on.")
@click.pass_context
def token(ctx: click.Context, data_dir: str | None, rotate: bool) -> None:
    """Show the token that clients of this machine's server send: export HORIZON_TOKEN=$(horizon token)"""
    directory = places.data_directory(data_dir or ctx.find_root().obj["data_dir"])
    found = places.read_token(directory)
    if found is None:
        raise CliError(f"there is no token in {directory} yet: `horizon up` makes one", exits.NOT_FOUND)
    if rotate:
        found = places.write_token(directory)
        click.echo("this token counts from the next `horizon up` on", err=True)
    click.echo(found)


# --- running ------------------------------------------------------------------------------------------


def _run(directory: Path, database_url: str | None, token: Callable[[], str], choices: dict[str, Any]) -> int:
    import asyncio

    import uvloop

    from horizon.cli.loglines import configure_logging
    from horizon.cli.server import Settings, is_loopback

    if choices["simulate_gpus"] and choices["no_gpus"]:
        raise click.UsageError("--simulate-gpus and --no-gpus exclude each other")
    labels = dict(choices.pop("labels"))
    if labels and choices["simulate_gpus"]:
        raise click.UsageError("--label is for this machine; a pretended node's stands behind it: 8xH100@K=V")
    configure_logging()
    lock.make(directory)
    with nullcontext() if choices.get("standby") else lock.hold(directory):
        settings = Settings(
            data_dir=directory,
            token=token(),
            database_url=database_url,
            labels=labels,
            signing_key=places.signing_key(directory),
            **choices,
        )
        if not is_loopback(settings.host):
            click.echo(
                f"warning: {settings.host} can be reached from other machines, and tokens and jobs travel in "
                "the clear: put a proxy that speaks TLS in front",
                err=True,
            )
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve_until_stopped(settings))


async def _serve_until_stopped(settings: Settings) -> int:
    """Start, say so, wait for a signal or for the engine to give up, stop."""
    import asyncio

    from horizon.cli.database import progress_printer
    from horizon.cli.server import Scheduler

    scheduler = Scheduler(settings)
    signalled = _on_signals()
    try:
        starting = asyncio.ensure_future(scheduler.start(progress_printer("reading the log"), _say_waiting))
        await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            click.echo("stopped before it was ready", err=True)
            return exits.INTERRUPTED
        starting.result()
        if settings.standby:
            _say_standby(scheduler)
        else:
            _say_ready(scheduler, settings)
        stopped = asyncio.ensure_future(scheduler.lead(lambda: _say_ready(scheduler, settings)))
        await asyncio.wait({stopped, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            raise CliError(f"Horizon has stopped: {stopped.result()}")
        stopped.cancel()
        await asyncio.wait({stopped})
        return exits.OK
    finally:
        places.remove_endpoint(settings.data_dir)
        await _stop(scheduler)


def _on_signals() -> Any:
    """A future that the first SIGTERM, SIGINT or SIGHUP resolves; more of them hurry nothing."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    signalled = loop.create_future()

    def note() -> None:
        if not signalled.done():
            signalled.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, note)
    return signalled


async def _stop(scheduler: Scheduler) -> None:
    running = scheduler.jobs_running if hasattr(scheduler, "engine") else 0
    await scheduler.stop()
    if running:
        jobs = "1 job goes" if running == 1 else f"{running} jobs go"
        them = "it" if running == 1 else "them"
        click.echo(f"{jobs} on running; the next `horizon up` adopts {them}")


def _say_waiting(leader: Leader) -> None:
    from horizon.service.leadership import describe

    click.echo(
        f"{describe(leader)} led this log last: waiting {leader.lease_left_s:.0f} s for its lease to end",
        err=True,
    )


def _say_standby(scheduler: Scheduler) -> None:
    from horizon.service.leadership import describe

    assert scheduler.standby is not None
    leader = scheduler.standby.leader
    click.echo(f"Horizon {horizon.__version__} stands by at {scheduler.url}")
    click.echo(f"  leader  {describe(leader) if leader else 'nobody: about to lead'}")


def _say_ready(scheduler: Scheduler, settings: Settings) -> None:
    places.write_endpoint(settings.data_dir, places.Endpoint(scheduler.url, os.getpid()))
    click.echo(f"Horizon {horizon.__version__} is ready at {scheduler.url}")
    click.echo(f"  nodes  {_describe_nodes(scheduler)}")
    click.echo(f"  data   {settings.data_dir}")
    if settings.data_dir != places.data_directory():
        click.echo(f"  clients on this machine need HORIZON_DATA_DIR={settings.data_dir}")
    if running := scheduler.jobs_running:
        click.echo(f"  {running} job{'s' * (running != 1)} of an earlier run adopted")
    click.echo("Ctrl-C stops it; running jobs go on running.")


def _describe_nodes(scheduler: Scheduler) -> str:
    gpus: dict[str, int] = {}
    for inventory in scheduler.inventories:
        for device in inventory.devices:
            gpus[device.gpu_type] = gpus.get(device.gpu_type, 0) + 1
    count = len(scheduler.inventories)
    kinds = ", ".join(f"{number} {kind}" for kind, number in gpus.items()) or "no GPUs"
    pretended = " (simulated)" if any(inventory.simulated for inventory in scheduler.inventories) else ""
    return f"{count} with {kinds}{pretended}"


# --- small parts --------------------------------------------------------------------------------------


def _local_token(directory: Path) -> str:
    try:
        return places.read_token(directory) or places.write_token(directory)
    except OSError as error:
        raise CliError(f"the token cannot be kept in {directory}: {error.strerror}") from error


def _required(name: str, what: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise CliError(f"{name} is not set; it must be {what}", exits.USAGE)
    return value


async def _migrate(dsn: str) -> None:
    from horizon.store.port import StoreError
    from horizon.store.postgres import PostgresStore

    store = PostgresStore(dsn)
    try:
        await store.open()
    except StoreError as error:
        raise CliError(str(error)) from error
    finally:
        await store.close()


async def _migrate_embedded(directory: Path) -> None:
    from horizon.store.embedded import EmbeddedPostgres
    from horizon.store.port import StoreError

    postgres = EmbeddedPostgres(directory / "postgres")
    try:
        dsn = await postgres.start()
    except StoreError as error:
        raise CliError(str(error)) from error
    try:
        await _migrate(dsn)
    finally:
        await postgres.stop()
