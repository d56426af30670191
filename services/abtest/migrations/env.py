"""Alembic's environment of this service."""

from services.abtest.adapters.tables import Row
from services.common.migrations import run_env

run_env(Row.metadata)
