"""``horizon submit``: one job, from a command or a script."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from horizon.cli import exits
from horizon.cli.client import Client, Refused
from horizon.cli.exits import CliError
from horizon.cli.output import json_option, print_json
from horizon.cli.session import client_of
from horizon.cli.values import DEPENDENCY_KINDS, DURATION, MEMORY, MOMENT, PAIR, PRIORITIES, SIGNAL

HELP: Final = """Submit a job: a command after --, or a script.

\b
  horizon submit --gpus 2 -- python train.py --lr 0.1
  horizon submit --gpus 2 -- 'nvidia-smi; python train.py > out.txt'
  horizon submit --gpus 2 train.sh
  horizon submit --gpus 2 - <<< $'#!/bin/sh\\npython train.py'

With --array one submission is many jobs, alike but for HORIZON_ARRAY_INDEX in their environment:

\b
  horizon submit --array 0-99%10 -- 'python train.py --seed $HORIZON_ARRAY_INDEX'

What stands after -- is run as it is, without a shell. One argument with a space in it cannot be a program
with its arguments, so it is taken for a line of shell and run by /bin/sh -c. A script is a file that begins
with #! (- reads it from standard input); its text is recorded at submission, so it may change afterwards.

The job's environment is that of the server, with what --env gives it. Submitting is safe to repeat when the
network fails: each submission carries an idempotency key.
"""

_OPTION_OF: Final = {
    "gpu_count": "--gpus",
    "gpu_type": "--gpu-type",
    "gpu_memory_gb": "--gpu-memory",
    "cpu_cores": "--cpus",
    "memory_gb": "--memory",
    "nodes": "--nodes",
    "priority": "--priority",
    "job_name": "--name",
    "account": "--account",
    "user_id": "--user",
    "environment": "--env",
    "working_dir": "--workdir",
    "time_limit_s": "--time-limit",
    "grace_period_s": "--grace",
    "stop_signal": "--signal",
    "max_retries": "--retries",
    "depends_on": "--after-ok",
    "array": "--array",
    "constraints": "--constraint",
    "labels": "--label",
    "comment": "--comment",
    "begin_at": "--begin",
    "command": "the command",
    "script": "the script",
}
"""Which option fills in which wire field, for the server's complaints."""


class _CommandAfterDashes(click.Command):
    """Remembers where ``--`` stood: what comes after it is a command, what comes before may name a script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["command"] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(
    cls=_CommandAfterDashes, help=HELP, short_help="Submit a job: a command after --, or a script."
)
@click.argument("script", nargs=-1, metavar="[SCRIPT | -- COMMAND [ARGUMENT]...]")
@click.option(
    "--gpus",
    "gpu_count",
    type=click.IntRange(min=0),
    metavar="N",
    help="GPUs in all; more than one node has are spread over a gang.  [1, or 0 if only --cpus is given]",
)
@click.option("--gpu-type", metavar="TYPE", help="Only GPUs of this type, such as H100.")
@click.option(
    "--gpu-memory", "gpu_memory_gb", type=MEMORY, metavar="GB", help="At least this much on each GPU."
)
@click.option("--cpus", "cpu_cores", type=click.IntRange(min=0), metavar="N", help="Cores in all.")
@click.option("--memory", "memory_gb", type=MEMORY, metavar="GB", help="Memory in all: 64, 512M, 1.5T.")
@click.option(
    "--nodes", type=click.IntRange(min=1), metavar="N", help="Run as a gang, one process on each of N nodes."
)
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), help="[Normal]")
@click.option("--name", "job_name", metavar="TEXT", help="A name for people.")
@click.option("--account", metavar="PATH", help="Who is charged, such as research/nlp.")
@click.option("--user", "user_id", metavar="NAME", help="Who submits.  [the user of this machine]")
@click.option("--env", multiple=True, metavar="K[=V]", help="Set a variable; without =V to what it is here.")
@click.option("--workdir", "working_dir", metavar="DIR", help="Where to run.  [the current directory]")
@click.option(
    "--time-limit",
    "time_limit_s",
    type=DURATION,
    metavar="TIME",
    help="Stop it after 3600 or 1h30m.  [never; planned for as a day]",
)
@click.option(
    "--grace", "grace_period_s", type=DURATION, metavar="TIME", help="From SIGTERM to SIGKILL.  [60]"
)
@click.option(
    "--signal", "stop_signal", type=SIGNAL, metavar="NAME", help="Sent first when it is stopped.  [SIGTERM]"
)
@click.option(
    "--retries",
    "max_retries",
    type=click.IntRange(min=0),
    metavar="N",
    help="Try again this often when it fails.",
)
@click.option(
    "--array",
    metavar="INDICES",
    help="A job for each of 0-99, 1,3,5-9 or 0-99:2; at most 10 at once: 0-99%10.",
)
@click.option("--after-ok", multiple=True, metavar="JOB", help="Not before this job has completed.")
@click.option("--after-any", multiple=True, metavar="JOB", help="Not before it has ended, however.")
@click.option(
    "--after-not-ok", multiple=True, metavar="JOB", help="Not before it has failed or was cancelled."
)
@click.option("--after-start", multiple=True, metavar="JOB", help="Not before it has been running.")
@click.option(
    "--constraint", "constraints", type=PAIR, multiple=True, metavar="K=V", help="Only nodes so labelled."
)
@click.option("--label", "labels", type=PAIR, multiple=True, metavar="K=V", help="Labels to find it by.")
@click.option("--comment", metavar="TEXT")
@click.option("--hold", is_flag=True, help="Do not start it until `horizon release`.")
@click.option("--begin", "begin_at", type=MOMENT, metavar="TIME", help="Not before 2030-01-31T08:00, or +2h.")
@click.option("--exclusive", is_flag=True, help="Share no node with other jobs.")
@click.option(
    "--preemptible",
    is_flag=True,
    help="May be stopped so that others start: it then goes back to the queue.",
)
@click.option("--follow", is_flag=True, help="Print its output as it comes, end with its exit code.")
@click.option("--wait", is_flag=True, help="Wait for its end, end with its exit code.")
@json_option
@click.pass_context
def submit(
    ctx: click.Context, /, script: tuple[str, ...], follow: bool, wait: bool, as_json: bool, **options: Any
) -> int:
    fields = {name: value for name, value in options.items() if value not in (None, False, ())}
    fields.update(_what_to_run(ctx, script))
    if follow and "array" in fields:
        raise click.UsageError("an array writes nothing itself: submit it, then `horizon logs -f` a task")
    _fill_in(fields)
    _check_text(fields)
    client = client_of(ctx)
    body = _submit(client, fields)
    job = json.loads(body)
    if not (follow or wait):
        print_json(body) if as_json else click.echo(_submitted(job))
        return exits.OK
    from horizon.cli.watch import follow_to_end, wait_for_end

    click.echo(f"job {job['number']} submitted", err=True)
    ended = follow_to_end(client, job, quiet=as_json) if follow else wait_for_end(client, job)
    if as_json:
        print_json(ended.body)
    return ended.exit_code


def _check_text(given: Any) -> None:
    """Refuse what is not UTF-8, which is how arguments and variables arrive with bytes that are no text."""
    if isinstance(given, str):
        given.encode()
    elif isinstance(given, dict):
        _check_text(list(given.items()))
    elif isinstance(given, list | tuple):
        for one in given:
            _check_text(one)


def _submitted(job: dict[str, Any]) -> str:
    """A sentence for people; in a pipe the number alone, for scripts to keep."""
    if not sys.stdout.isatty():
        return str(job["number"])
    tasks = f" with {job['tasks']['total']} tasks" if job["tasks"] else ""
    return f"job {job['number']}{tasks} submitted"


def _submit(client: Client, fields: dict[str, Any]) -> bytes:
    try:
        return client.change("POST", "/api/v1/jobs", fields)
    except Refused as refused:
        raise CliError(_in_options(refused, fields), refused.exit_code) from refused


def _in_options(refused: Refused, fields: dict[str, Any]) -> str:
    """The server's complaint, with its pointers turned into the options they came from."""
    faults = [(_option_at(pointer, fields), text) for pointer, text in refused.faults if "/" in pointer]
    if not faults or not all(option for option, _ in faults):
        return str(refused)
    detail = str(refused.problem.get("detail") or refused.problem.get("title"))
    return "; ".join(f"{option}: {text or detail}" for option, text in faults)


def _option_at(pointer: str, fields: dict[str, Any]) -> str | None:
    _, field, *more = pointer.split("/")
    if field == "depends_on" and more and more[0].isdecimal():
        return _option_after(fields["depends_on"][int(more[0])]["kind"])
    return _OPTION_OF.get(field)


def _option_after(kind: str) -> str:
    return "--" + kind.replace("_", "-")


def _what_to_run(ctx: click.Context, script: tuple[str, ...]) -> dict[str, Any]:
    """``command`` or ``script``, as the wire wants it."""
    command = ctx.meta.get("command")
    if command and script:
        raise click.UsageError(
            f"either a script or a command after --, not both: {script[0]!r} stands before --"
        )
    if command:
        line = command[0]
        if len(command) == 1 and any(character.isspace() for character in line) and not Path(line).is_file():
            return {"command": line}
        return {"command": command}
    if not script:
        raise click.UsageError("there is nothing to run: give a command after --, or a script")
    return {"script": _read_script(script)}


def _read_script(script: tuple[str, ...]) -> str:
    name = script[0]
    as_command = f"To run a command put -- before it: horizon submit -- {' '.join(script)}"
    if len(script) > 1:
        raise click.UsageError(f"a script takes no arguments here. {as_command}")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise click.UsageError(f"cannot read the script {name!r}: {error.strerror}. {as_command}") from error
    except UnicodeDecodeError:
        raise click.UsageError(f"{name!r} is no text and so no script. {as_command}") from None
    if not text.startswith("#!"):
        raise click.UsageError(f"{name!r} does not begin with #!, so it is no script. {as_command}")
    return text


def _fill_in(fields: dict[str, Any]) -> None:
    """What the wire requires or this machine knows."""
    if "user_id" not in fields:
        fields["user_id"] = _user_name()
    fields.setdefault("working_dir", _current_directory())
    fields["working_dir"] = str(Path(fields["working_dir"]).expanduser().absolute())
    if "cpu_cores" in fields and not {"gpu_count", "gpu_type", "gpu_memory_gb"} & fields.keys():
        fields["gpu_count"] = 0
    for name in ("constraints", "labels"):
        if name in fields:
            fields[name] = dict(fields[name])
    after = [{"job": job, "kind": kind} for kind in DEPENDENCY_KINDS for job in fields.pop(kind, ())]
    if after:
        fields["depends_on"] = after
    if "env" in fields:
        fields["environment"] = _environment(fields.pop("env"))


def _user_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise CliError("this user has no name here; give one with --user", exits.USAGE) from None


def _current_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise CliError("the current directory is gone; give one with --workdir", exits.USAGE) from None


def _environment(entries: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for entry in entries:
        name, separator, value = entry.partition("=")
        if not name:
            raise click.UsageError("--env must name a variable: K=V, or K alone for what it is here")
        if not separator:
            if name not in os.environ:
                raise click.UsageError(
                    f"--env {name}: there is no such variable here; give it a value: {name}=..."
                )
            value = os.environ[name]
        values[name] = value
    return values
