"""`python anneal_axolotl.py FILE`: does what `python -m axolotl.cli.train FILE` does, and ends with
the program that started it.

The plugin that the configuration names is found because it lies beside this file.
"""

import importlib
import runpy
import sys
from typing import Any

_child: Any = importlib.import_module("anneal_child")

if __name__ == "__main__":
    _child.die_with_parent()
    sys.argv = ["axolotl.cli.train", *sys.argv[1:]]
    runpy.run_module("axolotl.cli.train", run_name="__main__", alter_sys=True)
