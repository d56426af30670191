"""What this host trains on: as its kernel and its GPU's driver tell it, and how fast that is.

The node itself holds no torch. A child that does says what an engine would use, and times it.
"""

import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.trainer.node.asking import NoAnswer, answer_of

SPEED = (sys.executable, "-P", "-m", "services.trainer.engine.speed")
"""Called with a number of threads."""

_NVIDIA_SMI = ("--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_DRIVER_VERSION = ("--query-gpu=driver_version", "--format=csv,noheader")
_DRIVER_LIMIT_S = 5.0
_TRIES = 3
"""A first one that had to read torch from a cold disk makes the second one quick."""
_SHOWN_CHARACTERS = 200
_MEBIBYTE = 1024**2
_log = structlog.get_logger()


@dataclass(frozen=True)
class Device:
    """`…_flops` are operations a second of large products; 0: not known."""

    kind: Literal["cpu", "cuda"]
    model: str
    memory_bytes: int
    bfloat16_flops: float = 0.0
    float32_flops: float = 0.0


class Host:
    """This host, for whoever asks what it has.

    `threads` are those of all processes of an engine. The speed is timed once, in at most
    `speed_limit_s` and at the first question; should that fail, at the next ones, three times in
    all. A limit of 0 leaves it unknown. `speed` is the program that times.
    """

    def __init__(self, threads: int, speed_limit_s: float, speed: Sequence[str] = SPEED) -> None:
        self._speed = (*speed, str(threads))
        self._limit_s = speed_limit_s
        self._tries_left = _TRIES if speed_limit_s > 0 else 0
        self._device: Device | None = None

    async def device(self) -> Device:
        """What an engine here computes on."""
        if self._device is None:
            self._device = await _nvidia_gpu() or _cpu()
        if self._tries_left:
            self._tries_left -= 1
            await self._measure(self._device)
        return self._device

    async def _measure(self, known: Device) -> None:
        try:
            self._device = _merged(known, await answer_of(self._speed, self._limit_s))
        except NoAnswer as fault:
            _log.warning("node.speed_unknown", error=str(fault), tries_left=self._tries_left)
        else:
            self._tries_left = 0
            _log.info("node.measured", **vars(self._device))


class _Measured(BaseModel):
    """What the timing child prints."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    kind: Literal["cpu", "cuda"]
    model: str
    memory_bytes: int = Field(ge=0)
    bfloat16_flops: float = Field(ge=0)
    float32_flops: float = Field(ge=0)


def _merged(known: Device, printed: bytes) -> Device:
    """A child that finds no GPU is right: an engine would not find it either."""
    try:
        told = _Measured.model_validate_json(printed)
    except ValidationError as error:
        shown = printed.decode(errors="replace")[:_SHOWN_CHARACTERS]
        raise NoAnswer(f"it printed what is no measurement: {shown}") from error
    if told.kind == "cuda":
        return Device(**told.model_dump())
    here = known if known.kind == "cpu" else _cpu()
    return replace(here, bfloat16_flops=told.bfloat16_flops, float32_flops=told.float32_flops)


def _cpu() -> Device:
    return Device("cpu", cpu_model(), host_memory_bytes())


def cpu_model(root: Path = Path("/")) -> str:
    """As the kernel calls the first core; the architecture where it has no name, as on Arm."""
    names = re.findall(r"^model name\s*: (.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return str(names[0]).strip() if names else platform.machine()


def host_memory_bytes(root: Path = Path("/")) -> int:
    """The host's memory, or what the process's control group may take of it if that is less."""
    told = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    limits = [int(told[1]) * 1024] if told else []
    return min([*limits, *_group_limits(root)], default=0)


def _group_limits(root: Path) -> Iterator[int]:
    """Those of the group and of all above it: the least counts. In a container the group's path
    may be one that only the host has; then the container's own root tells its limit."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, version 1
            top = root / "sys/fs/cgroup" / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = top / path.strip("/")
            for directory in (group, *group.parents):
                told = _text(directory / name).strip() if directory.is_relative_to(top) else ""
                if told.isdigit():  # else `max`, or another group's directory
                    yield int(told)


def _text(path: Path) -> str:
    """A file of the kernel's; empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


async def _nvidia_gpu() -> Device | None:
    """The first GPU that NVIDIA's driver knows, which is the one that an engine takes."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        printed = await answer_of((program, *_NVIDIA_SMI), _DRIVER_LIMIT_S)
        model, _, memory = printed.decode(errors="replace").splitlines()[0].rpartition(", ")
        return Device("cuda", model, int(memory) * _MEBIBYTE)
    except (NoAnswer, LookupError, ValueError) as fault:
        _log.warning("node.gpu_unknown", error=str(fault))
        return None


async def driver_version() -> str:
    """That of NVIDIA's; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        printed = await answer_of((program, *_DRIVER_VERSION), _DRIVER_LIMIT_S)
    except NoAnswer as fault:
        _log.warning("node.driver_unknown", error=str(fault))
        return ""
    return printed.decode(errors="replace").partition("\n")[0].strip()
