"""The hash chain: what is hashed, and that it never changes."""

from __future__ import annotations

import struct
from hashlib import sha256

import pytest
from msgspec.structs import replace

from horizon.core import events as ev
from horizon.core.model import JobSpec
from horizon.store import codec
from horizon.store.port import GENESIS_HASH, Corrupt, Head

HEAD = Head(bytes(16), 3, 41, b"\x11" * 32, 1_700_000_000_000_000)
DRAFTS = (
    ev.Draft(
        ev.JobSubmitted(
            job_id="0192a3b4-0000-7000-8000-000000000001", number=1, spec=JobSpec("alice", "true")
        ),
        "job/0192a3b4-0000-7000-8000-000000000001",
        1,
        "owner",
        b"\x22" * 16,
        b"\x33" * 16,
        0,
    ),
    ev.Draft(
        ev.ShareSet(path="förskning", weight=2), "share/förskning", 1, "owner", bytes(16), bytes(16), 42
    ),
)
SEALED = codec.seal(HEAD, DRAFTS, 1_700_000_000_000_001)


def test_the_hash_is_over_the_documented_bytes() -> None:
    """Written out once more from the documentation, with nothing but the standard library."""
    previous = HEAD.tip
    for one in SEALED:
        texts = [text.encode() for text in (one.type, one.stream, one.actor)]
        header = b"".join(
            (
                b"\x00\x01",
                struct.pack(">QqQ", one.position, one.recorded_at_us, one.epoch),
                struct.pack(">HQQ", one.schema_version, one.stream_version, one.causation),
                one.command_id,
                one.correlation_id,
                sha256(one.payload).digest(),
                previous,
                struct.pack(">HHH", *map(len, texts)),
                *texts,
            )
        )
        assert one.hash == sha256(header).digest()
        previous = one.hash


def test_the_hashes_are_what_they_always_were() -> None:
    assert [one.hash.hex() for one in SEALED] == GOLDEN


def test_positions_follow_the_head_and_the_chain_leads_to_the_new_one() -> None:
    assert [one.position for one in SEALED] == [42, 43]
    assert codec.after(HEAD, SEALED) == Head(HEAD.log_id, 3, 43, SEALED[-1].hash, 1_700_000_000_000_001)
    codec.check_link(SEALED[0], 42, HEAD.tip)
    codec.check_link(SEALED[1], 43, SEALED[0].hash)


def test_an_event_behind_another_one_than_its_own_is_found() -> None:
    with pytest.raises(Corrupt, match="event 43 has been changed"):
        codec.check_link(SEALED[1], 43, GENESIS_HASH)


def test_a_gap_is_found() -> None:
    with pytest.raises(Corrupt, match="after 40 comes 42"):
        codec.check_link(SEALED[0], 41, HEAD.tip)


@pytest.mark.parametrize(
    "change",
    [
        {"recorded_at_us": 1}, {"epoch": 4}, {"type": "JobHeld"}, {"schema_version": 2}, {"stream": "job/x"},
        {"stream_version": 2}, {"actor": "mallory"}, {"command_id": bytes(16)}, {"correlation_id": bytes(16)},
        {"causation": 7}, {"payload": b"{}"}, {"hash": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_change_of_any_field_is_found(change: dict[str, object]) -> None:
    with pytest.raises(Corrupt, match="event 42 has been changed"):
        codec.check_link(replace(SEALED[0], **change), 42, HEAD.tip)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"stream_version": 1 << 64}, {"causation": -1}, {"schema_version": 1 << 16},
        {"type": "x" * 70_000}, {"stream": "x" * 70_000}, {"actor": "\ud800"},
        {"command_id": SEALED[0].command_id + b"x"}, {"correlation_id": SEALED[0].correlation_id[:-1]},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_no_header_can_hold_is_found_as_a_change(change: dict[str, object]) -> None:
    with pytest.raises(Corrupt, match="event 42 has been changed: "):
        codec.check_link(replace(SEALED[0], **change), 42, HEAD.tip)


GOLDEN = [
    "8d7d542b9e19cfb09b264909bb633f93ee307a5c30dd952f2753820a7f7016e0",
    "f83faf69c885e6f00cc05d90261d667be5b672601fbc8c60f60c1b54694e0d29",
]
