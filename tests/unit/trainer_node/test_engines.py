"""Engines that wait for a job with all imports behind them; here programs that only say so."""

import asyncio
import sys
from pathlib import Path
from textwrap import dedent

from services.trainer.node.engine import EngineProcess
from services.trainer.node.engines import WarmEngines
from services.trainer.node.room import environment_of

PROGRAM = dedent(
    """
    import json, os, sys
    if sys.argv[1] == "--warm":
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        told = json.loads(line)
        job = told["job_file"]
        os.environ.update(told["environment"])
    else:
        job = sys.argv[1]
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    event = {"type": "ran", "job": job, "warm": sys.argv[1] == "--warm", "gpus": gpus}
    print(json.dumps(event), flush=True)
    """
)
ENGINE = (sys.executable, "-c", PROGRAM)


async def said(engine: EngineProcess) -> dict[str, object]:
    (event,) = [event async for event in engine.events()]
    assert (await engine.wait()).status == 0
    return dict(event)


async def test_a_job_gets_the_engine_that_waits(tmp_path: Path) -> None:
    warm = WarmEngines(ENGINE, threads=1, count=1)
    await warm.fill()

    event = await said(await warm.starter(environment_of(["2", "3"]))(tmp_path / "job.json"))

    assert event["warm"] is True
    assert event["job"] == str(tmp_path / "job.json")
    assert event["gpus"] == "2,3"
    await warm.close()


async def test_where_none_waits_a_job_gets_a_new_one(tmp_path: Path) -> None:
    warm = WarmEngines(ENGINE, threads=1, count=0)

    event = await said(await warm.starter(environment_of(["1"]))(tmp_path / "job.json"))

    assert (event["warm"], event["gpus"]) == (False, "1")


async def test_an_engine_that_died_while_it_waited_costs_no_job(tmp_path: Path) -> None:
    dead = (sys.executable, "-c", "import sys; sys.exit(7) if sys.argv[1] == '--warm' else None")
    warm = WarmEngines(dead, threads=1, count=1)
    await warm.fill()
    (engine,) = warm._ready
    await engine.wait()

    started = await warm.starter({})(tmp_path / "job.json")

    assert (await started.wait()).status == 0
    await warm.close()


async def test_engines_that_are_wanted_no_more_end(tmp_path: Path) -> None:
    warm = WarmEngines(ENGINE, threads=1, count=2)
    await warm.fill()
    engines = list(warm._ready)

    await asyncio.wait_for(warm.close(), 5)

    assert [(await engine.wait()).status for engine in engines] == [-9, -9]
