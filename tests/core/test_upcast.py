"""What an older Horizon wrote is read as what it meant, strictly, and nothing stored is touched."""

from __future__ import annotations

import pytest

from horizon.core import events as ev
from horizon.core.upcast import UPCASTERS, gains, upcast
from horizon.store import codec
from horizon.store.port import Corrupt

ELECTED_1 = b'{"type":"LeaderElected","epoch":2,"host":"h","pid":7,"version":"0.1.0","config_digest":"ef"}'
OLD: dict[tuple[str, int], tuple[bytes, ev.Event]] = {
    ("LeaderElected", 1): (
        ELECTED_1,
        ev.LeaderElected(epoch=2, host="h", pid=7, version="0.1.0", config_digest="ef", decisions=0),
    )
}
"""Of each type and each version before that of today: bytes that were written, and what they are now."""


@pytest.mark.parametrize("shape", OLD, ids=lambda shape: f"{shape[0]}-{shape[1]}")
def test_an_event_of_an_older_version_is_what_it_meant(shape: tuple[str, int]) -> None:
    payload, event = OLD[shape]
    assert codec.open_payload(1, *shape, payload) == event


def test_every_older_version_has_a_way_up_and_bytes_that_show_it() -> None:
    older = {(type, version) for type, today in ev.SCHEMA_VERSIONS.items() for version in range(1, today)}
    assert UPCASTERS.keys() == OLD.keys() == older


def test_a_payload_goes_up_one_version_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPCASTERS, ("JobHeld", 1), gains(by=""))  # type: ignore[arg-type]
    monkeypatch.setitem(UPCASTERS, ("JobHeld", 2), gains(since_us=0))  # type: ignore[arg-type]
    old = b'{"type":"JobHeld","job_id":"1"}'
    assert upcast("JobHeld", 1, 3, old) == b'{"type":"JobHeld","job_id":"1","by":"","since_us":0}'
    from_2 = b'{"type":"JobHeld","job_id":"1","by":"bob"}'
    assert upcast("JobHeld", 2, 3, from_2) == b'{"type":"JobHeld","job_id":"1","by":"bob","since_us":0}'


@pytest.mark.parametrize(
    ("version", "payload", "words"),
    [
        (1, ELECTED_1[:-1] + b',"decisions":5}', "has the field 'decisions', which came with the next"),
        (1, ELECTED_1[:-1] + b',"more":5}', "unknown field `more`"),
        (1, b"[]", "cannot be read"),
        (2, ELECTED_1, "missing required field `decisions`"),
        (3, ELECTED_1, "a LeaderElected of schema version 3; this Horizon knows it up to version 2"),
        (0, ELECTED_1, "a LeaderElected of schema version 0; this Horizon knows it up to version 2"),
    ],
)
def test_a_payload_that_is_not_of_its_version_is_refused(version: int, payload: bytes, words: str) -> None:
    with pytest.raises(Corrupt, match=words):
        codec.open_payload(1, "LeaderElected", version, payload)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(Corrupt, match="a JobTeleported of schema version 1; this Horizon knows no such type"):
        codec.open_payload(1, "JobTeleported", 1, b"{}")
