"""Engines of a few lines, told apart by how they end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from textwrap import dedent

import pytest

from services.trainer.node import engine as engine_module
from services.trainer.node.engine import (
    EngineEvent,
    EngineGarbled,
    EngineProcess,
    memory_kills,
)

Start = Callable[[str], "asyncio.Future[EngineProcess]"]

SLEEPING_CHILD = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    print('{"type": "log", "pid": %d}' % child.pid, flush=True)
"""


@pytest.fixture
async def start(tmp_path: Path) -> AsyncGenerator[Callable[[str], object]]:
    """Starts a program in place of the engine."""
    started: list[EngineProcess] = []

    async def starting(program: str) -> EngineProcess:
        argv = (sys.executable, "-c", dedent(program))
        started.append(await EngineProcess.start(tmp_path / "job.json", argv))
        return started[-1]

    yield starting
    for engine in started:
        engine.kill()
        await engine.wait()


async def all_events(engine: EngineProcess) -> list[EngineEvent]:
    return [event async for event in engine.events()]


async def test_the_engine_is_told_its_job_file(start: Start, tmp_path: Path) -> None:
    engine = await start("import json, sys; print(json.dumps({'type': sys.argv[1]}))")
    assert await all_events(engine) == [{"type": str(tmp_path / "job.json")}]
    assert (await engine.wait()).status == 0


async def test_a_line_cut_by_the_engines_death_is_no_event(start: Start) -> None:
    engine = await start(
        """
        import os, sys
        sys.stdout.write('{"type": "step"}\\n{"type": "st')
        sys.stdout.flush()
        os._exit(3)
        """
    )
    assert await all_events(engine) == [{"type": "step"}]
    assert (await engine.wait()).status == 3


@pytest.mark.parametrize(
    "line", ["'no json'", "[1]", "'\"text\"'", "{'type': 1}", "'x' * 2_000_000", "'\\ud83d'"]
)
async def test_a_line_that_is_no_event_is_said_to_be_none(start: Start, line: str) -> None:
    engine = await start(
        f"import sys; sys.stdout.reconfigure(errors='surrogatepass'); print({line})"
    )
    with pytest.raises(EngineGarbled) as caught:
        await all_events(engine)
    assert len(str(caught.value)) < 300


async def test_the_last_lines_are_kept_however_long_and_many(start: Start) -> None:
    engine = await start(
        """
        import sys
        for number in range(100):
            print("line", number, file=sys.stderr)
        print("y" * 3_000_000, file=sys.stderr)
        sys.stderr.buffer.write(b"no utf-8: \\xff, and no end of line")
        """
    )
    await all_events(engine)
    last = (await engine.wait()).last_lines
    assert len(last) == 20
    assert last[0].startswith("line ")
    assert sum(line.count("y") for line in last) == 3_000_000
    assert last[-1] == "no utf-8: \N{REPLACEMENT CHARACTER}, and no end of line"


async def test_an_end_by_a_signal_says_which(start: Start) -> None:
    engine = await start("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    await all_events(engine)
    assert (await engine.wait()).signal_name == "SIGSEGV"


async def test_kills_for_want_of_memory_are_counted_while_the_engine_runs(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 12\noom_kill 3\n")
    monkeypatch.setattr(engine_module, "_VMSTAT", vmstat)
    engine = await start("import time; time.sleep(60)")
    vmstat.write_text("nr_free_pages 12\noom_kill 4\n")
    engine.kill()
    assert (await engine.wait()).memory_kills == 1


def test_a_kernel_that_does_not_count_has_not_killed(tmp_path: Path) -> None:
    assert memory_kills(tmp_path / "vmstat") == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 12\n")
    assert memory_kills(tmp_path / "vmstat") == 0


async def test_a_request_to_stop_is_a_sigterm_that_it_may_answer(start: Start) -> None:
    engine = await start(
        """
        import signal, sys

        def stop(*_):
            print('{"type": "log"}', flush=True)
            sys.exit(75)

        signal.signal(signal.SIGTERM, stop)
        print('{"type": "started"}', flush=True)
        signal.pause()
        """
    )
    events = engine.events()
    assert await anext(events) == {"type": "started"}
    engine.request_stop()
    assert await anext(events) == {"type": "log"}
    assert (await engine.wait()).status == 75


async def test_kill_takes_the_children_along(start: Start) -> None:
    engine = await start(SLEEPING_CHILD + "    child.wait()")
    child = (await anext(engine.events()))["pid"]
    engine.kill()
    assert (await asyncio.wait_for(engine.wait(), 10)).status == -signal.SIGKILL
    assert await has_ended(int(str(child)))


async def test_an_engine_that_dies_leaves_no_child_holding_its_pipes(start: Start) -> None:
    engine = await start(SLEEPING_CHILD + "    import os; os._exit(7)")
    (event,) = await asyncio.wait_for(all_events(engine), 10)
    assert (await asyncio.wait_for(engine.wait(), 10)).status == 7
    assert await has_ended(int(str(event["pid"])))


async def test_to_signal_an_engine_that_has_ended_does_nothing(start: Start) -> None:
    engine = await start("pass")
    await engine.wait()
    engine.request_stop()
    engine.kill()


async def has_ended(pid: int) -> bool:
    """Whether the process ends, or ended; a zombie counts as ended."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        await asyncio.sleep(0.05)
    return False
