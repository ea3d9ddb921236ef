"""What an older Horizon wrote is read as what it meant, strictly, and nothing stored is touched."""

from __future__ import annotations

import pytest

from horizon.core import events as ev
from horizon.core.policy import Policy
from horizon.core.upcast import UPCASTERS, gains, upcast
from horizon.store import codec
from horizon.store.port import Corrupt

ELECTED_1 = b'{"type":"LeaderElected","epoch":2,"host":"h","pid":7,"version":"0.1.0","config_digest":"ef"}'
OLD: dict[tuple[str, int], tuple[bytes, ev.Event]] = {
    ("LeaderElected", 1): (
        ELECTED_1,
        ev.LeaderElected(epoch=2, host="h", pid=7, version="0.1.0", config_digest="ef", decisions=0),
    ),
    ("JobHeld", 1): (b'{"type":"JobHeld","job_id":"1"}', ev.JobHeld(job_id="1")),
    ("JobReleased", 1): (
        b'{"type":"JobReleased","job_id":"1","begin_reached":true}',
        ev.JobReleased(job_id="1", begin_reached=True),
    ),
    ("JobUpdated", 1): (
        b'{"type":"JobUpdated","job_id":"1","time_limit_s":60}',
        ev.JobUpdated(job_id="1", time_limit_s=60),
    ),
    ("NodeResumed", 1): (
        b'{"type":"NodeResumed","node":"node-1","by":"owner"}',
        ev.NodeResumed(node="node-1", by="owner"),
    ),
    ("DeviceRecovered", 1): (
        b'{"type":"DeviceRecovered","node":"node-1","device":"GPU-1","by":"owner"}',
        ev.DeviceRecovered(node="node-1", device="GPU-1", by="owner"),
    ),
    ("BookingEnded", 1): (
        b'{"type":"BookingEnded","booking":"b","by":"owner"}',
        ev.BookingEnded(booking="b", by="owner"),
    ),
    ("ShareSet", 1): (
        b'{"type":"ShareSet","path":"research","weight":3}',
        ev.ShareSet(path="research", weight=3),
    ),
    ("QuotaSet", 1): (
        b'{"type":"QuotaSet","path":"research","max_gpus":8}',
        ev.QuotaSet(path="research", max_gpus=8),
    ),
    ("PolicySet", 1): (
        b'{"type":"PolicySet","version":2,"policy":{"gpu_cost":{"H100":2000}},"by":"owner"}',
        ev.PolicySet(version=2, policy=Policy(gpu_cost={"H100": 2_000}), by="owner"),
    ),
    ("CommandRefused", 1): (
        b'{"type":"CommandRefused","command":"Update","target":"job/1","kind":"conflict","detail":"no","by":"owner"}',
        ev.CommandRefused(command="Update", target="job/1", kind="conflict", detail="no", by="owner"),
    ),
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
    monkeypatch.setitem(UPCASTERS, ("JobHeld", 2), gains(since_us=0))  # type: ignore[arg-type]
    old = b'{"type":"JobHeld","job_id":"1"}'
    assert upcast("JobHeld", 1, 3, old) == b'{"type":"JobHeld","job_id":"1","reason":"","since_us":0}'
    from_2 = b'{"type":"JobHeld","job_id":"1","reason":"x"}'
    assert upcast("JobHeld", 2, 3, from_2) == b'{"type":"JobHeld","job_id":"1","reason":"x","since_us":0}'


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


def test_a_payload_that_is_filed_wrongly_is_told_as_that() -> None:
    submitted = ev.encode(ev.JobStarted(job_id="1", attempt=1))
    with pytest.raises(Corrupt, match="filed as a JobHeld but holds a JobStarted"):
        codec.open_payload(1, "JobHeld", 1, submitted)


def test_a_type_that_is_not_known_is_refused() -> None:
    with pytest.raises(Corrupt, match="a JobTeleported of schema version 1; this Horizon knows no such type"):
        codec.open_payload(1, "JobTeleported", 1, b"{}")
