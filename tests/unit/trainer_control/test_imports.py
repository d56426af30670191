"""The control plane starts without the weight of torch."""

import subprocess
import sys


def test_the_control_plane_imports_no_torch() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import services.trainer.control.__main__"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in ran.stderr.splitlines()}

    assert "services" in imported
    assert imported.isdisjoint({"torch", "transformers", "peft", "pyarrow", "numpy"})
