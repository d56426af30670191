"""How a program of Anneal starts and ends: one line for a start-up error, no orphan left behind."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

from services.common import failpoints
from services.common.faults import Fault

DIE_WITH_PARENT = "ANNEAL_DIE_WITH_PARENT"
_PR_SET_PDEATHSIG = 1


class Fatal(Exception):
    """The program cannot go on. The text says why in one line."""


class StartupError(Fatal):
    """The program cannot run as it was told to. The text says in one line what to change."""


def die_with_parent() -> None:
    """On Linux, asks for SIGTERM when the parent dies, if ANNEAL_DIE_WITH_PARENT is 1.

    The kernel watches the parent's *thread* that started us: start children from one that stays.
    Elsewhere there is no such call, and a parent that is killed leaves its children running.
    """
    if os.environ.get(DIE_WITH_PARENT) != "1" or sys.platform != "linux":
        return
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died between the two calls
        os.kill(os.getpid(), signal.SIGTERM)


def main(run: Callable[[], Awaitable[None]]) -> NoReturn:
    """Runs the program and exits: 0 when `run` returns, 1 with one line on a Fatal or a Fault.

    Any other exception is a bug and leaves with its traceback.
    """
    die_with_parent()
    try:
        asyncio.run(_awaited(run))
    except (Fatal, Fault) as error:
        print(f"anneal: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


async def _awaited(run: Callable[[], Awaitable[None]]) -> None:
    failpoints.arm()
    await run()
