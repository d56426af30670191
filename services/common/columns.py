"""Column types and expressions that mean the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

AutoId = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key that the database assigns in growing order (SQLite demands the type INTEGER)."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as a BIGINT of microseconds since 1970-01-01T00:00Z."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs a time zone: {value!r}")
        return (value - EPOCH) // _MICROSECOND

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + int(value) * _MICROSECOND


class DatabaseNow(FunctionElement[datetime]):
    """The database's clock as an expression, e.g. in a WHERE or as a value to insert."""

    name = "database_now"
    type = UtcDateTime()
    inherit_cache = True


@compiles(DatabaseNow, "sqlite")
def _now_in_sqlite(*_: object, **__: object) -> str:
    """Days since noon of 24 November 4714 BC; 2440587.5 of them before 1970."""
    return "(CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER) * 1000)"


@compiles(DatabaseNow, "postgresql")
def _now_in_postgresql(*_: object, **__: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
