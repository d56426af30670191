"""What the programs write: kept whole in files, shown to people as short lines."""

import json
from typing import TextIO

from anneal.up.data_dir import DataDir

_SAID_ELSEWHERE = frozenset({"event", "level", "timestamp"})


class Logbook:
    """Appends each program's lines to its file. Safe from several threads, one a program."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._files: dict[str, TextIO] = {}

    def line(self, name: str, text: str) -> None:
        if name not in self._files:
            self._files[name] = self._data_dir.open_log(name)
        self._files[name].write(text + "\n")

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def readable(line: str) -> str:
    """Returns a line for people: a JSON event becomes `level event key=value …`."""
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or "event" not in event:
        return line
    fields = [f"{key}={value}" for key, value in event.items() if key not in _SAID_ELSEWHERE]
    return " ".join([str(event.get("level", "info")), str(event["event"]), *fields])
