"""`python -m anneal.up.leash PARENT_PID COMMAND…`: becomes COMMAND, which ends when PARENT does.

On Linux the kernel then sends SIGTERM, however the parent ended; the order outlives exec. The
kernel watches the parent's *thread* that started us. Elsewhere COMMAND merely runs.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent_pid: int) -> None:
    """Asks for SIGTERM when our parent ends. Raises ProcessLookupError if it is gone already."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        raise ProcessLookupError(f"process {parent_pid} has ended")


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
