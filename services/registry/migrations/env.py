"""Alembic's environment of this service."""

from services.common.migrations import run_env
from services.registry.adapters.tables import Row

run_env(Row.metadata)
