"""What all sides train on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from benchmarks.training.conversations import LONGEST, SHORTEST, exchanges
from benchmarks.training.encoded import EncodedExample, read_encoded, write_encoded
from benchmarks.training.ours import PRECISIONS, check_engine_reads_the_same, write_job
from benchmarks.training.sizes import Size
from benchmarks.training.workload import Workload
from services.trainer.engine.job import read_job

ONE_CORE: dict[str, Any] = {"cores": 1, "learning_rate": 1e-3, "seed": 0}


def test_the_same_seed_gives_the_same_exchanges_and_more_of_them_begin_alike() -> None:
    assert exchanges(20) == exchanges(30)[:20]
    assert exchanges(20) != exchanges(20, seed=1)


def test_examples_have_the_lengths_of_chat_data_and_most_of_them_is_answer(
    workload: Workload,
) -> None:
    examples = read_encoded(workload.encoded_file)
    lengths = [len(example.input_ids) for example in examples]
    assert SHORTEST <= min(lengths) < max(lengths) <= LONGEST
    assert len(examples) == workload.examples == 64
    assert sum(lengths) == workload.tokens
    assert 80 < workload.tokens / workload.examples < 150
    assert 0.5 < workload.labels / workload.tokens < 0.65
    assert workload.mean_context < LONGEST / 2


def test_the_engine_reads_the_tokens_and_labels_that_the_others_are_given(
    workload: Workload, tiny: Size, tmp_path: Path
) -> None:
    job_file = write_job(workload, tiny, "anneal", tmp_path, **ONE_CORE)
    check_engine_reads_the_same(workload, job_file)


def test_a_difference_between_what_the_sides_read_is_refused(
    workload: Workload, tiny: Size, tmp_path: Path
) -> None:
    examples = read_encoded(workload.encoded_file)
    first = examples[0]
    changed = replace(first, labels=[*first.labels[:-1], first.labels[-1] + 1])
    (tmp_path / "encoded.jsonl").write_bytes(b"")
    elsewhere = replace(workload, directory=tmp_path)
    write_encoded(elsewhere.encoded_file, [changed, *examples[1:]])
    job_file = write_job(workload, tiny, "anneal", tmp_path, **ONE_CORE)
    with pytest.raises(ValueError, match="other tokens or labels"):
        check_engine_reads_the_same(elsewhere, job_file)


def test_transformers_finds_the_same_tokens_and_labels_by_the_chat_template(
    workload: Workload, tiny: Size
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workload.base_model(tiny))
    theirs = []
    for exchange in exchanges(64):
        messages = [
            {"role": "user", "content": exchange.prompt},
            {"role": "assistant", "content": exchange.answer},
        ]
        encoded = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        theirs.append(EncodedExample.of(encoded["input_ids"], encoded["assistant_masks"]))
    assert theirs == read_encoded(workload.encoded_file)


@pytest.mark.parametrize("variant", PRECISIONS)
def test_the_engine_accepts_our_job(
    workload: Workload, tiny: Size, tmp_path: Path, variant: str
) -> None:
    job = read_job(write_job(workload, tiny, variant, tmp_path, **ONE_CORE | {"cores": 2}))
    assert job.training.precision == PRECISIONS[variant]
    assert job.training.batch_size == tiny.examples_a_step
    assert job.threads * job.processes == 2


def test_encoded_examples_are_written_one_a_line_with_what_the_loss_leaves_out(
    tmp_path: Path,
) -> None:
    example = EncodedExample.of([7, 8, 9], [False, True, True])
    write_encoded(tmp_path / "encoded.jsonl", [example])
    line = json.loads((tmp_path / "encoded.jsonl").read_text())
    assert line == {"input_ids": [7, 8, 9], "labels": [-100, 8, 9]}
    assert read_encoded(tmp_path / "encoded.jsonl") == [example]
    assert example.label_count == 2
