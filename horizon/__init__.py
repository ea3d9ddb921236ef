"""Horizon: an auditable GPU job scheduler."""

__version__ = "0.1.0"
