"""Values as people write them, and the tables that must agree with the core."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import click
import pytest

from horizon.cli import main, output, values
from horizon.cli import policy as policies
from horizon.cli.submit import _OPTION_OF
from horizon.core.model import DependencyKind, JobState, Priority, StopSignal
from horizon.core.policy import Policy


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1h30m", 5_400),
        ("2d", 172_800),
        ("1d2h3m4s", 93_784),
        ("1:30:00", 5_400),
        ("2-12:00:00", 216_000),
        ("0", 0),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert values.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1.5h", "h", "90m1h", "1:30", "soon", "٣", "1 h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        values.parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("64", 64), ("64G", 64), ("64GiB", 64), ("512M", 0.5), ("1.5T", 1_536), ("0.25", 0.25), ("1048576k", 1)],
)
def test_memory(text: str, gigabytes: float) -> None:
    assert values.parse_memory_gb(text) == gigabytes


@pytest.mark.parametrize("text", ["", "-1", "G", "1e9", "nan", "inf", "64X"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of memory"):
        values.parse_memory_gb(text)


def test_moments() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert values.parse_moment("+1h30m", now) == now + timedelta(hours=1, minutes=30)
    assert values.parse_moment("-2d", now) == now - timedelta(days=2)
    assert values.parse_moment("2030-01-31T08:00Z", now) == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert values.parse_moment("2030-01-31T08:00", now).tzinfo is not None
    for text in ("tomorrow", "+", "+soon", "-", ""):
        with pytest.raises(ValueError, match="is no"):
            values.parse_moment(text, now)


DAYS = {
    values.MOMENT: "2029-12-31T23:00:00+00:00",
    values.UNTIL: "2030-01-01T22:59:59.999999+00:00",
    values.ENDS: "2030-01-01T23:00:00+00:00",
}


def test_where_something_ends_a_date_is_the_whole_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for kind, expected in DAYS.items():
            assert kind.convert("2030-01-01", None, None) == expected
            assert kind.convert("2030-01-01T00:00", None, None) == DAYS[values.MOMENT], (
                "that is no date alone"
            )
        now = datetime.now(UTC).isoformat()
        assert now <= values.parse_at("2030-01-01") <= datetime.now(UTC).isoformat(), "it is not over yet"
        assert values.parse_at("2001-01-01") == "2001-01-01T22:59:59.999999+00:00"
        assert values.parse_before("2001-01-01") == "2000-12-31T23:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["-1", "+1", "-20"])
def test_a_negative_number_is_no_position_and_no_moment(text: str) -> None:
    for parse in (values.parse_at, values.parse_before):
        with pytest.raises(ValueError, match="is no position of the log, which are from 1 on"):
            parse(text)
    assert values.parse_at("7") == "7"
    assert values.parse_at("-1s") < datetime.now(UTC).isoformat()


def test_signals() -> None:
    for text in ("SIGUSR1", "usr1", "SigUsr1"):
        assert values.parse_signal(text) == "SIGUSR1"
    for text in ("SIGKILL", "9", "", "SIG"):
        with pytest.raises(ValueError, match="cannot be chosen"):
            values.parse_signal(text)


def test_the_words_are_those_of_the_core() -> None:
    """The client spells them out, so as not to import the core for them."""
    assert list(values.PRIORITIES) == [priority.value for priority in Priority]
    assert list(values.STATES) == [state.value for state in JobState]
    assert list(values.ACTIVE_STATES) == [state.value for state in JobState if not state.ended]
    assert set(output.STATE_STYLES) == set(values.STATES)
    assert list(values.SIGNALS) == [signal.value for signal in StopSignal]
    assert list(values.DEPENDENCY_KINDS) == [kind.value for kind in DependencyKind]
    assert tuple(policies.KINDS) == Policy.__struct_fields__


def test_every_wire_field_of_a_submission_has_an_option() -> None:
    from horizon.api.wire import Submission

    flags = {"preemptible", "exclusive", "hold"}
    assert set(_OPTION_OF) | flags == set(Submission.__struct_fields__)


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    command = main.cli.get_command(main.click.Context(main.cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200) == main.COMMANDS[name].help.removesuffix(".") + "."


def test_what_a_name_may_do_to_a_terminal_is_nothing() -> None:
    assert output.clean("a\x1b[31mb\nc\u202ed") == "a\ufffd[31mb\ufffdc\ufffdd"
    assert output.clean(None) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0.0s"), (4.24, "4.2s"), (59.9, "59s"), (185, "3m05s"), (7_620, "2h07m"), (442_800, "5d03h")],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert output.show_duration(seconds) == text


@pytest.mark.parametrize(
    "command",
    ["cancel", "update", "hold", "release", "requeue", "nodes cordon", "nodes drain", "nodes resume",
     "gpus fail", "gpus recover", "bookings make", "bookings end", "shares set", "policy set"],
)  # fmt: skip
def test_whoever_changes_something_may_say_why(command: str) -> None:
    found: click.Command = main.cli
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name)  # type: ignore[assignment]
    assert "reason" in {parameter.name for parameter in found.params}
