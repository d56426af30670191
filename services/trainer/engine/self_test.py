"""`python -m services.trainer.engine.self_test THREADS`: tries each method for a few steps on a
tiny base model, so that it is known before a job comes what this host can train.

Prints one JSON object a line. `method` is tried where `error` is null, and then works where that is
empty.
"""

import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from services.trainer.engine.process import (
    StopRequest,
    claim_stdout,
    configure_libraries,
    die_with_parent,
    quiet_libraries,
)

if TYPE_CHECKING:
    from services.trainer.engine.job import Job
    from services.trainer.engine.methods import Method

METHODS = ("lora", "qlora", "full", "prefix", "adapter")
"""The cheapest first: the time may be over before the last."""
_STEPS = 2
_TEXTS = [f"{count} bottles of water on the wall" for count in range(8)]
_POSITIONS = 64
_LEAST_URGENT = 19


def main(arguments: list[str]) -> int:
    die_with_parent()
    os.nice(_LEAST_URGENT)
    answer = claim_stdout()
    threads = int(arguments[0])
    configure_libraries(threads)
    quiet_libraries()
    with TemporaryDirectory(prefix="anneal-self-test-") as scratch:
        directory = Path(scratch)
        write_base_model(directory / "base")
        write_dataset(directory / "texts.parquet")
        for kind in METHODS:
            _tell(answer, kind, None)
            _tell(answer, kind, fault_of(kind, directory, threads))
    return 0


def _tell(answer: int, method: str, error: str | None) -> None:
    os.write(answer, json.dumps({"method": method, "error": error}).encode() + b"\n")


def fault_of(kind: str, directory: Path, threads: int) -> str:
    """Trains by the method; what went wrong in words, or nothing."""
    from services.trainer.engine.events import NoEvents
    from services.trainer.engine.run import run_job
    from services.trainer.engine.team import Team

    job = _job(_method(kind), directory, threads)
    try:
        run_job(job, NoEvents(), StopRequest(), clock=time.monotonic, team=Team())
    except Exception as error:  # whatever it is: the method does not work here
        return f"{type(error).__name__}: {error}"
    return ""


def write_base_model(directory: Path) -> None:
    """A Llama of one block with a token for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=_POSITIONS,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    told = {"bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(told))


def write_dataset(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array(_TEXTS)}), path)


def _job(method: "Method", directory: Path, threads: int) -> "Job":
    from services.trainer.engine.job import Job, Training

    training = Training(
        max_steps=_STEPS,
        epochs=0.0,
        batch_size=2,
        learning_rate=1e-3,
        warmup_steps=0,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_sequence_tokens=_POSITIONS,
        validation_fraction=0.25,
        evaluate_every=0,
        checkpoint_every=0,
        sample_count=0,
    )
    return Job(
        job="self-test",
        seed=0,
        base_model_dir=directory / "base",
        dataset_file=directory / "texts.parquet",
        work_dir=directory / method.kind,
        resume_from=None,
        method=method,
        training=training,
        threads=threads,
    )


def _method(kind: str) -> "Method":
    """With its own defaults."""
    from pydantic import TypeAdapter

    from services.trainer.engine.methods import Method

    adapter: TypeAdapter[Method] = TypeAdapter(Method)
    return adapter.validate_json(json.dumps({"kind": kind}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
