"""From labeled examples to a judged model, with the command and real services."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anneal import Platform
from anneal.cli.exits import Exit
from tests.conftest import NO_IDLE_WORK

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 30
SETTINGS = (
    *("--max-steps", str(STEPS), "--batch-size", "4", "--learning-rate", "0.005"),
    *("--max-sequence-tokens", "128", "--evaluate-every", "15", "--checkpoint-every", "10"),
    *("--rank", "4", "--seed", "7"),
)
PROMPTS = ("Where is my parcel?", "Can I pay by invoice?", "Do you ship abroad?")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    directory = tmp_path_factory.mktemp("platform")
    with Platform(directory, ephemeral=True, environment=os.environ | NO_IDLE_WORK) as platform:
        yield platform


@pytest.fixture(scope="module")
def anneal(platform: Platform) -> Command:
    """Runs `anneal …`, as a shell on the same machine would."""
    data_dir = str(platform.data_dir.path)

    def command(*arguments: str, stdin: str = "") -> Ended:
        argv = (sys.executable, "-m", "anneal.cli", "--data-dir", data_dir, *arguments)
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=240)
        return Ended(done.returncode, done.stdout, done.stderr)

    return command


def good(ended: Ended) -> Ended:
    assert ended.code == Exit.OK, ended
    return ended


@pytest.fixture(scope="module")
def dataset(anneal: Command) -> str:
    """The support desk's examples, uploaded; the version's full name."""
    pushed = good(anneal("dataset", "push", str(EXAMPLES / "support.jsonl"), "-o", "json")).json
    lines = (EXAMPLES / "support.jsonl").read_text().splitlines()
    assert int(pushed["example_count"]) == len(lines)
    return str(pushed["name"])


@pytest.fixture(scope="module")
def champion(anneal: Command, dataset: str) -> str:
    """The version that a watched job made, with the alias `champion`; its full name."""
    job = ("job", "create", "--dataset", "support", "--base", "tiny-base", "--name", "first")
    watched = good(anneal(*job, *SETTINGS, "--watch", "-o", "json")).json_lines
    steps = [line["step"]["step"] for line in watched if "step" in line]
    assert steps == list(range(1, STEPS + 1))
    ended = good(anneal("job", "show", "first", "-o", "json")).json
    assert (ended["state"], ended["dataset_version"]) == ("STATE_SUCCEEDED", dataset)
    good(anneal("model", "alias", "support", "champion"))
    return str(ended["model_version"])


def test_a_version_knows_where_it_comes_from(anneal: Command, champion: str, dataset: str) -> None:
    shown = good(anneal("model", "show", "support@champion", "-o", "json")).json
    assert shown["name"] == champion
    lineage = shown["lineage"]
    assert lineage["tuning_job"] == "projects/default/tuningJobs/first"
    assert lineage["dataset_version"] == dataset
    assert lineage["base_model"] == "baseModels/tiny-base"
    assert shown["metrics"]["steps"] == STEPS
    (model,) = good(anneal("model", "list", "-o", "json")).json
    assert model["name"] == "projects/default/models/support"


def test_a_version_can_be_taken_home(anneal: Command, champion: str, tmp_path: Path) -> None:
    good(anneal("model", "download", "support@champion", str(tmp_path / "adapter")))
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert written == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.usefixtures("champion")
def test_base_and_tuned_model_answer(anneal: Command) -> None:
    limits = ("--max-output-tokens", "16", "-m", PROMPTS[0])
    answers = [good(anneal("chat", one, *limits)).out for one in ("tiny-base", "support@champion")]
    assert all(answer.strip() for answer in answers)
    assert good(anneal("chat", "support@champion", *limits)).out == answers[1]


def test_a_blind_test_is_voted_and_reported(anneal: Command, champion: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    models = ("--baseline", "tiny-base", "--candidate", "support@champion")
    create = ("abtest", "create", *models, "--prompts", str(file), "--name", "first")
    good(anneal(*create, "--max-output-tokens", "16", "--wait"))
    vote = ("abtest", "vote", "first", "--voter", "ann", "-o", "json")
    voted = good(anneal(*vote, stdin="left\ntie\nb\n")).json_lines
    votes = [line for line in voted if "choice" in line]
    assert {vote["left_model"] for vote in votes} <= {"baseModels/tiny-base", champion}
    report = good(anneal("abtest", "report", "first", "-o", "json")).json
    counts = {key: int(report.get(key, 0)) for key in ("wins", "losses", "ties", "both_bad")}
    assert counts["wins"] + counts["losses"] == 1
    assert (counts["ties"], counts["both_bad"]) == (1, 1)


def test_a_bad_file_is_refused_line_by_line_and_leaves_nothing(
    anneal: Command, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"messages": []}\nno json\n{"messages": [{"role": "king", "content": "x"}]}\n')
    refused = anneal("dataset", "push", str(file))
    assert refused.code == Exit.USAGE
    assert "nothing was stored: " in refused.err
    seen_at_once, _, heading, *faults = refused.err.splitlines()
    assert seen_at_once.startswith("line 1 at /messages: EMPTY")
    assert heading.split()[0] == "line"
    assert [line.split()[0] for line in faults][:3] == ["1", "2", "3"]
    assert anneal("dataset", "show", "bad").code == Exit.NOT_FOUND


def test_a_job_that_can_not_be_is_refused_with_every_reason(anneal: Command) -> None:
    job = ("job", "create", "--dataset", "nothing", "--base", "nobody")
    refused = anneal(*job, "--learning-rate", "7", "--rank", "0")
    assert refused.code == Exit.USAGE
    fields = {line.split(":")[0].strip() for line in refused.err.splitlines()[1:]}
    assert fields == {
        "tuning_job.base_model",
        "tuning_job.dataset_version",
        "tuning_job.lora.rank",
        "tuning_job.training.learning_rate",
    }


def test_a_job_that_learns_nothing_fails_and_says_why(anneal: Command, tmp_path: Path) -> None:
    question = {"role": "user", "content": "a question longer than what is read of it"}
    example = {"messages": [question, {"role": "assistant", "content": "yes"}]}
    (tmp_path / "long.jsonl").write_text(json.dumps(example))
    good(anneal("dataset", "push", str(tmp_path / "long.jsonl")))
    job = ("job", "create", "--dataset", "long", "--base", "tiny-base", "--name", "hopeless")
    ended = anneal(*job, "--max-sequence-tokens", "8", "--watch")
    assert ended.code == Exit.JOB_NOT_SUCCEEDED
    shown = good(anneal("job", "show", "hopeless", "-o", "json")).json
    assert shown["state"] == "STATE_FAILED"
    assert "has a token to learn from" in shown["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "show", "nobody"),
        ("job", "cancel", "nobody"),
        ("model", "show", "nobody@champion"),
        ("dataset", "preview", "nobody"),
        ("abtest", "report", "nobody"),
        ("chat", "nobody@latest", "-m", "hello"),
    ],
)
def test_what_is_not_there_is_not_found(anneal: Command, arguments: tuple[str, ...]) -> None:
    ended = anneal(*arguments)
    assert ended.code == Exit.NOT_FOUND
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("job", "list", "--filter", "colour = red"),
        ("job", "show", "No Name"),
        ("job", "watch", "first", "--after-sequence", "-1"),
        ("chat", "tiny-base", "-m", "hello", "--temperature", "-1"),
    ],
)
def test_what_makes_no_sense_is_said_so(anneal: Command, arguments: tuple[str, ...]) -> None:
    ended = anneal(*arguments)
    assert ended.code == Exit.USAGE
    assert "Traceback" not in ended.err
