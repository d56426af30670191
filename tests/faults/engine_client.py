"""`engine_client.py SOCKET ARGUMENTS…`: the engine to its node; the work is done by a fork of
`engine_forks`. Imports little, for it is started anew for every engine."""

import ctypes
import json
import os
import signal
import socket
import sys

ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
with socket.socket(socket.AF_UNIX) as forks:
    forks.connect(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: forks.send(b"T"))
    clock_s = float(os.environ.get("ANNEAL_TEST_CLOCK_S", "0"))
    told = {"arguments": sys.argv[2:], "clock_s": clock_s}
    socket.send_fds(forks, [json.dumps(told).encode()], [1, 2])
    for descriptor in (1, 2):
        os.close(descriptor)
    try:
        code = forks.recv(1)
    except ConnectionError:
        code = b""
    if not code:  # it was killed
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(code[0])
