"""Single keys from a terminal, lines from anything else."""

import os
import sys
import termios
import tty

_DIRECTIONS = {b"A": "up", b"B": "down", b"C": "right", b"D": "left"}
# Terminals send one of two prefixes, by their mode.
ARROWS = {start + end: name for start in (b"\x1b[", b"\x1bO") for end, name in _DIRECTIONS.items()}
_CTRL_C, _CTRL_D = b"\x03", b"\x04"
_SEQUENCE_BYTES = 8


def read_key() -> str:
    """Returns a key: a lower-case letter or `left`, `right`, `up`, `down`.

    Without a terminal a line stands for a key. Raises EOFError, and KeyboardInterrupt for Ctrl-C.
    """
    if not sys.stdin.isatty():
        return _line()
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        pressed = os.read(descriptor, _SEQUENCE_BYTES)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
    return key_of(pressed)


def key_of(pressed: bytes) -> str:
    """Returns the name of a key that a terminal sent."""
    if pressed == _CTRL_C:
        raise KeyboardInterrupt
    if pressed in (_CTRL_D, b""):
        raise EOFError
    return ARROWS.get(pressed, pressed.decode("utf-8", "replace").lower())


def _line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip().lower()
