"""Signed checkpoints: a statement, under an Ed25519 key, of how long the log is and what its root is.

The form is C2SP's ``signed-note`` with the body of ``tlog-checkpoint``: an origin, a size, a root in base64,
one line more for the chain's hash there, an empty line, and a line for each signature. Whoever holds one can
tell later whether the log up to there is the same: by the root from a proof, by the hash from the chain.
See https://c2sp.org/signed-note and https://c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

_ED25519: Final = b"\x01"
"""The algorithm in front of a public key."""
_KEY_ID_BYTES: Final = 4
_DASH: Final = "\u2014"
_SIZE: Final = re.compile("[0-9]{1,19}")
_PRIVATE: Final = "PRIVATE+KEY+"


class BadNote(ValueError):
    """A note, or a key, that is not one, or that was not signed by who it says. The message says how."""


class NotSigned(BadNote):
    """It is a note, and the key in question has not signed it."""


def origin_of(log_id: bytes) -> str:
    """What a log calls itself in its checkpoints."""
    return f"horizon/{log_id.hex()}"


class Checkpoint(Struct, frozen=True):
    """What is stated."""

    origin: str
    size: int
    """The number of events, and so the position of the last one."""
    root: bytes
    """Of the tree over their hashes."""
    tip: bytes
    """The hash of the last one."""

    def body(self) -> str:
        return f"{self.origin}\n{self.size}\n{_base64(self.root)}\n{_base64(self.tip)}\n"


class VerifyKey:
    """The public half of a key, written ``NAME+ID+BASE64``."""

    def __init__(self, name: str, public: bytes) -> None:
        self.name = name
        self.public = public
        self.id = sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]

    @classmethod
    def read(cls, text: str) -> VerifyKey:
        """Raises ``BadNote``, and says nothing of what is no key: it may be a secret one, cut short."""
        if text.strip().startswith(_PRIVATE):
            raise BadNote("this is a private key, which is for nobody else: give the public one")
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        public = _decoded(encoded)
        if not name or public is None or public[:1] != _ED25519 or len(public) != 33:
            raise BadNote("this is no Ed25519 key: it is written NAME+ID+BASE64")
        key = cls(name, public[1:])
        if key.id.hex() != key_id:
            raise BadNote(f"the id of the key {name} does not match it: {key_id}, not {key.id.hex()}")
        return key

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_base64(_ED25519 + self.public)}"

    def verifies(self, body: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, body.encode())
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """The private half, 32 bytes. Its name is that of the log whose checkpoints it signs.

    It is written ``PRIVATE+KEY+NAME+ID+BASE64``, as the key files of other logs with signed notes are.
    """

    def __init__(self, name: str, private: bytes) -> None:
        self._private = private
        self._key = Ed25519PrivateKey.from_private_bytes(private)
        self.public = VerifyKey(name, self._key.public_key().public_bytes_raw())

    @classmethod
    def new(cls, name: str) -> SigningKey:
        return cls(name, os.urandom(32))

    @classmethod
    def read(cls, text: str) -> SigningKey:
        """Raises ``BadNote``, and says nothing of what stands in a key that is none."""
        name, _, rest = text.strip().removeprefix(_PRIVATE).partition("+")
        key_id, _, encoded = rest.partition("+")
        private = _decoded(encoded) or b""
        if not text.startswith(_PRIVATE) or not name or private[:1] != _ED25519 or len(private) != 33:
            raise BadNote(f"this is no private key: it is written {_PRIVATE}NAME+ID+BASE64")
        key = cls(name, private[1:])
        if key.public.id.hex() != key_id:
            raise BadNote(f"the id of the private key of {name} does not match it")
        return key

    def private_text(self) -> str:
        """The key itself: for its file, and nothing else."""
        public = self.public
        return f"{_PRIVATE}{public.name}+{public.id.hex()}+{_base64(_ED25519 + self._private)}"

    def sign(self, body: str) -> str:
        """The line of its signature."""
        signature = self._key.sign(body.encode())
        return f"{_DASH} {self.public.name} {_base64(self.public.id + signature)}\n"


def signed(checkpoint: Checkpoint, keys: list[SigningKey]) -> str:
    """The note: the checkpoint under a signature of each key."""
    body = checkpoint.body()
    return f"{body}\n{''.join(key.sign(body) for key in keys)}"


def read_note(note: str) -> tuple[Checkpoint, list[tuple[str, bytes, bytes]]]:
    """The checkpoint, and for each signature the name, the id of the key, and the signature itself.

    Whether they hold is not looked at. Raises ``BadNote``.
    """
    body, separator, signatures = note.partition("\n\n")
    lines = body.split("\n")
    if not separator or len(lines) != 4 or not _SIZE.fullmatch(lines[1]) or not signatures.endswith("\n"):
        raise BadNote("a checkpoint is an origin, a size, a root and a hash, an empty line, and signatures")
    checkpoint = Checkpoint(
        lines[0], int(lines[1]), _bytes_of(lines[2], "a root"), _bytes_of(lines[3], "a hash")
    )
    if checkpoint.body() != body + "\n":
        raise BadNote(f"the checkpoint of {checkpoint.size} events is not written as it is to be")
    return checkpoint, [_signature(line) for line in signatures[:-1].split("\n")]


def verified(note: str, key: VerifyKey) -> Checkpoint:
    """The checkpoint, if this key has signed it. Raises ``BadNote``."""
    checkpoint, signatures = read_note(note)
    for name, key_id, signature in signatures:
        if (name, key_id) == (key.name, key.id):
            if key.verifies(checkpoint.body(), signature):
                return checkpoint
            raise BadNote(f"the signature of {key} under the checkpoint of {checkpoint.size} events is false")
    raise NotSigned(f"the checkpoint of {checkpoint.size} events is not signed by {key}")


def _signature(line: str) -> tuple[str, bytes, bytes]:
    dash, _, rest = line.partition(" ")
    name, _, encoded = rest.partition(" ")
    if dash != _DASH or not name:
        raise BadNote(f"{line[:60]!r} is no line of a signature")
    both = _bytes_of(encoded, "a signature")
    return name, both[:_KEY_ID_BYTES], both[_KEY_ID_BYTES:]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes_of(text: str, what: str) -> bytes:
    decoded = _decoded(text)
    if decoded is None:
        raise BadNote(f"{text[:60]!r} is no base64, and so not {what}")
    return decoded


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
