"""Values as people write them on a command line: durations, memory, moments, pairs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import click

PRIORITIES: Final = ("Low", "Normal", "High", "Urgent")
STATES: Final = ("Queued", "Scheduled", "Running", "Preempted", "Completed", "Failed", "Cancelled")
ACTIVE_STATES: Final = STATES[:4]
SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
DEPENDENCY_KINDS: Final = ("after_ok", "after_any", "after_not_ok", "after_start")

_UNIT_S: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNITS: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", re.ASCII)
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", re.ASCII)
_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_GB: Final = {"k": 1 / 1024**2, "m": 1 / 1024, "": 1, "g": 1, "t": 1024}


def parse_duration_s(text: str) -> int:
    """Seconds in ``90``, ``90s``, ``1h30m``, ``2d``, ``1:30:00``, ``2-12:00:00``. Raises ``ValueError``."""
    match = _CLOCK.fullmatch(text) or _UNITS.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is no duration: write seconds, or such as 1h30m, 2d, 1:30:00")
    return sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNIT_S.values(), strict=True))


def parse_memory_gb(text: str) -> float | int:
    """Gigabytes in ``64``, ``64G``, ``512M`` or ``1.5T``; ``ValueError`` otherwise."""
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory: write gigabytes, or such as 512M, 64G, 1.5T")
    gigabytes = float(match[1]) * _GB[match[2].lower()]
    return int(gigabytes) if gigabytes.is_integer() else gigabytes


BEGINNING: Final = timedelta(0)
LAST: Final = timedelta(days=1) - timedelta(microseconds=1)
OVER: Final = timedelta(days=1)
"""Which moment a date alone is: where something begins, that of its beginning; where something ends the whole
day is in it, so its last moment, or that when it is over."""


def parse_moment(text: str, now: datetime, of_day: timedelta = BEGINNING) -> datetime:
    """A moment in ``2030-01-31T08:00``, in a zone or this machine's, ``+1h30m`` from now or ``-2d`` ago.

    A date alone is the day of this machine's zone, and means that moment of it.
    """
    if text.startswith(("+", "-")):
        away = timedelta(seconds=parse_duration_s(text[1:]))
        return now + away if text[0] == "+" else now - away
    try:
        return (datetime.fromisoformat(text) + (of_day if is_date(text) else BEGINNING)).astimezone()
    except ValueError:
        raise ValueError(
            f"{text!r} is no moment: write such as 2030-01-31T08:00, or +1h30m from now, or -2d before"
        ) from None


def is_date(text: str) -> bool:
    """Whether it is a date alone, without a time of the day."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def parse_signal(text: str) -> str:
    """``SIGUSR1`` from itself, ``USR1`` or ``usr1``; ``ValueError`` for one that may not be chosen."""
    name = "SIG" + text.upper().removeprefix("SIG")
    if name not in SIGNALS:
        raise ValueError(f"{text!r} cannot be chosen: there are {', '.join(SIGNALS)}")
    return name


def parse_utc(text: str, of_day: timedelta = BEGINNING) -> str:
    """A moment as the API takes it."""
    return _utc(parse_moment(text, datetime.now(UTC), of_day))


def parse_at(text: str) -> str:
    """A position of the log, or a moment up to which it counts, as the API takes it. Of today, until now."""
    now = datetime.now(UTC)

    def moment() -> str:
        then = parse_moment(text, now, LAST)
        return _utc(min(then, now) if is_date(text) else then)

    return _position_or(text, moment)


def parse_before(text: str) -> str:
    """A position of the log, or a moment before which it counts."""
    return _position_or(text, lambda: parse_utc(text))


def _position_or(text: str, moment: Callable[[], str]) -> str:
    digits = text.removeprefix("-").removeprefix("+")
    if digits.isascii() and digits.isdecimal():
        if digits != text:
            raise ValueError(
                f"{text!r} is no position of the log, which are from 1 on; a moment has a unit, such as -2h"
            )
        return text
    try:
        return moment()
    except ValueError as error:
        raise ValueError(f"{error}; or a position of the log") from None


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _parse_bound(text: str) -> int | str:
    if text.lower() == "none":
        return "none"
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"{text!r} is no number of GPUs; none takes the bound away")
    return int(text)


def _parse_pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ValueError(f"{text!r} is no key=value")
    return key, value


class Parsed(click.ParamType[Any]):
    """A value that is read by a function, which raises ``ValueError`` for what it cannot read."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        except OverflowError:
            self.fail(f"{value!r} is out of range", param, ctx)


DURATION: Final = Parsed("duration", parse_duration_s)
MEMORY: Final = Parsed("memory", parse_memory_gb)
MOMENT: Final = Parsed("moment", parse_utc)
UNTIL: Final = Parsed("moment", lambda text: parse_utc(text, LAST))
ENDS: Final = Parsed("moment", lambda text: parse_utc(text, OVER))
PAIR: Final = Parsed("key=value", _parse_pair)
BOUND: Final = Parsed("bound", _parse_bound)
SIGNAL: Final = Parsed("signal", parse_signal)

AT: Final = Parsed("position or time", parse_at)
at_option = click.option(
    "--at", type=AT, metavar="POSITION|TIME", help="As it was then; a day is included.  [now]"
)
reason_option = click.option("--reason", metavar="TEXT", help="Why, for the record.")
