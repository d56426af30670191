"""The `anneal` command against the scripted services: what it prints, and how it exits."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from anneal.abtest.v1.experiment_pb2 import Pair
from anneal.cli.root import NOUNS, run
from anneal.common.v1.conversation_pb2 import ROLE_ASSISTANT, ROLE_USER, ChatMessage
from anneal.dataset.v1.dataset_pb2 import (
    SOURCE_FORMAT_ALPACA,
    SOURCE_FORMAT_PROMPT_COMPLETION,
    Dataset,
    DatasetFormat,
    Example,
    LineFault,
)
from anneal.trainer.v1.tuning_job_pb2 import TuningJob
from tests.contract.anneal.scripted import VERSION_ID, World, bad_request, chat_lines, status

pytestmark = pytest.mark.usefixtures("environment")

Captured = pytest.CaptureFixture[str]


def out_of(capsys: Captured) -> str:
    return capsys.readouterr().out


def json_of(capsys: Captured) -> Any:
    return json.loads(out_of(capsys))


def json_lines_of(capsys: Captured) -> list[Any]:
    return [json.loads(line) for line in out_of(capsys).splitlines()]


def test_push_takes_the_name_from_the_file(world: World, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "GSM8K Train.jsonl"
    file.write_bytes(chat_lines(3))
    assert run(["dataset", "push", str(file)]) == 0
    assert world.uploads[0][0].parent == "projects/default/datasets/gsm8k-train"
    assert out_of(capsys).startswith(f"gsm8k-train/{VERSION_ID}: 3 examples")


def test_push_only_to_validate(world: World, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "s.jsonl"
    file.write_bytes(chat_lines(3))
    fields = ["--prompt-field", "question", "--completion-field", "answer"]
    assert run(["dataset", "push", str(file), *fields, "--validate-only", "-o", "json"]) == 0
    assert json_of(capsys)["example_count"] == "3"
    header = world.uploads[0][0]
    assert header.validate_only
    assert (header.prompt_field, header.completion_field) == ("question", "answer")


def renamed() -> DatasetFormat:
    columns = {"prompt": "question", "completion": "answer"}
    return DatasetFormat(
        format=SOURCE_FORMAT_PROMPT_COMPLETION,
        columns=columns,
        dropped_columns=["id"],
        row_count=100,
        readable_count=99,
        faults=[LineFault(line=3, code="EMPTY", pointer="/answer", message="must not be empty")],
    )


def test_push_shows_what_was_found_and_takes_it(
    world: World, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "table.jsonl"
    file.write_bytes(chat_lines(3))
    world.detected = renamed()
    assert run(["dataset", "push", str(file), "--yes"]) == 0
    header = world.uploads[0][0]
    assert header.format == SOURCE_FORMAT_PROMPT_COMPLETION
    assert dict(header.columns) == dict(world.detected.columns)
    assert capsys.readouterr().err.splitlines() == [
        "line 3 at /answer: EMPTY, must not be empty",
        "format: prompt-completion (99 of the first 100 rows can be read so)",
        "  completion ← column answer",
        "  prompt ← column question",
        "  dropped: id",
    ]
    (request,) = world.requests("DetectDatasetFormat")
    assert (request.head, request.complete) == (chat_lines(3), True)


def test_push_asks_before_it_drops_a_column(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.jsonl"
    file.write_bytes(chat_lines(3))
    world.detected = renamed()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run(["dataset", "push", str(file)]) != 0
    assert not world.uploads
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(["dataset", "push", str(file)]) == 0


def test_push_drops_no_column_that_says_what_rows_mean(
    world: World, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / "table.jsonl"
    file.write_bytes(chat_lines(3))
    world.detected = renamed()
    world.detected.dropped_columns.append("label")
    assert run(["dataset", "push", str(file), "--yes"]) == 2
    assert "without label the rows may say something else" in capsys.readouterr().err
    assert not world.uploads


def test_push_reads_a_file_as_it_is_told(world: World, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "table.jsonl"
    file.write_bytes(chat_lines(3))
    options = ["--format", "alpaca", "--column", "output=answer", "--column", "input=about"]
    assert run(["dataset", "push", str(file), *options]) == 0
    header = world.uploads[0][0]
    assert header.format == SOURCE_FORMAT_ALPACA
    assert dict(header.columns) == {"output": "answer", "input": "about"}
    assert not world.requests("DetectDatasetFormat")
    assert run(["dataset", "push", str(file), "--format", "csv"]) == 2
    assert "formats are chat, prompt-completion, text, alpaca, sharegpt" in capsys.readouterr().err
    assert run(["dataset", "push", str(file), "--column", "answer"]) == 2
    assert len(world.uploads) == 1


def test_push_names_the_field_of_plain_texts(world: World, tmp_path: Path) -> None:
    file = tmp_path / "handbook.jsonl"
    file.write_bytes(b'{"body": "All parcels are blue."}\n')
    assert run(["dataset", "push", str(file), "--text-field", "body"]) == 0
    assert world.uploads[0][0].text_field == "body"


def test_a_preview_shows_conversations_and_plain_texts(world: World, capsys: Captured) -> None:
    assert run(["dataset", "preview", "support", "-n", "1"]) == 0
    assert out_of(capsys) == "#0\n  user: question 0\n"
    world.examples = [Example(index=0, text="All parcels\nare blue.")]
    assert run(["dataset", "preview", "handbook"]) == 0
    assert out_of(capsys) == "#0\n  text: All parcels\nare blue.\n"


def test_a_preview_tells_how_much_an_answer_is_learnt(world: World, capsys: Captured) -> None:
    said: list[dict[str, Any]] = [
        {"content": "a", "train": True},
        {"content": "b", "train": False},
        {"content": "c", "train": True, "weight": 0.25},
    ]
    answers = [ChatMessage(role=ROLE_ASSISTANT, **turn) for turn in said]
    world.examples = [Example(index=0, messages=answers)]
    assert run(["dataset", "preview", "support"]) == 0
    shown = ["assistant: a", "assistant (not learnt): b", "assistant (weight 0.25): c"]
    assert out_of(capsys).splitlines() == ["#0", *(f"  {line}" for line in shown)]


def test_a_refused_push_shows_every_bad_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b"{}\noops\n" * 101)
    assert run(["dataset", "push", str(file)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "error: nothing was stored: 101 faults in 202 lines (UPLOAD_REJECTED)"
    assert err[1].split() == ["line", "code", "pointer", "message"]
    assert err[2].split() == ["2", "NOT_JSON", "-", "this", "is", "no", "JSON"]
    assert err[-1] == "  … and 1 more"


def test_a_list_is_tab_separated_in_a_pipe_and_an_array_for_programs(
    world: World, capsys: Captured
) -> None:
    world.datasets = [Dataset(name=f"projects/default/datasets/d{n}") for n in range(3)]
    assert run(["dataset", "list"]) == 0
    assert [line.split("\t")[0] for line in out_of(capsys).splitlines()] == ["d0", "d1", "d2"]
    assert run(["dataset", "list", "-o", "json"]) == 0
    assert [one["version_count"] for one in json_of(capsys)] == [0, 0, 0]


def test_names_of_other_projects_stay_whole(world: World, capsys: Captured) -> None:
    world.datasets = [Dataset(name="projects/other/datasets/d")]
    assert run(["dataset", "show", "projects/other/datasets/d"]) == 0
    assert "projects/other/datasets/d" in out_of(capsys)
    assert run(["--project", "other", "dataset", "show", "d"]) == 0
    assert "projects/other" not in out_of(capsys)


def test_what_is_not_there_exits_3(capsys: Captured) -> None:
    assert run(["dataset", "show", "nope"]) == 3
    assert capsys.readouterr().err == (
        "error: there is no projects/default/datasets/nope (NOT_HERE)\n"
    )


def test_refused_values_exit_2_and_all_are_shown(world: World, capsys: Captured) -> None:
    world.refuse["CreateTuningJob"] = lambda: bad_request(
        ("tuning_job.lora.rank", "is above 512", "OUT_OF_RANGE"), ("seed", "is odd", "")
    )
    assert run(["job", "create", "--dataset", "d", "--base", "b", "--rank", "999"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  tuning_job.lora.rank: is above 512 (OUT_OF_RANGE)",
        "  seed: is odd",
    ]


def test_one_violation_is_said_once(world: World, capsys: Captured) -> None:
    world.refuse["CreateTuningJob"] = lambda: bad_request(("seed", "is odd", "ODD"))
    assert run(["job", "create", "--dataset", "d", "--base", "b"]) == 2
    assert capsys.readouterr().err == "error: seed: is odd (ODD)\n"


def test_lines_of_a_value_stay_in_its_column(world: World, capsys: Captured) -> None:
    world.job.error.message = "the engine was killed\nlast lines:\nout of memory"
    assert run(["job", "show", "job-1"]) == 0
    first, second, third = out_of(capsys).splitlines()[2:5]
    place = first.index("the engine")
    assert first[:place].strip() == "error"
    assert (second, third) == (" " * place + "last lines:", " " * place + "out of memory")


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, 4),
        (grpc.StatusCode.PERMISSION_DENIED, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 5),
        (grpc.StatusCode.ABORTED, 1),
        (grpc.StatusCode.INTERNAL, 1),
    ],
)
def test_exit_codes(world: World, code: grpc.StatusCode, exit_code: int) -> None:
    world.refuse["GetTuningJob"] = lambda: status(code, "WHY", "why")
    assert run(["job", "show", "job-1"]) == exit_code


def test_nobody_there_exits_5_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("ANNEAL_TRAINER_ADDRESS", "127.0.0.1:1")
    assert run(["job", "list"]) == 5
    err = capsys.readouterr().err
    assert "nothing answers at 127.0.0.1:1" in err
    assert "anneal up" in err


def test_wrong_arguments_exit_2(capsys: Captured) -> None:
    assert run(["job", "create"]) == 2
    assert run(["nonsense"]) == 2
    assert run(["job", "create", "--dataset", "d", "--base", "b", "--label", "x"]) == 2
    assert "'x' is not key=value" in capsys.readouterr().err


def test_job_options_arrive_and_what_is_left_out_is_unset(world: World) -> None:
    options = (
        "--method lora --rank 4 --alpha 8 --dropout 0.2 --learning-rate 0.001 --max-steps 9 "
        "--epochs 2 --batch-size 3 --seed 7 --label a=1 --label b=2 --schedule linear --name mine"
    )
    assert run(["job", "create", "--dataset", "d", "--base", "b", *options.split()]) == 0
    (request,) = world.requests("CreateTuningJob")
    job = request.tuning_job
    assert (job.lora.rank, job.lora.alpha, job.lora.dropout) == (4, 8, 0.2)
    assert (job.training.max_steps, job.training.epochs, job.training.batch_size) == (9, 2, 3)
    assert (job.seed, dict(job.labels)) == (7, {"a": "1", "b": "2"})
    assert request.tuning_job_id == "mine"
    assert not job.training.HasField("weight_decay")


def test_a_watch_in_a_pipe_is_lines(world: World, capsys: Captured) -> None:
    assert run(["job", "watch", "job-1"]) == 0
    lines = out_of(capsys).splitlines()
    assert lines[0].startswith("step 9/9")  # steps of one second: the last alone
    assert lines[1] == "SUCCEEDED"
    assert lines[2] == f"job-1 SUCCEEDED: support/{VERSION_ID}"


def test_a_watch_for_programs_is_an_event_a_line(capsys: Captured) -> None:
    assert run(["job", "watch", "job-1", "--after-sequence", "7", "-o", "json"]) == 0
    lines = json_lines_of(capsys)
    assert [line["sequence"] for line in lines] == ["8", "9", "10"]
    assert lines[-1]["state_change"]["to"] == "STATE_SUCCEEDED"


def test_a_watched_job_that_fails_exits_6(world: World, capsys: Captured) -> None:
    world.job.state = TuningJob.STATE_FAILED
    world.job.error.message = "out of memory"
    command = ["job", "create", "--dataset", "d", "--base", "b", "--name", "job-1", "--watch"]
    assert run(command) == 6
    assert out_of(capsys).splitlines()[-1] == "job-1 FAILED: out of memory"


def test_model_download_and_alias(world: World, tmp_path: Path, capsys: Captured) -> None:
    assert run(["model", "download", "support", str(tmp_path / "m")]) == 0
    assert (tmp_path / "m" / "adapter_config.json").read_bytes() == b'{"r": 8}'
    assert run(["model", "alias", "support", "champion"]) == 0
    assert out_of(capsys).splitlines()[1] == f"support@champion is support/{VERSION_ID}"
    assert run(["model", "alias", "list", "support", "-o", "json"]) == 0
    assert json_of(capsys)[0]["name"] == "projects/default/models/support/aliases/champion"
    assert run(["model", "show", "support@champion"]) == 0
    assert out_of(capsys)
    assert run(["model", "alias", "delete", "support", "champion", "-o", "json"]) == 0
    assert json_of(capsys) == {"deleted": "support@champion"}


def test_chat_with_one_message(world: World, capsys: Captured) -> None:
    assert run(["chat", "support@champion", "-m", "is it late", "--temperature", "0.5"]) == 0
    assert out_of(capsys) == "late it is \n"
    (request,) = world.requests("StreamGenerateText")
    assert request.sampling.temperature == 0.5
    assert not request.sampling.HasField("top_p")


def test_a_conversation_keeps_its_history_until_reset(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["one", "two", "/reset", "three"])

    def next_line(_prompt: str = "") -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", next_line)
    assert run(["chat", "tiny-base", "--system", "Be kind."]) == 0
    turns = [
        [turn.content for turn in request.messages]
        for request in world.requests("StreamGenerateText")
    ]
    assert turns == [
        ["Be kind.", "one"],
        ["Be kind.", "one", "one ", "two"],
        ["Be kind.", "three"],
    ]


def test_abtest_create_drops_the_answers(world: World, tmp_path: Path, capsys: Captured) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        "\nplain words\n"
    )
    arms = ["--baseline", "tiny-base", "--candidate", "support@champion"]
    assert run(["abtest", "create", *arms, "--prompts", str(prompts)]) == 0
    (request,) = world.requests("CreateExperiment")
    contents = [[t.content for t in prompt.messages] for prompt in request.experiment.prompts]
    assert contents == [["a"], ["plain words"]]
    prompts.write_text('fine\n{"messages": 3}\n')
    assert run(["abtest", "create", *arms, "--prompts", str(prompts)]) == 2
    assert "line 2" in capsys.readouterr().err


def test_plain_texts_are_no_prompts_of_an_abtest(
    world: World, tmp_path: Path, capsys: Captured
) -> None:
    prompts = tmp_path / "handbook.jsonl"
    prompts.write_text('{"text": "All parcels are blue."}\n')
    arms = ["--baseline", "tiny-base", "--candidate", "support@champion"]
    assert run(["abtest", "create", *arms, "--prompts", str(prompts)]) == 2
    said = " ".join(capsys.readouterr().err.replace("│", "").split())
    assert "a plain text asks nothing" in said
    assert world.requests("CreateExperiment") == []


def test_voting_with_lines(world: World, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    keys = iter(["left", "nonsense", "tie", "q"])
    monkeypatch.setattr("anneal.cli.abtest.read_key", lambda: next(keys))
    question = [ChatMessage(role=ROLE_USER, content="why?")]
    world.pairs = [
        Pair(name=f"projects/default/experiments/e/pairs/{n}", messages=question, left_text="L")
        for n in "abc"
    ]
    assert run(["abtest", "vote", "e", "--voter", "me"]) == 0
    assert [(vote.voter, vote.choice) for vote in world.votes] == [("me", 1), ("me", 3)]
    shown = out_of(capsys)
    assert f"left: left was tiny-base, right was support/{VERSION_ID}" in shown
    assert shown.index("why?") < shown.index("left was tiny-base")


def test_report(capsys: Captured) -> None:
    assert run(["abtest", "report", "e"]) == 0
    shown = out_of(capsys)
    assert "67.5% of 20 votes" in shown
    assert "45.0% to 86.0% (95%, hedged_betting)" in shown
    assert "nothing is proven yet" in shown


def test_doctor_tells_what_is_wrong_in_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    assert run(["doctor", "--remote"]) == 0
    assert all(line.startswith("ok ") for line in out_of(capsys).splitlines())
    monkeypatch.setenv("ANNEAL_ABTEST_ADDRESS", "127.0.0.1:1")
    assert run(["doctor", "--remote", "-o", "json"]) == 1
    bad = [finding["name"] for finding in json_of(capsys) if not finding["is_good"]]
    assert bad == ["abtest"]


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anneal.jobs.Jobs.watch", interrupted)
    assert run(["job", "watch", "job-1"]) == 130
    assert "the job goes on" in out_of(capsys)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_command_has_help(noun: str, capsys: Captured) -> None:
    assert run([noun, "--help"]) == 0
    assert "Usage: anneal" in out_of(capsys)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from anneal.cli.root import run\n"
        "run(['--help'])\n"
        "print(*sorted({'grpc', 'google.protobuf', 'asyncio', 'torch'} & set(sys.modules)),"
        " file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""
