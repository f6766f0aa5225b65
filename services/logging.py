"""structlog for every service: one JSON line per fact on stderr; knows nothing of what is logged."""

import logging
import sys

import structlog


def configure(level: str = "info") -> None:
    """Level by name ("debug", "info", ...). Unknown names raise KeyError."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
