"""``horizon policy``: how Horizon decides, as far as an operator may choose."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from horizon.cli.client import Refused
from horizon.cli.exits import CliError
from horizon.cli.output import Column, json_option, print_json, print_table, show_duration
from horizon.cli.session import client_of
from horizon.cli.values import PAIR, parse_duration_s, reason_option

PATH: Final = "/api/v1/policy"
DEPTHS: Final = {"easy": 1, "conservative": -1}
"""Names of some depths of reservation. 0 has none: a trace's ``none`` is a strict order, and here that is
``strict``."""
_TRUTHS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@click.group(invoke_without_command=True, short_help="Show how Horizon decides; `policy set` changes it.")
@json_option
@click.pass_context
def policy(ctx: click.Context, as_json: bool) -> None:
    """Show what was chosen of how Horizon decides; `policy set` chooses otherwise, from then on."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)


@policy.command(short_help="Show what was chosen.")
@json_option
@click.pass_context
def show(ctx: click.Context, as_json: bool) -> None:
    """Show what was chosen, and the version of it that cycles name in the log."""
    body = client_of(ctx).get(PATH)
    if as_json:
        print_json(body)
        return
    answer = json.loads(body)
    rows = [(field, _shown(field, value)) for field, value in answer["policy"].items()]
    print_table([Column("FIELD"), Column("VALUE", wide=True)], rows, "")
    click.echo(f"version {answer['version']}", err=True)


def _shown(field: str, value: Any) -> str:
    """As `policy set` takes it; for a duration also as people read it."""
    if field == "reservation_depth":
        return next((name for name, depth in DEPTHS.items() if depth == value), str(value))
    if field.endswith("_s"):
        return str(value) if value < 60 else f"{value} ({show_duration(value)})"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return ",".join(f"{name}={cost}" for name, cost in value.items())
    return ",".join(value) if isinstance(value, list) else str(value)


@policy.command(name="set", short_help="Choose otherwise.")
@click.argument("choices", nargs=-1, type=PAIR, metavar="FIELD=VALUE...")
@click.option(
    "--file", "file", metavar="POLICY.toml", help="Choices in a file; those given here come on top."
)
@reason_option
@json_option
@click.pass_context
def set_policy(
    ctx: click.Context,
    choices: tuple[tuple[str, str], ...],
    file: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Choose otherwise from now on; what is not given keeps its value.

    \b
      horizon policy set reservation_depth=easy preemption=no
      horizon policy set half_life_s=14d charge_ahead_s=30m
      horizon policy set gpu_cost=H100=2000,A100=1000 topology_labels=switch,rack
      horizon policy set --file policy.toml

    reservation_depth is none, easy, conservative or a number. Durations may have units. In a file the same
    fields stand at the top level.
    """
    body = _read_file(file) if file else {}
    body.update((field, parse(field, value)) for field, value in choices)
    if not body:
        raise click.UsageError("there is nothing to set: give FIELD=VALUE, or --file")
    try:
        answer = client_of(ctx).change("PUT", PATH, {**body, "reason": reason})
    except Refused as refused:
        raise CliError(_in_fields(refused), refused.exit_code) from refused
    print_json(answer) if as_json else click.echo(f"the policy is at version {json.loads(answer)['version']}")


def _read_file(name: str) -> dict[str, Any]:
    try:
        choices = tomllib.loads(Path(name).read_text())
    except OSError as error:
        raise click.UsageError(f"cannot read {name!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{name!r} is no TOML: {error}") from error
    return {field: parse(field, value) for field, value in choices.items()}


def _in_fields(refused: Refused) -> str:
    """The server's complaint, every fault with the field it is about."""
    faults = [(place.lstrip("/"), text) for place, text in refused.faults]
    if not faults:
        return str(refused)
    return "; ".join(text if text.startswith(field) else f"{field}: {text}" for field, text in faults)


# --- values -------------------------------------------------------------------------------------------


def parse(field: str, value: Any) -> Any:
    """The value of a field from its text; what a file says without quotes is left as it is."""
    kind = KINDS.get(field)
    if kind is None:
        raise click.UsageError(
            f"there is no {field!r} to choose{_nearest(field)}; `horizon policy` shows all"
        )
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError as error:
        raise click.UsageError(f"{field}: {error}") from None


def _nearest(field: str) -> str:
    from difflib import get_close_matches

    matches = get_close_matches(field, KINDS, 1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTHS:
        raise ValueError(f"{text!r} is neither true nor false")
    return _TRUTHS[text.lower()]


def _depth(text: str) -> int:
    try:
        return DEPTHS[text.lower()] if text.lower() in DEPTHS else int(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no number, and not {' or '.join(DEPTHS)}; for a strict order say strict=yes"
        ) from None


def _names(text: str) -> list[str]:
    return text.split(",") if text else []


def _costs(text: str) -> dict[str, int]:
    return dict(_cost(pair) for pair in _names(text))


def _cost(text: str) -> tuple[str, int]:
    name, separator, cost = text.partition("=")
    if not separator:
        raise ValueError(f"{text!r} is no cost of a type such as H100=2000, in thousandths")
    return name, _whole(cost)


KINDS: Final[dict[str, Callable[[str], Any]]] = {
    "order": str.lower,
    "strict": _truth,
    "reservation_depth": _depth,
    "examined_max": _whole,
    "patience_s": parse_duration_s,
    "assumed_time_limit_s": parse_duration_s,
    "half_life_s": parse_duration_s,
    "charge_ahead_s": parse_duration_s,
    "gpu_cost": _costs,
    "cores_per_gpu": _whole,
    "memory_gb_per_gpu": _whole,
    "preemption": _truth,
    "min_runtime_s": parse_duration_s,
    "preemption_searches_max": _whole,
    "retry_backoff_s": parse_duration_s,
    "retry_backoff_max_s": parse_duration_s,
    "topology_labels": _names,
}
"""How the text of each field is read."""
