"""The entry point: finds the command, runs it, turns whatever goes wrong into a sentence and an exit code.

Commands live in modules by subject that are imported only when they are run, so that `horizon ps` starts in
the time it takes to import an argument parser and an HTTP client.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final, NamedTuple, NoReturn

import click

import horizon
from horizon.cli import exits
from horizon.cli.exits import CliError


class Place(NamedTuple):
    """Where a command is, and the one line that `horizon --help` says about it."""

    module: str
    help: str


SECTIONS: Final[dict[str, dict[str, Place]]] = {
    "Run Horizon": {
        "up": Place("serving", "Run everything on this machine: Postgres, scheduler, node."),
        "serve": Place("serving", "Run the service on a given Postgres, for containers."),
        "demo": Place("demo", "Run real jobs of three users on pretend GPUs and verify the log."),
        "snapshot": Place("snapshot", "Keep the state that the log folds to, for a quick start."),
        "migrate": Place("serving", "Bring a database's schema up to date."),
        "token": Place("serving", "Show the token of the server on this machine."),
    },
    "Jobs": {
        "submit": Place("submit", "Submit a job: a command after --, or a script."),
        "ps": Place("jobs", "List jobs, those that have not ended unless asked otherwise."),
        "show": Place("jobs", "Show one job with all that is known of it."),
        "why": Place("why", "Say why a job is where it is, and what would start it."),
        "logs": Place("jobs", "Print what a job wrote."),
        "update": Place("jobs", "Give jobs another priority or time limit."),
        "cancel": Place("jobs", "Cancel jobs."),
        "requeue": Place("jobs", "Stop jobs and put them back into the queue."),
        "checkpoint": Place("jobs", "Record that a running job has saved its work."),
        "erase": Place("jobs", "Erase the environment and the script of jobs that have ended."),
        "hold": Place("jobs", "Keep waiting jobs from starting until they are released."),
        "release": Place("jobs", "Let held jobs start when their turn comes."),
    },
    "The cluster": {
        "queue": Place("cluster", "Show who waits, in the order of starting."),
        "nodes": Place("cluster", "List nodes; `nodes drain` and its like keep work off them."),
        "gpus": Place("cluster", "List GPUs and who holds them; `gpus fail` takes one out."),
        "bookings": Place("bookings", "List bookings; `bookings make` keeps nodes free for a time."),
        "shares": Place("shares", "Show the share tree; `shares set` changes weights and bounds."),
        "policy": Place("policy", "Show how Horizon decides; `policy set` changes it."),
        "events": Place("events", "Print the log of events, in sentences."),
        "simulate": Place(
            "simulate", "Run a trace of a real cluster, or the log once more, through the scheduler."
        ),
    },
    "The proof": {
        "verify": Place("proof", "Check the whole log, or an export of it."),
        "replay": Place("replay", "Fold the log up to a moment: the system as it was, or what changed."),
        "prove": Place("proof", "Prove that a job's events are in the log that was signed."),
        "export": Place("proof", "Write the log out, for whoever checks it without Horizon."),
        "archive": Place("archive", "Move the oldest full partitions of the log into files, each checked."),
        "keys": Place("proof", "Show the key that the log is signed with; `keys rotate` makes a new one."),
    },
}
COMMANDS: Final = {name: place for section in SECTIONS.values() for name, place in section.items()}


def clipped(text: str) -> str:
    """Enough of a text to know it by, in characters that any terminal takes."""
    return ascii(text if len(text) <= 40 else text[:40] + "...")


class _Horizon(click.Group):
    """A group that knows its commands by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        place = COMMANDS.get(name)
        if place is None:
            return None
        command = getattr(import_module(f"horizon.cli.{place.module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"there is no command {args[0]!r}{_nearest(args[0])}; `horizon --help` lists them all")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, place.help) for name, place in section.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(exits.HELP)


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(name, COMMANDS, 1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


@click.group(cls=_Horizon, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(horizon.__version__, prog_name="horizon")
@click.option("--url", metavar="URL", help="The server to talk to.  [HORIZON_URL]")
@click.option(
    "--data-dir",
    metavar="DIR",
    help="Where the server of this machine keeps its data and clients find its token.  [HORIZON_DATA_DIR]",
)
@click.pass_context
def cli(ctx: click.Context, url: str | None, data_dir: str | None) -> None:
    """Horizon, an auditable GPU job scheduler.

    A client finds its server by HORIZON_URL and HORIZON_TOKEN, else by the data directory of `horizon up`.
    NO_COLOR turns colours off; every listing takes --json.
    """
    ctx.obj = {"url": url, "data_dir": data_dir}


def main() -> NoReturn:
    """The console script."""
    try:
        result = cli.main(prog_name="horizon", standalone_mode=False)
        code = result if isinstance(result, int) else exits.OK
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        code = exits.INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CliError as error:
        _say(str(error))
        code = error.exit_code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exits.PIPE_CLOSED
    except UnicodeEncodeError as error:
        _say(f"{clipped(error.object)} has characters that cannot be sent; text must be UTF-8")
        code = exits.USAGE
    except OSError as error:
        if os.environ.get("HORIZON_DEBUG"):
            raise
        _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        code = exits.FAILED
    except Exception as error:
        if os.environ.get("HORIZON_DEBUG"):
            raise
        _say(f"internal error: {type(error).__name__}: {error} (HORIZON_DEBUG=1 shows where)")
        code = exits.FAILED
    sys.exit(code)


def _say(message: str) -> None:
    """One message on stderr; control characters in it may come from anyone and are not for the terminal."""
    from horizon.cli.output import clean

    click.echo("horizon: " + "\n".join(clean(line) for line in message.split("\n")), err=True)


if __name__ == "__main__":
    main()
