"""``ps``, ``show``, ``logs``, ``update``, and ``cancel`` and its like: looking at jobs, changing them."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from horizon.cli.client import Client
from horizon.cli.output import (
    Column,
    json_option,
    print_fields,
    print_json,
    print_table,
    show_duration,
    show_time,
    since,
    state_style,
)
from horizon.cli.session import Job, client_of, for_each, get_job, job_path, name_of, pages
from horizon.cli.values import ACTIVE_STATES, DURATION, PAIR, PRIORITIES, STATES, reason_option

PAGE_JOBS_MAX: Final = 1_000
INDICES_SHOWN: Final = 20
"""Characters of an array's indices in a table; `show` has all of them."""

_COLUMNS: Final = (
    Column("JOB", right=True),
    Column("NAME"),
    Column("USER"),
    Column("STATE", style=state_style),
    Column("PRIORITY"),
    Column("GPUS", right=True),
    Column("TIME", right=True),
    Column("WHERE"),
    Column("REASON", wide=True),
)


@click.command(short_help="List jobs, those that have not ended unless asked otherwise.")
@click.option(
    "--state", type=click.Choice(STATES, case_sensitive=False), multiple=True, help="Only in this state."
)
@click.option("--user", metavar="NAME", help="Only of this user.")
@click.option("--account", metavar="PATH", help="Only of this account.")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), multiple=True)
@click.option("--name", metavar="TEXT", help="Only of this name.")
@click.option("--label", "labels", type=PAIR, multiple=True, metavar="K=V", help="Only so labelled.")
@click.option("--array", metavar="JOB", help="Only the tasks of this array.")
@click.option("--tasks", is_flag=True, help="Every task of an array in a line of its own.")
@click.option("--all", "-a", "everything", is_flag=True, help="Those that have ended too.")
@click.option(
    "--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most this many."
)
@json_option
@click.pass_context
def ps(
    ctx: click.Context,
    state: tuple[str, ...],
    user: str | None,
    account: str | None,
    priority: tuple[str, ...],
    name: str | None,
    labels: tuple[tuple[str, str], ...],
    array: str | None,
    tasks: bool,
    everything: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs of everyone, those that have not ended unless --all or --state says otherwise.

    TIME is how long a job has waited, has run, or ran. The tasks of an array that wait, and those that have
    ended, are one line; --tasks or --array lists each of them.
    """
    query = {
        "state": list(state) or ([] if everything else list(ACTIVE_STATES)),
        "user_id": user,
        "account": account,
        "priority": list(priority),
        "name": name,
        "label": [f"{key}={value}" for key, value in labels],
        "array": array,
        "tasks": 1 if tasks else None,
    }
    jobs: list[Job] = []
    total, cursor = 0, None
    for page in pages(client_of(ctx), "/api/v1/jobs", query, limit, PAGE_JOBS_MAX):
        jobs += page["jobs"]
        total, cursor = page["total"], page.get("next_cursor")
    if as_json:
        print_json({"jobs": jobs, "total": total, "next_cursor": cursor})
        return
    print_table(
        _COLUMNS, map(_row, jobs), "no jobs" if everything or state else "no jobs that have not ended"
    )
    if total > len(jobs):
        click.echo(f"{total - len(jobs)} more; --limit shows more of them", err=True)


def _row(job: Job) -> tuple[Any, ...]:
    return (
        name_of(job) if job["tasks"] is None else _array_name(job),
        job["job_name"],
        job["user_id"],
        job["state"],
        job["priority"],
        job["resources"]["gpu_count"],
        _age(job),
        ",".join(job["node_ids"] or ()),
        job["reason"] if job["tasks"] is None else _array_reason(job),
    )


def _array_name(job: Job) -> str:
    indices = job["array"]
    if len(indices) > INDICES_SHOWN:
        indices = indices[: INDICES_SHOWN - 1] + "…"
    return f"{job['number']}_[{indices}]"


def _array_reason(job: Job) -> str:
    """How many of its tasks are where, and what keeps those that wait."""
    counts = _task_counts(job["tasks"])
    return f"{counts}: {job['reason']}" if job["reason"] and job["tasks"]["queued"] else counts


def _task_counts(tasks: dict[str, int]) -> str:
    parts = [f"{count} {state}" for state, count in tasks.items() if count and state != "total"]
    return f"{tasks['total']} tasks, {', '.join(parts)}"


def _age(job: Job) -> str | None:
    if job["started_at"]:
        return since(job["started_at"], job["completed_at"])
    return since(job["created_at"], job["completed_at"])


@click.command(short_help="Show one job with all that is known of it.")
@click.argument("job")
@json_option
@click.pass_context
def show(ctx: click.Context, job: str, as_json: bool) -> None:
    """Show one job, by its number or id, with all that is known of it."""
    client = client_of(ctx)
    if as_json:
        print_json(client.get(job_path(job)))
        return
    print_fields(_fields(get_job(client, job)))


def _fields(job: Job) -> Iterable[tuple[str, Any]]:
    wanted = job["resources"]
    number = "" if job["array_number"] is None else f"  (number {job['number']})"
    yield "job", f"{name_of(job)}  {job['id']}{number}"
    yield "name", job["job_name"]
    yield "state", job["state"]
    yield "reason", job["reason"]
    yield "user", job["user_id"]
    yield "account", job["account"]
    yield "priority", job["priority"]
    yield "command", _command(job)
    yield "environment", _hidden(job)
    yield "working dir", job.get("working_dir")
    yield "GPUs", _gpus(job, wanted)
    yield "cores", wanted["cpu_cores"] or None
    yield "memory", f"{wanted['memory_gb']:g} GB" if wanted["memory_gb"] else None
    yield "nodes", job.get("nodes")
    yield "constraints", _pairs(job.get("constraints"))
    yield "array", job["array"]
    yield "tasks", _task_counts(job["tasks"]) if job["tasks"] else None
    yield "depends on", ", ".join(f"{one['kind']} of job {one['number']}" for one in job["depends_on"])
    yield "preemptible", "yes" if job["preemptible"] else None
    yield "stop signal", job["stop_signal"] if job["stop_signal"] != "SIGTERM" else None
    yield "time limit", show_duration(job["time_limit_s"]) if job.get("time_limit_s") else None
    yield "labels", _pairs(job.get("labels"))
    yield "comment", job.get("comment")
    yield "submitted", show_time(job["created_at"])
    yield "begins", show_time(job.get("begin_at"))
    yield "first planned for", show_time(job["predicted_start"])
    yield "scheduled", show_time(job["scheduled_at"])
    yield "started", show_time(job["started_at"])
    yield "ended", show_time(job["completed_at"])
    yield "took", since(job["started_at"], job["completed_at"]) if job["started_at"] else None
    yield "exit code", job["exit_code"]
    yield "attempt", job["attempt"] or None
    yield "preempted", _preempted(job)
    yield "on nodes", ", ".join(job["node_ids"] or ())
    yield "on GPUs", ", ".join(job["gpu_ids"] or ())


def _preempted(job: Job) -> str | None:
    if not job["preempted"]:
        return None
    times = "once" if job["preempted"] == 1 else f"{job['preempted']} times"
    return f"{times}, {show_duration(job['lost_gpu_s'])} of a GPU's work lost"


def _gpus(job: Job, wanted: dict[str, Any]) -> str:
    least = job.get("gpu_memory_gb")
    of_memory = f" of {least:g} GB or more" if least else ""
    return f"{wanted['gpu_count']} {wanted['gpu_type'] or ''}".rstrip() + of_memory


def _command(job: Job) -> str:
    command = job.get("command")
    if isinstance(command, list):
        return shlex.join(command)
    return command or "(a script)"


def _hidden(job: Job) -> str | None:
    """What is to be said of its environment and script when they are not there."""
    if job["erased"]:
        return "erased, as is any script"
    if job["environment"] is None or (job["command"] is None and job["script"] is None):
        return "not there as it was given, or the script is not: `horizon verify` says why"
    return None


def _pairs(pairs: dict[str, str] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (pairs or {}).items())


@click.command(short_help="Print what a job wrote.")
@click.argument("job")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until its processes are gone.")
@click.option("--stderr", "stream", flag_value="stderr", default="stdout", help="Its standard error instead.")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="Of this attempt.  [the last]")
@click.option("--rank", type=click.IntRange(0), metavar="N", help="Of this process of a gang.  [0]")
@click.pass_context
def logs(
    ctx: click.Context, job: str, follow: bool, stream: str, attempt: int | None, rank: int | None
) -> None:
    """Print the bytes a job wrote to its standard output, or error."""
    from horizon.cli.watch import copy_log

    client = client_of(ctx)
    if follow:
        client.get(job_path(job))  # following outlasts a restart, but a server never there is not waited for
        copy_log(client, job, stream, sys.stdout.buffer, attempt, rank)
        return
    for chunk in client.stream(job_path(job, "logs"), {"stream": stream, "attempt": attempt, "rank": rank}):
        sys.stdout.buffer.write(chunk)


@click.command(short_help="Give jobs another priority or time limit.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False))
@click.option("--time-limit", "time_limit_s", type=DURATION, metavar="TIME", help="0 takes the limit away.")
@reason_option
@json_option
@click.pass_context
def update(
    ctx: click.Context,
    jobs: tuple[str, ...],
    priority: str | None,
    time_limit_s: int | None,
    reason: str | None,
    as_json: bool,
) -> int:
    """Give jobs another priority or time limit, those that run too: it counts from their start."""
    fields: dict[str, Any] = {}
    if priority is not None:
        fields["priority"] = priority
    if time_limit_s is not None:
        fields["time_limit_s"] = time_limit_s or None
    if not fields:
        raise click.UsageError("there is nothing to change: give --priority or --time-limit")
    return for_each(ctx, jobs, _patch(fields, reason), _saying("changed"), as_json)


@click.command(short_help="Cancel jobs.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@reason_option
@json_option
@click.pass_context
def cancel(ctx: click.Context, jobs: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Cancel jobs: one that waits never starts, one that runs is stopped. Of an array, all its tasks."""

    def change(client: Client, job: str) -> bytes:
        return client.change("DELETE", job_path(job), query={"reason": reason})

    return for_each(ctx, jobs, change, _saying("cancelled"), as_json)


@click.command(short_help="Stop jobs and put them back into the queue.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@reason_option
@json_option
@click.pass_context
def requeue(ctx: click.Context, jobs: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Stop running jobs; they go back to their places in the queue. It spends none of their retries."""

    def change(client: Client, job: str) -> bytes:
        return client.change("POST", job_path(job, "requeue"), query={"reason": reason})

    return for_each(ctx, jobs, change, _saying("goes back to the queue"), as_json)


@click.command(short_help="Erase the environment and the script of jobs that have ended.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@reason_option
@json_option
@click.pass_context
def erase(ctx: click.Context, jobs: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Erase the environment values and the script of jobs that have ended: for good, and it is recorded.

    The log keeps their digests and still verifies. A script that a job which has not ended needs, too, is
    kept for that. Output is not erased: it is in the files of the attempt.
    """
    kept = False

    def change(client: Client, job: str) -> bytes:
        nonlocal kept
        body = client.change("POST", job_path(job, "erase"), query={"reason": reason})
        events = json.loads(client.get(job_path(job, "events")))["events"]
        kept = any(event["payload"].get("kept") for event in events if event["type"] == "BlobsErased")
        return body

    def done(job: Job) -> str:
        return f"job {name_of(job)} erased" + (
            ", but for what a job needs that has not ended" if kept else ""
        )

    return for_each(ctx, jobs, change, done, as_json)


@click.command(short_help="Record that a running job has saved its work.")
@click.argument("job")
@click.option("--attempt", type=click.IntRange(1), metavar="N", help="This attempt did.  [the one that runs]")
@json_option
@click.pass_context
def checkpoint(ctx: click.Context, job: str, attempt: int | None, as_json: bool) -> int:
    """Record that a running job has saved its work: a preemption loses only what it does from now on.

    Jobs that would lose least are stopped first when others need room.
    """

    def change(client: Client, job: str) -> bytes:
        return client.change("POST", job_path(job, "checkpoint"), query={"attempt": attempt})

    return for_each(ctx, (job,), change, _saying("has saved its work"), as_json)


@click.command(short_help="Keep waiting jobs from starting until they are released.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@reason_option
@json_option
@click.pass_context
def hold(ctx: click.Context, jobs: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Keep waiting jobs from starting until they are released."""
    return for_each(ctx, jobs, _patch({"hold": True}, reason), _saying("held"), as_json)


@click.command(short_help="Let held jobs start when their turn comes.")
@click.argument("jobs", nargs=-1, required=True, metavar="JOB...")
@reason_option
@json_option
@click.pass_context
def release(ctx: click.Context, jobs: tuple[str, ...], reason: str | None, as_json: bool) -> int:
    """Let held jobs start when their turn comes."""
    return for_each(ctx, jobs, _patch({"hold": False}, reason), _saying("released"), as_json)


def _patch(fields: dict[str, Any], reason: str | None) -> Callable[[Client, str], bytes]:
    body = {**fields, "reason": reason}
    return lambda client, job: client.change("PATCH", job_path(job), body)


def _saying(done: str) -> Callable[[Job], str]:
    return lambda job: f"job {name_of(job)} {done}"
