"""Somebody else's program loads our LoRA result with plain PEFT and computes what we do."""

import json
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import torch

from services.chat.conversation import Conversation, Message, Role
from services.chat.encoder import ChatEncoder
from services.trainer.engine.batches import padded
from services.trainer.engine.events import Event
from services.trainer.engine.examples import Example
from services.trainer.engine.job import Job
from services.trainer.engine.loss import label_logits
from services.trainer.engine.methods import Lora
from services.trainer.engine.model import TunableModel, load_tunable_model

EXAMPLES = Path(__file__).parents[3] / "examples"
TINY_BASE = EXAMPLES / "tiny-base"


def test_plain_peft_computes_the_same_logits(
    make_job: Callable[..., Job], run_here: Callable[[Job], list[Event]], tmp_path: Path
) -> None:
    method = Lora(rank=4, alpha=8.0, dropout=0.0)
    job = make_job({"max_steps": 4}, base_model_dir=TINY_BASE, method=method)
    run_here(job)
    question = "Where is my parcel?"
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "use_with_peft.py"), "--logits"]
    command += [str(TINY_BASE), str(job.artifacts_dir), question]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    theirs = torch.tensor(json.loads(told.stdout.splitlines()[-1]))

    asked = Conversation.of(Message(Role.USER, question))
    ids = ChatEncoder.load(TINY_BASE).prompt(asked)
    assert theirs.shape[0] == len(ids)
    ours = load_tunable_model(
        make_job(base_model_dir=TINY_BASE, method=method, start_from=job.artifacts_dir),
        torch.float32,
        torch.device("cpu"),
    )
    everywhere = Example(array("i", [*ids, 0]), bytes([1] * (len(ids) + 1)))
    ours.network.eval()
    with torch.no_grad():
        logits = logits_of(ours, everywhere)
        with ours.network.disable_adapter():
            base = logits_of(ours, everywhere)
    torch.testing.assert_close(logits, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(base, theirs, atol=1e-2)


def logits_of(model: TunableModel, example: Example) -> torch.Tensor:
    batch = padded([example], model.device)
    return label_logits(model.network, model.head, batch)[: batch.labels]
