"""Where the service's log lines go and what they look like; the only place that configures them."""

from __future__ import annotations

import logging
import os
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from horizon.cli import exits
from horizon.cli.exits import CliError


def configure_logging(default_level: str = "info") -> None:
    """Lines for people on a terminal, JSON otherwise; to stderr. ``HORIZON_LOG_LEVEL`` sets how much."""
    name = os.environ.get("HORIZON_LOG_LEVEL") or default_level
    level = logging.getLevelNamesMapping().get(name.upper())
    if level is None:
        raise CliError(f"HORIZON_LOG_LEVEL is {name!r}; it may be debug, info, warning, error", exits.USAGE)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not sys.stderr.isatty()),
    ]
    renderer: list[Processor]
    if sys.stderr.isatty():
        # A prettier traceback would show the values of variables, and among them tokens and environments.
        renderer = [
            structlog.dev.ConsoleRenderer(
                colors=not os.environ.get("NO_COLOR"), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # What libraries say through the standard module takes the same form.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, _without_traceback],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
    # Our own handlers let nothing through, so what aiohttp reports as errors is requests that are no HTTP:
    # those are answered 400, and are no fault of this program that would need a stack trace.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def _without_traceback(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """What a library warns of is the weather, such as a database that is away: its name is enough."""
    failure = event.get("exc_info")
    if failure and event.get("level") != "error":
        del event["exc_info"]
        event["error"] = f"{failure[0].__name__}: {failure[1]}"
    return event
