"""Configuration from the environment and a TOML file."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.common.settings import ConfigError, read


@dataclass(frozen=True)
class Server:
    listen: str = "127.0.0.1:0"
    keys_file: Path | None = None


@dataclass(frozen=True)
class Config:
    database_url: str
    batch: int = 8
    rate: float = 0.5
    strict: bool = True
    models: tuple[str, ...] = ()
    server: Server = field(default_factory=Server)


def test_every_type_is_read_from_its_variable() -> None:
    config = read(
        Config,
        env={
            "ANNEAL_DATABASE_URL": "sqlite:///x",
            "ANNEAL_BATCH": "32",
            "ANNEAL_RATE": "1e-4",
            "ANNEAL_STRICT": "0",
            "ANNEAL_MODELS": "tiny, small,",
            "ANNEAL_SERVER_LISTEN": "127.0.0.1:7",
            "ANNEAL_SERVER_KEYS_FILE": "/etc/keys.toml",
        },
    )

    assert config == Config(
        "sqlite:///x", 32, 1e-4, False, ("tiny", "small"),
        Server("127.0.0.1:7", Path("/etc/keys.toml")),
    )  # fmt: skip


def test_an_empty_variable_is_unset() -> None:
    config = read(Config, env={"ANNEAL_DATABASE_URL": "x", "ANNEAL_BATCH": ""})

    assert config.batch == 8


def test_all_problems_are_told_at_once_and_no_value() -> None:
    env = {"ANNEAL_BATCH": "s3cret", "ANNEAL_STRICT": "s3cret", "ANNEAL_SERVER_LISTEN": "x"}

    with pytest.raises(ConfigError) as refused:
        read(Config, env=env)

    assert len(refused.value.problems) == 3
    text = str(refused.value)
    for variable in ("ANNEAL_DATABASE_URL", "ANNEAL_BATCH", "ANNEAL_STRICT"):
        assert variable in text
    assert "s3cret" not in text


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        'database_url = "from file"\nbatch = 3\nmodels = ["a"]\n[server]\nlisten = "file:1"\n'
        'keys_file = "k"\n'
    )

    config = read(
        Config,
        env={
            "ANNEAL_CONFIG": str(file),
            "ANNEAL_BATCH": "4",
            "ANNEAL_SERVER_LISTEN": "env:2",
        },
    )

    assert config == Config("from file", 4, models=("a",), server=Server("env:2", Path("k")))


def test_a_misspelt_setting_in_the_file_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('database_url = "x"\nbacth = 3\n[server]\nlistn = "x"\n')

    with pytest.raises(ConfigError) as refused:
        read(Config, env={"ANNEAL_CONFIG": str(file)})

    assert "'bacth'" in str(refused.value)
    assert "'server.listn'" in str(refused.value)


@pytest.mark.parametrize("content", [None, "no toml ["])
def test_a_file_that_cannot_be_read_is_told_with_the_rest(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_text(content)

    with pytest.raises(ConfigError) as refused:
        read(Config, env={"ANNEAL_CONFIG": str(file)})

    assert str(file) in str(refused.value)
    assert "ANNEAL_DATABASE_URL" in str(refused.value)
