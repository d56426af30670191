"""client.models, client.inference, client.experiments."""

from pathlib import Path

import pytest

from anneal.abtest.v1.experiment_pb2 import Experiment, Pair, Vote
from anneal.client import Client
from anneal.errors import DataLoss, DeadlineExceeded, NotFound
from anneal.registry.v1.model_pb2 import ModelAlias
from tests.contract.anneal.scripted import VERSION_ID, World

MODEL = "projects/default/models/support"
VERSION = f"{MODEL}/versions/{VERSION_ID}"


@pytest.fixture
def champion(world: World) -> None:
    name = f"{MODEL}/aliases/champion"
    world.aliases[name] = ModelAlias(name=name, version=VERSION, etag='"1"')


def test_a_download_is_a_directory_of_whole_files(
    client: Client, world: World, tmp_path: Path
) -> None:
    world.files["notes/empty.txt"] = b""
    came: list[tuple[int, int]] = []
    target = client.models.download(
        "support", tmp_path / "model", on_progress=lambda *progress: came.append(progress)
    )
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == world.files
    assert came[-1] == (31, 31)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_chosen_files_alone_are_downloaded(client: Client, tmp_path: Path) -> None:
    client.models.download("support", tmp_path / "model", paths=["adapter_config.json"])
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["adapter_config.json"]


@pytest.mark.parametrize(
    ("knob", "words"), [("damaged", "its sha256 is"), ("missing", "it is missing")]
)
def test_a_download_that_is_not_whole_leaves_nothing(
    client: Client, world: World, tmp_path: Path, knob: str, words: str
) -> None:
    setattr(world, knob, "adapter_model.safetensors")
    with pytest.raises(DataLoss, match=f"adapter_model.safetensors came damaged: {words}"):
        client.models.download("support", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_path_that_leads_outside_is_refused(
    client: Client, world: World, tmp_path: Path, path: str
) -> None:
    world.files = {path: b"evil"}
    with pytest.raises(DataLoss, match="leads out of the directory"):
        client.models.download("support", tmp_path / "in" / "model")
    assert not list(tmp_path.rglob("*evil*"))


def test_a_download_overwrites_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear to me")
    with pytest.raises(FileExistsError, match="is not an empty directory"):
        client.models.download("support", tmp_path)


def test_a_version_may_appear_a_moment_later(client: Client, world: World) -> None:
    world.hidden_for = 3
    assert client.models.wait_for_version(VERSION).name == VERSION
    world.hidden_for = 999
    with pytest.raises(NotFound):
        client.models.wait_for_version(VERSION, timeout_s=0.2)


@pytest.mark.usefixtures("champion")
def test_an_alias_stands_for_its_version(client: Client) -> None:
    assert client.models.version("support@champion").name == VERSION
    assert client.models.version(f"{MODEL}/aliases/champion").name == VERSION


def test_an_alias_moves_to_the_newest_version_or_to_the_one_given(
    client: Client, world: World
) -> None:
    assert client.models.set_alias("support", "champion").version == VERSION
    other = "v-ffffffffffffffff"
    moved = client.models.set_alias("support", "champion", other, etag='"1"')
    assert moved.version == f"{MODEL}/versions/{other}"
    first, second = world.requests("UpdateModelAlias")
    assert (first.allow_missing, second.allow_missing) == (True, False)
    assert second.model_alias.etag == '"1"'


def test_a_text_is_a_user_s_turn(client: Client, world: World) -> None:
    assert client.inference.generate("tiny-base", "is it late").text == "late it is"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one two"}]
    pieces = client.inference.stream("support@champion", turns)
    assert "".join(piece.text for piece in pieces) == "two one "
    (streamed,) = world.requests("StreamGenerateText")
    assert streamed.model == f"{MODEL}/aliases/champion"
    assert [turn.content for turn in streamed.messages] == ["Be kind.", "one two"]


def test_a_role_that_there_is_not_is_refused_here(client: Client) -> None:
    with pytest.raises(ValueError, match="no role 'robot'"):
        client.inference.generate("tiny-base", [{"role": "robot", "content": "beep"}])


def test_an_experiment_is_judged_pair_by_pair(client: Client, world: World) -> None:
    world.pending_for = 2
    world.pairs = [Pair(name=f"projects/default/experiments/e/pairs/{n}") for n in "ab"]
    while (pair := client.experiments.next_pair("e", "me")) is not None:
        vote = client.experiments.vote(pair.name, "me", Vote.CHOICE_TIE)
        assert vote.left_model == "baseModels/tiny-base"
    assert [vote.name[-1] for vote in world.votes] == ["a", "b"]


def test_waiting_for_answers(client: Client, world: World) -> None:
    experiment = client.experiments.create("tiny-base", f"support/{VERSION_ID}", ["hello", "bye"])
    world.pending_for = 2
    ready = client.experiments.wait_for_answers(experiment.name)
    assert ready.state == Experiment.STATE_READY
    world.pending_for = 999
    with pytest.raises(DeadlineExceeded, match="0 of 2 prompts"):
        client.experiments.wait_for_answers(experiment.name, timeout_s=0.2)
    (request,) = world.requests("CreateExperiment")
    assert request.experiment.candidate_model == VERSION
    assert [prompt.messages[0].content for prompt in request.experiment.prompts] == ["hello", "bye"]
