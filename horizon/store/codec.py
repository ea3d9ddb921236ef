"""Seals events into the hash chain and opens them again. Pure: both stores use it.

``hash = SHA-256(0x00 || header)``, the header holding every field of the envelope, the digest of the payload
and the hash of the event before. Integers are big-endian; a text is its length in two bytes and its UTF-8.
The 0x00 makes every hash also a leaf of an RFC 6962 tree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from struct import Struct as Packer
from struct import error as StructError
from typing import Final

from msgspec.structs import force_setattr

from horizon.core import events as ev
from horizon.core.events import Draft, Recorded, Stored
from horizon.core.upcast import upcast
from horizon.store.port import Corrupt, Fenced, Head, SetBack

HEADER_VERSION: Final = 1
ID_BYTES: Final = 16
"""Of the command's and the correlation's."""
_FIXED: Final = Packer(">BBQqQHQQ16s16s32s32sHHH")
"""0x00, header version, position, recorded_at_us, epoch, schema version, stream version, causation,
command id, correlation id, payload digest, previous hash, and the lengths of type, stream and actor."""


def header_hash(recorded: Stored, previous: bytes) -> bytes:
    """The hash that an event has behind the one with the hash ``previous``."""
    texts = (recorded.type.encode(), recorded.stream.encode(), recorded.actor.encode())
    fixed = _FIXED.pack(
        0x00,
        HEADER_VERSION,
        recorded.position,
        recorded.recorded_at_us,
        recorded.epoch,
        recorded.schema_version,
        recorded.stream_version,
        recorded.causation,
        recorded.command_id,
        recorded.correlation_id,
        sha256(recorded.payload).digest(),
        previous,
        len(texts[0]),
        len(texts[1]),
        len(texts[2]),
    )
    return sha256(b"".join((fixed, *texts))).digest()


def seal(head: Head, drafts: Iterable[Draft], recorded_at_us: int) -> tuple[Recorded, ...]:
    """Put drafts into envelopes behind the head. O(bytes)."""
    assert recorded_at_us >= head.recorded_at_us, "time in the log never goes back"
    position, previous = head.position, head.tip
    sealed = []
    for draft in drafts:
        position += 1
        event = draft.event
        type = event.__class__.__name__
        recorded = Recorded(
            position,
            recorded_at_us,
            head.epoch,
            type,
            ev.SCHEMA_VERSIONS[type],
            draft.stream,
            draft.stream_version,
            draft.actor,
            draft.command_id,
            draft.correlation_id,
            draft.causation,
            ev.encode(event),
            b"",
            event,
        )
        previous = header_hash(recorded, previous)
        force_setattr(recorded, "hash", previous)  # nobody has seen it without
        sealed.append(recorded)
    return tuple(sealed)


def after(head: Head, sealed: Sequence[Recorded]) -> Head:
    """Where the log ends once these are in it."""
    if not sealed:
        return head
    last = sealed[-1]
    return Head(head.log_id, last.epoch, last.position, last.hash, last.recorded_at_us)


def moved(ours: Head, found: Head) -> Fenced | SetBack:
    """Why a leader whose log ended at ``ours`` cannot append to one that ends at ``found``."""
    if found.epoch > ours.epoch:
        return Fenced(f"the log has moved on from epoch {ours.epoch} to {found.epoch}")
    if found.position < ours.position:
        return SetBack(
            f"the log was set back from position {ours.position} to {found.position}: its end was taken "
            "away, or an older backup was restored; bring the newer log back, or start again on what is left"
        )
    return SetBack(
        f"event {ours.position}, which this leader appended last, is not the end of the log any more, and "
        f"nobody else has been elected: its head says epoch {found.epoch}, position {found.position}, and "
        "another last event: the log has been rewritten"
    )


def open_payload(position: int, type: str, schema_version: int, payload: bytes) -> ev.Event:
    """The event in a stored payload, in the shape of today. An unknown or newer one stops the program: never
    guess at it."""
    known = ev.SCHEMA_VERSIONS.get(type)
    if known is None or not 1 <= schema_version <= known:
        knows = "no such type" if known is None else f"it up to version {known}"
        message = (
            f"event {position} is a {type} of schema version {schema_version}; this Horizon knows {knows}: "
            "use the one that wrote it, or a newer one"
        )
        raise Corrupt(message)
    try:
        if schema_version < known:
            payload = upcast(type, schema_version, known, payload)
        event = ev.decode(payload)
    except ValueError as error:
        raise Corrupt(f"event {position} ({type}) cannot be read: {error}") from error
    if event.__class__.__name__ != type:
        raise Corrupt(f"event {position} is filed as a {type} but holds a {event.__class__.__name__}")
    return event


def check_link(recorded: Stored, position: int, previous: bytes) -> None:
    """That an event is the next in the chain, and is what was hashed."""
    if recorded.position != position:
        raise Corrupt(f"the log has a gap: after {position - 1} comes {recorded.position}")
    if len(recorded.command_id) != ID_BYTES or len(recorded.correlation_id) != ID_BYTES:
        # The header would hold what it has room for, and the hash match though bytes were added.
        raise Corrupt(f"event {position} has been changed: its ids do not have {ID_BYTES} bytes")
    try:
        hash = header_hash(recorded, previous)
    except (StructError, UnicodeEncodeError) as error:
        raise Corrupt(f"event {position} has been changed: it cannot be hashed: {error}") from error
    if hash != recorded.hash:
        raise Corrupt(f"event {position} has been changed, or the one before it: its hash does not match")


def open_stored(stored: Stored, position: int, previous: bytes) -> Recorded:
    """The event that is the next in the chain, in its envelope but without the bytes that were hashed."""
    check_link(stored, position, previous)
    event = open_payload(position, stored.type, stored.schema_version, stored.payload)
    return Recorded(
        position,
        stored.recorded_at_us,
        stored.epoch,
        stored.type,
        stored.schema_version,
        stored.stream,
        stored.stream_version,
        stored.actor,
        stored.command_id,
        stored.correlation_id,
        stored.causation,
        b"",
        stored.hash,
        event,
    )
