"""The table from faults to status codes."""

import grpc
import pytest

from services.common import errors, faults
from services.common.faults import Fault


def test_every_category_of_fault_is_in_the_table() -> None:
    assert set(errors.CODES) == set(Fault.__subclasses__()) - foreign()
    assert len(set(errors.CODES.values())) == len(errors.CODES)


def foreign() -> set[type[Fault]]:
    """Classes that other tests derive from Fault."""
    return {cls for cls in Fault.__subclasses__() if cls.__module__ != faults.__name__}


def test_an_unknown_error_has_none_of_its_text() -> None:
    status = errors.to_status(KeyError("/etc/secret"), error_id="e-1")

    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert b"secret" not in status.SerializeToString()
    assert "e-1" in status.message


def test_a_fault_of_no_category_is_a_bug() -> None:
    with pytest.raises(TypeError, match="belongs to no category"):
        errors.to_status(Fault("ODD", "of no category"))


def test_a_long_message_is_cut_but_its_reason_stays() -> None:
    status = errors.to_status(faults.Aborted("STALE", "x" * 100_000))

    assert len(status.message) == 1000
    assert status.ByteSize() < 8 * 1024
