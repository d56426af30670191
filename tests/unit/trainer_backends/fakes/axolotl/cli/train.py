"""As `axolotl.cli.train`: is started with a configuration file. What it does is told by the file
that FAKE_AXOLOTL names."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import yaml

if __name__ == "__main__":
    config = yaml.safe_load(Path(sys.argv[1]).read_text())
    play = json.loads(Path(os.environ["FAKE_AXOLOTL"]).read_text())
    descriptor = json.loads(os.environ["ANNEAL_REPORTS"])["descriptor"]
    for line in play["lines"]:
        if "report" in line:
            os.write(descriptor, line["report"].encode() + b"\n")
        else:
            print(line["output"], flush=True)
    if play["hangs"]:
        time.sleep(600)
    if play["result"]:
        shutil.copytree(play["result"], config["output_dir"])
    sys.exit(play["status"])
