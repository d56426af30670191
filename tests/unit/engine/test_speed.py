"""The program that tells a node what its engines compute on."""

import json
import subprocess
import sys

ONE_GFLOPS = 1e9


def test_the_program_prints_one_line_with_the_speed_of_products() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "services.trainer.engine.speed", "1"],
        capture_output=True,
        text=True,
        check=True,
    )

    (line,) = ran.stdout.splitlines()
    told = json.loads(line)
    assert told["kind"] in ("cpu", "cuda")
    assert (told["model"] == "") == (told["memory_bytes"] == 0) == (told["kind"] == "cpu")
    assert told["float32_flops"] > ONE_GFLOPS
    assert told["bfloat16_flops"] > 0
