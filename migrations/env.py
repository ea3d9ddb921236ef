"""Run by alembic, on the connection that ``horizon.store.migrate`` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="schema_revision")
with context.begin_transaction():
    # Two schedulers starting at once must not both migrate: the second waits here and finds nothing to do.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4886718345)")
    context.run_migrations()
