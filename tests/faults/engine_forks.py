"""`python -m tests.faults.engine_forks SOCKET`: engines that start at once, for nodes that are
processes of their own: forked from this one with the imports behind them.

A node starts `engine_client.py` as its engine. That hands its pipes over, passes SIGTERM on, and
ends as the fork does; if it is killed itself, so is the fork.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

LONGEST_MESSAGE = 1 << 16


def serve(path: Path) -> None:
    """Until the process is killed."""
    from services.trainer.engine.__main__ import main
    from tests import engine_imports as engine_imports

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        while True:
            client, _ = listener.accept()
            with client:
                if os.fork() == 0:
                    listener.close()
                    _be_engine(client, main)


def _be_engine(client: socket.socket, main: Callable[[list[str]], int]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, descriptors, _, _ = socket.recv_fds(client, LONGEST_MESSAGE, 2)
    if len(descriptors) == 2:
        for ours, theirs in enumerate(descriptors, start=1):
            os.dup2(theirs, ours)
            os.close(theirs)
        Thread(target=_listen, args=(client,), daemon=True).start()
        told = json.loads(message)
        right_s, wrong_by_s = time.time, told["clock_s"]
        time.time = lambda: right_s() + wrong_by_s
        code = main(told["arguments"])
        sys.stdout.flush()
        client.sendall(bytes([code]))
    os._exit(0)


def _listen(client: socket.socket) -> None:
    """What our client hears is meant for us."""
    while client.recv(1):
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
