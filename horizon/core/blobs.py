"""What must not be in the log for ever: environment values and scripts, filed by their SHA-256."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from msgspec import Struct

from horizon.core.model import JobSpec


class _Environment(Struct):
    salt: bytes
    values: dict[str, str]


_DECODER = msgspec.json.Decoder(_Environment)


def digest_of(data: bytes) -> str:
    """SHA-256 in hex: the name of a blob."""
    return sha256(data).hexdigest()


def fault_in(digest: str, data: bytes | None) -> str:
    """What is wrong with what is filed under a digest that nobody erased; nothing when it is what was given.

    What it is by its name nobody needs to believe: whoever can write to the database can file what he likes.
    """
    if data is None:
        return "is missing from the database, and the log does not say that it was erased"
    if digest_of(data) != digest:
        return "was changed in the database: what is filed under its SHA-256 is something else"
    return ""


def digests_of(spec: JobSpec) -> list[str]:
    """Of the environment and the script that a job was given, if it was."""
    return [digest for digest in (spec.environment_digest, spec.script_digest) if digest]


def encode_environment(values: dict[str, str], salt: bytes) -> bytes:
    """The blob of an environment. The salt keeps its public digest from giving values away."""
    return msgspec.json.encode(_Environment(salt, values), order="deterministic")


def decode_environment(blob: bytes | None) -> dict[str, str]:
    """The values in a blob; none when the blob has been erased."""
    return _DECODER.decode(blob).values if blob else {}
