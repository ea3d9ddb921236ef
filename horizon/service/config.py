"""What an operator may choose, with its bounds. Bounds that no one may choose are in ``core.limits``."""

from __future__ import annotations

from hashlib import sha256

import msgspec
from msgspec import Struct


class EngineConfig(Struct, frozen=True):
    """How the engine works; none of it changes what it decides."""

    inbox_jobs_max: int = 50_000
    """Submissions and other commands that may wait at once; a batch counts each of its jobs."""
    inbox_bytes_max: int = 512 * 1024 * 1024
    """The same, by the size of what was asked."""
    append_events_max: int = 5_000
    """After this many events an append is closed and the rest waits for the next one."""
    append_bytes_max: int = 16 * 1024 * 1024
    """The same, by the size of what was asked; one larger command goes alone."""
    append_tries_max: int = 3
    """How often a command is decided anew after appends whose outcome was unknown, before it is refused."""
    unavailable_retry_s: float = 0.5
    """Between two tries to reach a store that does not answer."""
    answers_cached_max: int = 10_000
    """Answers to idempotency keys kept in memory; all of them are in the store."""

    lease_ttl_s: float = 10.0
    """How long this scheduler may be silent, as leader, before another one leads."""

    def digest(self) -> str:
        """SHA-256 in hex, for the record of who led with which configuration."""
        return sha256(msgspec.json.encode(self)).hexdigest()
