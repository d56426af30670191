from pathlib import Path

import pytest

from services.common.process import StartupError
from services.trainer.node.work_dir import sole_use


def test_what_a_killed_node_left_is_gone(tmp_path: Path) -> None:
    left = tmp_path / "work" / "projects-default-tuningJobs-first-1"
    left.mkdir(parents=True)
    (left / "job.json").write_text("{}")
    with sole_use(tmp_path / "work"):
        assert not left.exists()


def test_two_nodes_never_share_a_directory(tmp_path: Path) -> None:
    with sole_use(tmp_path / "work"):
        attempt = tmp_path / "work" / "an-attempt"
        attempt.mkdir()
        with pytest.raises(StartupError, match="ANNEAL_WORK_DIR"), sole_use(tmp_path / "work"):
            pass
        assert attempt.exists()
    with sole_use(tmp_path / "work"):
        pass
