"""Failpoints of this process, armed for a while."""

from collections.abc import Generator
from contextlib import contextmanager

from services.common.failpoints import EXIT_CODE as EXIT_CODE
from services.common.failpoints import FAILPOINTS as FAILPOINTS
from services.common.failpoints import VARIABLE as VARIABLE
from services.common.failpoints import FailpointReached as FailpointReached
from services.common.failpoints import arm


@contextmanager
def armed(text: str) -> Generator[None]:
    """As long as the block, `text` is what the environment's variable would be."""
    arm({VARIABLE: text})
    try:
        yield
    finally:
        arm({})
