"""A plugin for axolotl, named in the configuration that it is given."""

import importlib
from typing import Any

_reports: Any = importlib.import_module("anneal_reports")
_base: Any = importlib.import_module("axolotl.integrations.base")


class Reporting(_base.BasePlugin):
    """Has the trainer tell how it gets on."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_reports.watch(trainer)]
