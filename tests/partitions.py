"""Partitions of a log so small that a test can fill some."""

from __future__ import annotations

from typing import Any

import asyncpg


async def make_small(admin: asyncpg.Connection[Any], size: int) -> None:
    """Give a log that is still empty partitions of so many events."""
    await admin.execute(
        f"""DROP TABLE events_000000, events_000001;
            CREATE OR REPLACE FUNCTION partition_size() RETURNS bigint LANGUAGE sql IMMUTABLE
            AS 'SELECT {size}::bigint'"""
    )
    await admin.execute("SELECT add_partition(), add_partition()")


async def attached(admin: asyncpg.Connection[Any]) -> list[str]:
    rows = await admin.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'events'::regclass"
    )
    return sorted(row["name"] for row in rows)
