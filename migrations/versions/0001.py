"""The log: its head, its events, and what stands beside them."""

from horizon.store.migrate import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_sql("0001_log.sql")
