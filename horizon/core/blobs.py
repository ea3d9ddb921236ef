"""What must not be in the log for ever: environment values and scripts, filed by their SHA-256."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from msgspec import Struct


class _Environment(Struct):
    salt: bytes
    values: dict[str, str]


_DECODER = msgspec.json.Decoder(_Environment)


def digest_of(data: bytes) -> str:
    """SHA-256 in hex: the name of a blob."""
    return sha256(data).hexdigest()


def encode_environment(values: dict[str, str], salt: bytes) -> bytes:
    """The blob of an environment. The salt keeps its public digest from giving values away."""
    return msgspec.json.encode(_Environment(salt, values), order="deterministic")


def decode_environment(blob: bytes | None) -> dict[str, str]:
    """The values in a blob; none when the blob has been erased."""
    return _DECODER.decode(blob).values if blob else {}
