"""Continued pretraining: plain texts, from the dataset file to the result."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaForCausalLM

from services.chat.encoder import ChatEncoder
from services.chat.text import TextEncoder
from services.trainer.engine.batches import packed, padded
from services.trainer.engine.errors import CheckpointRefused, InvalidData, InvalidJob
from services.trainer.engine.events import Event, Finished, Sampled, Started, StepDone
from services.trainer.engine.examples import Examples, encoder_for, load_examples
from services.trainer.engine.job import Job
from services.trainer.engine.loader import count_labels
from services.trainer.engine.loss import label_logits, summed_loss
from services.trainer.engine.methods import Lora
from services.trainer.engine.samples import prompt_and_answer
from tests.unit.engine.families import save_base_model

MakeJob = Callable[..., Job]
RunHere = Callable[[Job], list[Event]]
CPU = torch.device("cpu")
EOS = 1


def handbook(count: int) -> list[str]:
    """Documents of one to nine sentences."""
    return [
        f"Chapter {i}. " + "Red follows green and green follows blue. " * (1 + i * i % 9)
        for i in range(count)
    ]


@pytest.fixture
def write_texts(tmp_path: Path) -> Callable[[Sequence[Any]], Path]:
    """Writes plain texts as the dataset service does; returns the file."""

    def write(texts: Sequence[Any]) -> Path:
        path = tmp_path / "texts.parquet"
        pq.write_table(pa.table({"text": texts}), path)
        return path

    return write


@pytest.fixture
def make_text_job(
    make_job: MakeJob, write_texts: Callable[[Sequence[Any]], Path], without_template: Path
) -> MakeJob:
    """A job on 30 documents of up to some hundred tokens, in pieces of at most 32, on a base model
    without a chat template."""
    dataset_file = write_texts(handbook(30))

    def make(training: dict[str, Any] | None = None, **fields: Any) -> Job:
        fields = {"dataset_file": dataset_file, "base_model_dir": without_template, **fields}
        return make_job({"max_sequence_tokens": 32, **(training or {})}, **fields)

    return make


@pytest.fixture
def without_template(base_model: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "pretrained"
    shutil.copytree(base_model, directory)
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def load(job: Job, max_tokens: int = 32) -> Examples:
    encoder = encoder_for(job.dataset_file, job.base_model_dir)
    return load_examples(job.dataset_file, encoder, max_tokens, job.training, job.seed)


def test_no_token_of_a_document_is_lost_and_each_is_learnt_once(make_text_job: MakeJob) -> None:
    job = make_text_job({"long_examples": "drop"})
    pieces, whole = load(job), load(job, max_tokens=100_000)

    assert len(whole.training) + len(whole.validation) == 30
    assert (pieces.skipped, pieces.truncated, pieces.dropped) == (0, 0, 0)
    for document in (*whole.training, *whole.validation):
        own = [p for p in (*pieces.training, *pieces.validation) if p.row == document.row]
        ids = own[0].token_ids[:1].tolist()
        for piece in own:
            assert 2 <= len(piece) <= 32
            assert piece.token_ids[0] == ids[-1]
            ids += piece.token_ids[1:].tolist()
        assert ids == document.token_ids.tolist()
        assert ids[-1] == EOS
        assert sum(map(count_labels, own)) == len(document) - 1


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_of_a_document_stand_on_one_side_of_the_split(
    make_text_job: MakeJob, seed: int
) -> None:
    examples = load(make_text_job({"validation_fraction": 0.2}, seed=seed))
    learnt, held_out = ({e.row for e in side} for side in (examples.training, examples.validation))

    assert len(held_out) == 6
    assert learnt | held_out == set(range(30))
    assert not learnt & held_out


def test_the_turns_of_a_conversation_stand_on_one_side_too(
    make_job: MakeJob,
    write_dataset: Callable[[Sequence[Any]], Path],
    base_model: Path,
    tmp_path: Path,
) -> None:
    """An encoder–decoder makes an example of each answer."""
    turns = [
        {"role": "user", "content": "Red?", "train": False},
        {"role": "assistant", "content": "Blue.", "train": True},
    ]
    job = make_job(
        {"validation_fraction": 0.3},
        base_model_dir=save_base_model("t5", tmp_path / "t5", base_model),
        dataset_file=write_dataset([turns * 4] * 10),
    )
    examples = load(job, max_tokens=512)

    assert (len(examples.training), len(examples.validation)) == (28, 12)
    assert not {e.row for e in examples.training} & {e.row for e in examples.validation}


def test_a_checkpoint_belongs_to_the_texts_and_to_the_length_of_their_pieces(
    make_text_job: MakeJob,
    run_here: RunHere,
    write_texts: Callable[[Sequence[Any]], Path],
    tmp_path: Path,
) -> None:
    first = make_text_job({"max_steps": 3})
    run_here(first)
    checkpoint = first.checkpoints_dir / "step-00000003"

    shorter = make_text_job(
        {"max_steps": 3, "max_sequence_tokens": 31},
        work_dir=tmp_path / "shorter",
        resume_from=checkpoint,
    )
    with pytest.raises(CheckpointRefused, match="another settings, dataset, plan"):
        run_here(shorter)
    other = make_text_job(
        {"max_steps": 3},
        dataset_file=write_texts([*handbook(29), "Another end."]),
        work_dir=tmp_path / "other",
        resume_from=checkpoint,
    )
    with pytest.raises(CheckpointRefused, match="another dataset"):
        run_here(other)


def test_the_loss_falls_on_a_base_model_without_a_chat_template(
    make_text_job: MakeJob, run_here: RunHere
) -> None:
    events = run_here(make_text_job({"max_steps": 60, "sample_count": 1, "sample_max_tokens": 8}))
    started, finished = events[0], events[-1]
    steps = [event for event in events if isinstance(event, StepDone)]
    (sample,) = [event for event in events if isinstance(event, Sampled)][-1].samples

    assert isinstance(started, Started)
    assert started.training_examples > 27
    assert steps[0].loss > 5.0
    assert isinstance(finished, Finished)
    assert finished.validation_loss is not None
    assert finished.validation_loss < 2.0
    assert sample.prompt.startswith("Chapter ")
    assert sample.prompt + sample.expected in "".join(handbook(30))
    assert sample.output


def test_a_resumed_run_on_texts_gives_the_same_bytes(
    make_text_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    whole = make_text_job({"batch_tokens": 128, "packing": True}, work_dir=tmp_path / "whole")
    run_here(whole)
    resumed = make_text_job(
        {"batch_tokens": 128, "packing": True},
        work_dir=tmp_path / "resumed",
        resume_from=whole.checkpoints_dir / "step-00000006",
    )
    run_here(resumed)

    written = [job.artifacts_dir / "adapter_model.safetensors" for job in (whole, resumed)]
    assert written[0].read_bytes() == written[1].read_bytes()


def losses(events: list[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepDone)]


def test_packed_and_padded_runs_on_texts_have_the_same_losses(
    make_text_job: MakeJob, run_here: RunHere, tmp_path: Path
) -> None:
    by_count = {"max_steps": 4}
    by_tokens = {"max_steps": 4, "batch_tokens": 160, "micro_batch_tokens": 64}
    for number, training in enumerate((by_count, by_tokens)):
        told = [
            losses(
                run_here(
                    make_text_job(
                        {**training, "packing": packing},
                        work_dir=tmp_path / f"{number}-{packing}",
                        method=Lora(rank=4, alpha=8.0, dropout=0.0),
                    )
                )
            )
            for packing in (False, True)
        ]
        assert told[0] == pytest.approx(told[1], rel=1e-4)


def test_the_loss_of_texts_is_that_of_transformers(make_text_job: MakeJob) -> None:
    """Of whole documents: transformers predicts all tokens but the first."""
    job = make_text_job({"validation_fraction": 0.0})
    model = LlamaForCausalLM.from_pretrained(job.base_model_dir)
    documents = load(job, max_tokens=512).training[:4]
    theirs = [
        model(input_ids=ids, labels=ids).loss * (ids.shape[1] - 1)
        for ids in (torch.tensor([d.token_ids.tolist()]) for d in documents)
    ]
    for layout in (padded, packed):
        batch = layout(documents, CPU)
        loss = summed_loss(label_logits(model, model.lm_head, batch), batch.targets)
        torch.testing.assert_close(loss, torch.stack(theirs).sum())


def test_a_sample_goes_on_from_the_first_half_of_a_piece(make_text_job: MakeJob) -> None:
    job = make_text_job()
    short, long = load(job).validation[0], max(load(job, 100_000).validation, key=len)

    prompt, expected = prompt_and_answer(short)
    assert prompt + expected == short.token_ids.tolist()
    assert len(prompt) == len(short) // 2
    prompt, expected = prompt_and_answer(long)
    assert prompt + expected == long.token_ids.tolist()
    assert len(prompt) == 64


def test_a_sample_ends_where_the_models_positions_do(
    make_text_job: MakeJob, run_here: RunHere, without_template: Path, tmp_path: Path
) -> None:
    """Beyond its 512 positions GPT-2 has nothing to add."""
    training = {"max_steps": 1, "sample_count": 1, "sample_max_tokens": 512}
    base = save_base_model("gpt2", tmp_path / "gpt2", without_template)
    events = run_here(make_text_job(training, base_model_dir=base))
    assert [event.samples[0].output for event in events if isinstance(event, Sampled)]


def test_an_encoder_decoder_refuses_texts(
    make_text_job: MakeJob, run_here: RunHere, base_model: Path, tmp_path: Path
) -> None:
    base = save_base_model("t5", tmp_path / "t5", base_model)
    with pytest.raises(InvalidData, match="plain texts, and the base model is an encoder–decoder"):
        run_here(make_text_job(base_model_dir=base))


def test_a_tokenizer_without_an_end_of_sequence_is_refused(
    make_text_job: MakeJob, run_here: RunHere, without_template: Path
) -> None:
    (without_template / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InvalidJob, match="names no end-of-sequence token"):
        run_here(make_text_job())


def test_the_file_says_whether_it_holds_texts_or_conversations(
    make_job: MakeJob, make_text_job: MakeJob
) -> None:
    texts, chats = make_text_job(), make_job()

    assert isinstance(encoder_for(texts.dataset_file, texts.base_model_dir), TextEncoder)
    assert isinstance(encoder_for(chats.dataset_file, chats.base_model_dir), ChatEncoder)
    with pytest.raises(InvalidJob, match="no chat template"):
        encoder_for(chats.dataset_file, texts.base_model_dir)


@pytest.mark.parametrize("texts", [[1, 2], ["Red.", None]])
def test_a_row_that_is_no_text_is_refused(
    texts: list[Any], make_text_job: MakeJob, write_texts: Callable[[Sequence[Any]], Path]
) -> None:
    with pytest.raises(InvalidData, match="text must be a string"):
        load(make_text_job(dataset_file=write_texts(texts)))


def test_texts_without_a_token_are_counted_and_left_out(
    make_text_job: MakeJob, write_texts: Callable[[Sequence[Any]], Path]
) -> None:
    examples = load(make_text_job(dataset_file=write_texts(["", "Red.", "", "Blue."])))

    assert examples.skipped == 2
    assert {e.row for e in (*examples.training, *examples.validation)} == {1, 3}
    with pytest.raises(InvalidData, match="none of the 1 examples"):
        load(make_text_job(dataset_file=write_texts([""])))


def test_one_document_is_all_learnt(
    make_text_job: MakeJob, write_texts: Callable[[Sequence[Any]], Path]
) -> None:
    examples = load(make_text_job(dataset_file=write_texts([handbook(9)[8]])))

    assert len(examples.training) > 1
    assert examples.validation == ()
