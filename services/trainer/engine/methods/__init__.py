"""The methods of tuning, one file each. To add one: write its file and name it in `Method`."""

from typing import Annotated

from pydantic import Field

from services.trainer.engine.methods.adapter import Adapter
from services.trainer.engine.methods.base import TuningMethod
from services.trainer.engine.methods.full import Full
from services.trainer.engine.methods.lora import Lora
from services.trainer.engine.methods.prefix import Prefix
from services.trainer.engine.methods.qlora import Qlora

Method = Annotated[Full | Lora | Qlora | Prefix | Adapter, Field(discriminator="kind")]
"""Told apart by `kind`."""

__all__ = ["Adapter", "Full", "Lora", "Method", "Prefix", "Qlora", "TuningMethod"]
