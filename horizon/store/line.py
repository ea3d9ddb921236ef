"""An event as a line of JSON: what exports, proofs and archives consist of."""

from __future__ import annotations

from msgspec import Struct

from horizon.core.events import Stored


class Line(Struct):
    """An event; bytes in hex, but for the payload."""

    position: int
    recorded_at_us: int
    epoch: int
    type: str
    schema_version: int
    stream: str
    stream_version: int
    actor: str
    command_id: str
    correlation_id: str
    causation: int
    payload: str
    hash: str


def line_of(stored: Stored, payload: str) -> Line:
    return Line(
        stored.position,
        stored.recorded_at_us,
        stored.epoch,
        stored.type,
        stored.schema_version,
        stored.stream,
        stored.stream_version,
        stored.actor,
        stored.command_id.hex(),
        stored.correlation_id.hex(),
        stored.causation,
        payload,
        stored.hash.hex(),
    )


def stored_in(line: Line) -> Stored:
    """The event of a line. Raises ``ValueError`` for what is no hex."""
    return Stored(
        line.position,
        line.recorded_at_us,
        line.epoch,
        line.type,
        line.schema_version,
        line.stream,
        line.stream_version,
        line.actor,
        bytes.fromhex(line.command_id),
        bytes.fromhex(line.correlation_id),
        line.causation,
        line.payload.encode(),
        bytes.fromhex(line.hash),
    )
