"""The operator's list says in one line what is wrong with it."""

from pathlib import Path

import pytest

from services.common.settings import ConfigError
from services.registry.adapters.allow_list import read_allow_list
from services.registry.domain.base_models import AllowedModel, HubRevision
from services.registry.domain.names import BaseModelName

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "base-models.toml"
    path.write_text(text)
    return path


def test_directories_are_relative_to_the_file(tmp_path: Path, model_dir: Path) -> None:
    path = written(
        tmp_path,
        f'[tiny-base]\npath = "tiny"\n[smol]\nhub = "own.er/na-me"\nrevision = "{REVISION}"\n',
    )

    assert read_allow_list(path) == (
        AllowedModel(BaseModelName("tiny-base"), model_dir.resolve()),
        AllowedModel(BaseModelName("smol"), HubRevision("own.er/na-me", REVISION)),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[x]\npath = "nowhere"', "nowhere is no directory"),
        ('[x]\npath = "."', "holds no config.json"),
        ('[x]\npath = "tiny"\nhub = "a/b"', "needs either path, or hub and revision"),
        ('[x]\nhub = "a/b"', "needs either path, or hub and revision"),
        ("[x]\npath = 1", "no text"),
        ("x = 1", "is no table"),
        ('[X_y]\npath = "tiny"', "is not an id"),
        (f'[x]\nhub = "../b"\nrevision = "{REVISION}"', "is not owner/name"),
        ('[x]\nhub = "a/b"\nrevision = "main"', "40 hex digits"),
        ("[x", "cannot read"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, model_dir: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_allow_list(written(tmp_path, text))


def test_pickled_weights_do_not_count(tmp_path: Path, model_dir: Path) -> None:
    (model_dir / "model.safetensors").rename(model_dir / "pytorch_model.bin")

    with pytest.raises(ConfigError, match=r"holds no \*.safetensors"):
        read_allow_list(written(tmp_path, '[x]\npath = "tiny"'))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_allow_list(tmp_path / "nowhere.toml")


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = '[x]\npath = "nowhere"\n[y]\nhub = "a/b"\nrevision = "main"\n'

    with pytest.raises(ConfigError) as error:
        read_allow_list(written(tmp_path, text))

    assert len(error.value.problems) == 2
    assert "\n" not in str(error.value)
