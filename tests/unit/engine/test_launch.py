"""One job in several processes that torchrun's agent starts: one for each GPU, here on a CPU."""

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from services.trainer.engine.errors import InvalidJob
from services.trainer.engine.job import Job, job_json
from services.trainer.engine.launch import launch, verdict
from services.trainer.engine.methods import Full, Lora, Method, Prefix
from services.trainer.engine.model import load_tunable_model
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.process import ExitCode
from services.trainer.engine.sharding import fills, is_to_be_sharded
from services.trainer.node.engines import launched
from tests.engines import engine

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Any]]

FORKS = multiprocessing.get_context("forkserver")
DRY = Lora(rank=4, alpha=8.0, dropout=0.0)


def together(job: Job) -> list[dict[str, Any]]:
    """Runs the job in two processes as torchrun would start them; the events of the first."""
    job.work_dir.mkdir(parents=True, exist_ok=True)
    file = job.work_dir / "job.json"
    file.write_text(job_json(job))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": "2",
    }
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(engine(file, environment=told | {"RANK": rank, "LOCAL_RANK": rank}))
            for rank in "01"
        )
        events = [json.loads(line) for line in first.output]
        assert (first.exit_code(), second.exit_code()) == (ExitCode.OK, ExitCode.OK), events[-1]
    return [event for event in events if event["type"] != "alive"]


def result(job: Job) -> torch.Tensor:
    (file,) = job.artifacts_dir.glob("*.safetensors")
    return torch.cat([tensor.flatten() for tensor in safetensors.torch.load_file(file).values()])


@pytest.mark.parametrize(
    ("method", "sharding", "precision", "tolerance"),
    [
        (DRY, "full", "bfloat16", 1e-2),
        (Full(), "none", "float32", 1e-4),
        (Full(), "full", "float32", 1e-4),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_two_processes_learn_what_one_does(
    method: Method,
    sharding: Any,
    precision: str,
    tolerance: float,
    make_job: MakeJob,
    run_here: RunHere,
    tmp_path: Path,
) -> None:
    """In parts of unlike number, and with a last step that has an example for one alone."""
    uneven = {"batch_size": 35, "max_steps": 2, "micro_batch_tokens": 150}
    shown = {"evaluate_every": 1, "sample_count": 1, "sample_max_tokens": 2}
    settings = (
        uneven
        | shown
        | {"precision": precision, "early_stopping_patience": 5, "learning_rate": 0.003}
    )
    job = make_job(method=method, training=settings)
    alone = replace(job, work_dir=tmp_path / "alone")
    expected = {
        kind: [event for event in run_here(alone) if event.type == kind]
        for kind in ("started", "step", "eval", "samples", "finished")
    }

    told = together(replace(job, processes=2, sharding=sharding))

    def close(kind: str, field: str) -> None:
        theirs = [getattr(event, field) for event in expected[kind]]
        ours = [event[field] for event in told if event["type"] == kind]
        assert ours == pytest.approx(theirs, rel=tolerance), (kind, field)

    for kind, field in (
        ("started", "trainable_parameters"),
        ("started", "total_parameters"),
        ("step", "loss"),
        ("step", "gradient_norm"),
        ("step", "tokens"),
        ("eval", "loss"),
        ("eval", "token_accuracy"),
        ("finished", "validation_loss"),
    ):
        close(kind, field)
    assert len([event for event in told if event["type"] == "samples"]) == len(expected["samples"])
    assert (result(job) - result(alone)).norm() < 10 * tolerance * result(alone).norm()


def test_a_sharded_run_goes_on_bit_for_bit(make_job: MakeJob, tmp_path: Path) -> None:
    settings = {"max_steps": 4, "checkpoint_every": 2, "evaluate_every": 0}
    job = make_job(method=Full(), training=settings, processes=2, sharding="full")
    whole = replace(job, work_dir=tmp_path / "whole")
    together(whole)
    again = replace(job, resume_from=whole.checkpoints_dir / "step-00000002")

    (resumed,) = [event for event in together(again) if event["type"] == "resumed"]

    assert resumed["exact"]
    assert [path.read_bytes() for path in sorted(again.artifacts_dir.iterdir())] == [
        path.read_bytes() for path in sorted(whole.artifacts_dir.iterdir())
    ]


def test_each_of_two_processes_holds_half_of_the_weights_and_moments(
    make_job: MakeJob, tmp_path: Path
) -> None:
    pipes = [FORKS.Pipe(duplex=False) for _ in range(2)]
    job = make_job(method=Full())
    processes = [
        FORKS.Process(target=hold_part, args=(rank, job, tmp_path / "meeting", theirs))
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()

    held = [ours.recv() for ours, _ in pipes]

    assert sum(held) == 3 * 39_072
    assert max(held) <= 1.01 * min(held)
    for process in processes:
        process.join()


def hold_part(rank: int, job: Job, meeting: Path, told: Connection) -> None:
    """Does a step and tells how many numbers this process has then, without buffers."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.FileStore(str(meeting), 2), rank=rank, world_size=2)
    model = load_tunable_model(job, torch.float32, torch.device("cpu"), sharded=True)
    optimizer = Optimizer(model.trainable, job.training)
    ids = torch.arange(8)[None]
    model.network(input_ids=ids, labels=ids).loss.backward()
    optimizer.step(0.01)
    moments = [state for states in optimizer._adamw.state.values() for state in states.values()]
    shards = [held for held in (*model.trainable.values(), *moments) if isinstance(held, DTensor)]
    told.send(sum(shard.to_local().numel() for shard in shards))
    dist.destroy_process_group()


def test_no_weight_in_shards_is_kept_whole_in_bfloat16(make_job: MakeJob) -> None:
    model = load_tunable_model(make_job(method=Full()), torch.bfloat16, torch.device("cpu"))
    for sharded in (False, True):
        with replace(model, sharded=sharded).arithmetic():
            assert torch.is_autocast_cache_enabled() == (not sharded)


def test_what_cannot_be_sharded_is_refused(make_job: MakeJob) -> None:
    job = make_job(method=Prefix(), processes=2, sharding="full")
    with pytest.raises(InvalidJob, match="prefix cannot be sharded"):
        is_to_be_sharded(job, processes=2, device=torch.device("cpu"))


def test_a_model_that_would_fill_the_device_is_found(base_model: Path) -> None:
    """16 bytes for each of its 39,072 parameters."""
    assert fills(base_model, memory_bytes=800_000)
    assert not fills(base_model, memory_bytes=900_000)


@pytest.mark.parametrize(
    ("statuses", "status", "said"),
    [
        ({0: 75}, ExitCode.STOPPED, None),
        ({1: 5, 0: 5}, ExitCode.CHECKPOINT_REFUSED, None),
        ({0: 3, 1: 3}, ExitCode.ERROR, None),
        ({0: 3, 1: -9}, ExitCode.ERROR, "process 1 of the run was ended by SIGKILL"),
        ({0: -9, 1: 3}, ExitCode.ERROR, "process 0 of the run was ended by SIGKILL"),
        ({1: 3}, ExitCode.ERROR, "process 1 of the run left with status 3"),
        ({1: 4, 0: -9}, ExitCode.OUT_OF_MEMORY, "process 1 of the run has no memory left"),
    ],
)
def test_the_end_of_a_run_is_that_of_the_process_which_began_it(
    statuses: dict[int, int], status: ExitCode, said: str | None
) -> None:
    told: list[Any] = []
    assert verdict(statuses, SimpleNamespace(emit=told.append)) == status
    assert [event.message[: len(said or "")] for event in told] == ([said] if said else [])


def test_of_a_run_that_lost_a_process_none_is_left(tmp_path: Path) -> None:
    """The others may be waiting for it, and would for long."""
    waits = "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os._exit(3))"
    dies = "os.environ['RANK'] == '1' and os.kill(os.getpid(), signal.SIGKILL); time.sleep(60)"
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=launched_here, args=(f"{waits}; {dies}", tmp_path, theirs))
    process.start()
    theirs.close()

    with os.fdopen(os.dup(ours.fileno())) as output:
        (event,) = map(json.loads, output)  # to the end: nobody has its pipe any more
    process.join()

    assert process.exitcode == ExitCode.ERROR
    assert "process 1 of the run was ended by SIGKILL" in event["message"]
    assert not list(tmp_path.iterdir())


def launched_here(script: str, directory: Path, output: Connection) -> None:
    os.dup2(output.fileno(), sys.__stdout__.fileno())
    output.close()
    sys.exit(launch(2, (sys.executable, "-c", script), directory))


async def test_a_run_of_two_that_is_told_to_stop_leaves_a_checkpoint(
    make_job: MakeJob, tmp_path: Path
) -> None:
    """As the node starts it."""
    endless = {"max_steps": 1_000, "checkpoint_every": 0, "evaluate_every": 0}
    job = make_job(method=Full(), training=endless, processes=2, sharding="full")
    file = tmp_path / "job.json"
    file.write_text(job_json(job))
    process = await launched(2, {})(file)
    steps, saved, engines = 0, 0, []
    async for event in process.events():
        steps += event["type"] == "step"
        if event["type"] == "checkpoint":
            saved = event["step"]
        if steps == 5 and event["type"] == "step":
            engines = psutil.Process(process.pid).children()
            process.request_stop()
    end = await process.wait()
    assert (end.status, saved) == (ExitCode.STOPPED, steps), end.last_lines
    assert len(engines) == 2
    assert not any(map(psutil.Process.is_running, engines))
