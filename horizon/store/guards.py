"""The triggers that keep the log from being changed: whether all are there, and how to put them back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import Struct

_MISSING: Final = """
    WITH partitions AS (SELECT inhrelid AS relation FROM pg_inherits WHERE inhparent = 'events'::regclass),
    append_only AS (
        SELECT unnest(ARRAY['events', 'answers', 'checkpoints', 'archives']::regclass[]) AS relation
        UNION ALL SELECT relation FROM partitions),
    guards (relation, name) AS (
        SELECT relation, unnest(ARRAY['refuse_change', 'refuse_truncate']) FROM append_only
        UNION ALL VALUES ('blobs'::regclass, 'refuse_truncate'),
                         ('log_head', 'refuse_truncate'), ('log_head', 'refuse_delete'))
    SELECT g.relation::text, g.name, t.oid IS NOT NULL AS is_there,
           g.relation IN (SELECT relation FROM partitions) AS is_partition
    FROM guards g LEFT JOIN pg_trigger t ON t.tgrelid = g.relation AND t.tgname = g.name
    WHERE t.tgenabled IS DISTINCT FROM 'A'
    ORDER BY is_partition, relation::text, g.name"""
_CREATE: Final = {
    "refuse_change": "CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {} "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change(); ",
    "refuse_delete": "CREATE TRIGGER refuse_delete BEFORE DELETE ON {} "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change(); ",
    "refuse_truncate": "CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {} "
    "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change(); ",
}


class Guard(Struct, frozen=True):
    """A trigger that is missing, or does not hold for everybody."""

    table: str
    name: str
    is_there: bool
    is_partition: bool
    """Of one the trigger for rows comes, and goes, with that of the whole table."""

    def restored(self) -> str:
        """The SQL that puts it back; that of partitions after that of the whole table."""
        comes_along = self.is_partition and self.name == "refuse_change"
        create = "" if self.is_there or comes_along else _CREATE[self.name].format(self.table)
        return f"{create}ALTER TABLE {self.table} ENABLE ALWAYS TRIGGER {self.name};"


async def missing(fetch: Callable[[str], Awaitable[list[Any]]]) -> list[Guard]:
    """Those that do not guard the log any more."""
    return [Guard(*row) for row in await fetch(_MISSING)]


def what_to_do(guards: list[Guard]) -> str:
    """What is wrong, and how to mend it."""
    tables = ", ".join(dict.fromkeys(guard.table for guard in guards))
    statements = " ".join(guard.restored() for guard in guards)
    return (
        f"the log is not protected against change: triggers are missing or disabled on {tables}. Whoever "
        "owns the database may have changed what is there since: `horizon verify` finds that. To put them "
        f"back, as the owner: {statements}"
    )
