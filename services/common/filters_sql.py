"""Filters as SQL. Every value is a bound parameter; only declared columns are named."""

from collections.abc import Mapping
from typing import Any, assert_never

from sqlalchemy import BigInteger, Float, and_, false, func, literal, not_, or_
from sqlalchemy.sql.elements import ColumnElement

from services.common.filters import And, Comparison, Filter, Not, Or, Value


def to_sql(filter: Filter, columns: Mapping[str, ColumnElement[Any]]) -> ColumnElement[bool]:
    """A WHERE clause. `columns` holds every field that the filter was parsed with; a map is a
    column of the type JSON.

    What is absent (NULL, or no such map key) equals nothing: `!=` and NOT match it.
    """
    match filter:
        case And(operands):
            return and_(*(to_sql(operand, columns) for operand in operands))
        case Or(operands):
            return or_(*(to_sql(operand, columns) for operand in operands))
        case Not(operand):
            return not_(func.coalesce(to_sql(operand, columns), false()))
        case Comparison():
            return _comparison(filter, columns[filter.field])
        case _:
            assert_never(filter)


def _comparison(wanted: Comparison, column: ColumnElement[Any]) -> ColumnElement[bool]:
    if wanted.key is not None:
        column = column[wanted.key].as_string()
    value = _bound(wanted.value)
    match wanted.op:
        case "=":
            return column == value
        case "!=":
            return column.is_distinct_from(value)
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value
        case ":" if wanted.key is not None:
            return column.is_not(None)
        case ":":
            return column.icontains(str(wanted.value), autoescape=True)
        case _:
            assert_never(wanted.op)


def _bound(value: Value) -> Any:
    """Numbers get their own type: a driver refuses 1.5 for the type of an integer column."""
    if isinstance(value, float):
        return literal(value, Float())
    if isinstance(value, int):
        return literal(value, BigInteger())
    return value
