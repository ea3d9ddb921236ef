"""Brings a database's schema up to date: alembic over plain SQL files in ``migrations/``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import asyncpg

SCHEMA_REVISION: Final = "0006"
"""The schema this program works on; the newest of ``migrations/versions``."""


def migrations_dir() -> Path:
    """Where the migrations are: inside an installed package, beside it in a checkout."""
    package = Path(str(files("horizon")))
    for candidate in (package / "migrations", package.parent / "migrations"):
        if (candidate / "env.py").exists():
            return candidate
    raise FileNotFoundError("Horizon's migrations are not installed; install the package again")


def run_sql(name: str) -> None:
    """Run a file of ``migrations/`` on the connection of the revision being applied."""
    from alembic import op
    from sqlalchemy.util import await_only

    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    # Straight to asyncpg: its simple protocol takes many statements, and it is inside alembic's transaction.
    await_only(connection.execute((migrations_dir() / name).read_text()))


async def current_revision(connection: asyncpg.Connection[Any]) -> str | None:
    """The revision a database is at; None for one that has no schema yet."""
    if await connection.fetchval("SELECT to_regclass('schema_revision')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM schema_revision")
    return revision


async def migrate(dsn: str) -> None:
    """Apply what is missing, all of it in one transaction."""
    from alembic import command  # slow to import, and needed only when there is something to do
    from alembic.config import Config
    from sqlalchemy.ext.asyncio import create_async_engine

    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))

    def upgrade(connection: Any) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn))
    try:
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)
            await connection.commit()
    finally:
        await engine.dispose()
