"""The key that signs the log's checkpoints: in a file outside the database, for its owner's eyes only.

Beside ``signing.key`` stands ``signing.pub``, for whoever is to check, and for a while after a rotation
``signing.old``: the key before, which signs one checkpoint together with the new one and is then deleted. Its
public half stays, as ``signing-ID.pub``: what was exported or proven before is under that.
"""

from __future__ import annotations

import os
from pathlib import Path

from horizon.store.note import BadNote, SigningKey, VerifyKey


class BadKey(Exception):
    """There is no key to sign with. The message says why and what to do."""


class KeyFile:
    """Where a private key is kept; its public half and the key before it stand beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.public_path = path.with_suffix(".pub")
        self._old_path = path.with_suffix(".old")

    def key(self, name: str) -> SigningKey:
        """The key for the log of this name; made now if there is none yet. Raises ``BadKey``."""
        key = self._read(self.path)
        if key is None:
            key = SigningKey.new(name)
            self._write(key)
        elif key.public.name != name:
            raise BadKey(
                f"the key in {self.path} signs for the log {key.public.name}, and this database holds "
                f"{name}: use the database that belongs to it, or name another key with HORIZON_SIGNING_KEY"
            )
        elif not self._is_shown(key):  # whoever made it, or rotated to it, came no further
            self._write_public(key)
        return key

    def public(self) -> VerifyKey | None:
        """The public half; None before there is a key. Raises ``BadKey``."""
        try:
            return VerifyKey.read(self.public_path.read_text())
        except FileNotFoundError:
            key = self._read(self.path)
            return None if key is None else key.public
        except (OSError, BadNote) as error:
            raise BadKey(f"the public key in {self.public_path} cannot be read: {error}") from error

    def in_force(self) -> VerifyKey | None:
        """The public half of the key that the log is signed with now. Raises ``BadKey``."""
        outgoing = self.outgoing()
        return self.public() if outgoing is None else outgoing.public

    def retired_path(self, key_id: str) -> Path:
        """Where the public half of a key stays once there is another."""
        return self.path.with_name(f"{self.path.stem}-{key_id}.pub")

    def outgoing(self) -> SigningKey | None:
        """The key before, while it has not handed over to this one yet. Raises ``BadKey``."""
        return self._read(self._old_path)

    def rotate(self) -> VerifyKey:
        """Put a new key in the place of the one there is, which is kept until it has handed over."""
        key = self._read(self.path)
        if key is None:
            raise BadKey(f"there is no key in {self.path} yet: the first start of Horizon makes one")
        if self._old_path.exists():
            raise BadKey(
                "the last rotation has not taken effect yet: it does with the first checkpoint after the "
                "next start of Horizon"
            )
        new = SigningKey.new(key.public.name)
        try:
            _write_durably(self.retired_path(key.public.id.hex()), str(key.public), 0o644)
            _write_durably(self._old_path, key.private_text(), 0o600)
        except OSError as error:
            raise BadKey(f"the old key cannot be kept beside {self.path}: {error.strerror}") from error
        self._write(new)
        return new.public

    def forget_outgoing(self) -> None:
        """The key before has handed over: nobody shall sign with it any more."""
        self._old_path.unlink(missing_ok=True)

    def _is_shown(self, key: SigningKey) -> bool:
        try:
            return self.public_path.read_text().strip() == str(key.public)
        except (OSError, UnicodeDecodeError):
            return False

    def _read(self, path: Path) -> SigningKey | None:
        try:
            return SigningKey.read(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, BadNote) as error:
            raise BadKey(f"the signing key in {path} cannot be read: {error}") from error

    def _write(self, key: SigningKey) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_durably(self.path, key.private_text(), 0o600)
        except OSError as error:
            raise BadKey(f"the signing key cannot be kept in {self.path}: {error.strerror}") from error
        self._write_public(key)

    def _write_public(self, key: SigningKey) -> None:
        try:
            _write_durably(self.public_path, str(key.public), 0o644)
        except OSError as error:
            raise BadKey(f"the public key cannot be put in {self.public_path}: {error.strerror}") from error


def _write_durably(path: Path, text: str, mode: int) -> None:
    """Put a file there in one step, on disk before anybody sees it: a key must outlive what it signed."""
    partial = path.with_name(f".{path.name}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a loss of power."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
