"""How PEFT learns of a tuner that is not its own."""

from enum import StrEnum
from typing import Any

import peft.mapping
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner

_mapping: Any = peft.mapping  # its tables are typed for PEFT's own, closed enumeration


class TunerType(StrEnum):
    """What adapter_config.json says in `peft_type`.

    PEFT's enumeration cannot be extended. A string enumeration can stand in for it: its members
    are equal to, and hash like, the string that PEFT reads from the file.
    """

    BOTTLENECK = "BOTTLENECK"
    KV_PREFIX = "KV_PREFIX"


def register(kind: TunerType, config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Enters a tuner into PEFT's tables, as `peft.utils.register_peft_method` does with its own."""
    _mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config
    _mapping.PEFT_TYPE_TO_TUNER_MAPPING[kind] = tuner
    _mapping.PEFT_TYPE_TO_PREFIX_MAPPING[kind] = tuner.prefix
