"""What `anneal up` tells its programs."""

from pathlib import Path

from anneal.up.data_dir import DataDir
from anneal.up.ports import Ports
from anneal.up.programs import environments


def test_what_a_node_does_without_work_is_for_the_caller_to_say(tmp_path: Path) -> None:
    wanted = {
        "ANNEAL_SELF_TEST_LIMIT_S": "0",
        "ANNEAL_SPEED_LIMIT_S": "0",
        "ANNEAL_WARM_ENGINES": "0",
    }
    elsewhere = {"ANNEAL_DATABASE_URL": "sqlite+aiosqlite:///elsewhere.db"}
    told = environments(
        DataDir(tmp_path), Ports.free(), tmp_path / "bases.toml", wanted | elsewhere
    )["node"]
    assert wanted.items() <= told.items()
    assert elsewhere.keys().isdisjoint(told)
