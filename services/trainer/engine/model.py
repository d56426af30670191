"""The base model with the method's trainable part attached, ready to be called."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.fast import accelerate
from services.trainer.engine.job import Job
from services.trainer.engine.precision import resident_dtype
from services.trainer.engine.sharding import divided_like, gathered, shard

_OFF_IN_SHARDS = {"fused_lora": False, "fused_layers": False}
"""What takes several weights as one, or weights from beside the module that is computed."""


@dataclass(frozen=True, slots=True, eq=False)
class TunableModel:
    """A language model of which some parameters are trained.

    `network` is what is called; `head` the module inside it that makes the logits; `trainable`
    holds every parameter that changes, by name, sorted by it. Products are computed in
    `compute_dtype`. `gains` are the switches of speed that took effect. Of a `sharded` one this
    process has a part of each parameter.
    """

    network: nn.Module
    head: nn.Module
    trainable: dict[str, nn.Parameter]
    total_parameters: int
    device: torch.device
    compute_dtype: torch.dtype
    gains: tuple[str, ...]
    sharded: bool = False

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.trainable.values())

    def trainable_tensors(self) -> dict[str, Tensor]:
        """The trainable parameters' values; they share memory with the model. Of one in shards
        they are `gathered`."""
        return gathered({name: parameter.detach() for name, parameter in self.trainable.items()})

    def set_trainable_tensors(self, values: Mapping[str, Tensor]) -> None:
        """Copies in what `trainable_tensors` gave; raises KeyError if a parameter is missing."""
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(divided_like(values[name], parameter))

    def arithmetic(self) -> AbstractContextManager[object]:
        """Where the model is called: float32 parameters are multiplied in `compute_dtype`. Their
        copies in that are not kept for a second use where a block is whole only for its own."""
        if self.compute_dtype is torch.float32:
            return nullcontext()
        keep = not self.sharded
        return torch.autocast(self.device.type, self.compute_dtype, cache_enabled=keep)

    def recompute_activations(self) -> None:
        """From now on keeps only each block's input and computes the rest again in the backward
        pass: far less memory for about a third more time."""
        network: Any = self.network
        network.activation_checkpointing_enable({"use_reentrant": False})


def count_parameters(network: nn.Module) -> int:
    """All numbers that it is made of."""
    return sum(map(_count, network.parameters()))


def _count(parameter: nn.Parameter) -> int:
    """The numbers in it; bitsandbytes packs two of 4 bits into a byte."""
    state: Any = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def load_tunable_model(
    job: Job, compute_dtype: torch.dtype, device: torch.device, *, sharded: bool = False
) -> TunableModel:
    """Loads the base and attaches the method's parameters, drawn from torch's generator or, if
    the job starts from an earlier result, read from there. Of a `sharded` one each process keeps a
    part.

    Raises InvalidJob if the base cannot be loaded or the method does not fit it.
    """
    base = job.method.load(job.base_model_dir, resident_dtype(job, compute_dtype))
    return make_tunable(base, job, compute_dtype, device, job.start_from, sharded=sharded)


def make_tunable(
    base: Any,
    job: Job,
    compute_dtype: torch.dtype,
    device: torch.device,
    start: Path | None,
    *,
    sharded: bool = False,
) -> TunableModel:
    """Attaches the method's parameters to a loaded base, and takes those in `start`, if any.

    Raises InvalidJob if the method does not fit it.
    """
    head: nn.Module | None = base.get_output_embeddings()
    if head is None:
        raise InvalidJob(Fault("base_model_dir", "the model has no language-model head"))
    network = job.method.attach(base)
    if not sharded:
        network = network.to(device)
    if start is not None:
        job.method.start_from(network, start)
    switches = replace(job.switches, **_OFF_IN_SHARDS) if sharded else job.switches
    gains = accelerate(network, switches, compute_dtype)
    if sharded:
        shard(network, device)
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return TunableModel(
        network=network,
        head=base.get_output_embeddings(),
        trainable=dict(sorted(named.items())),
        total_parameters=count_parameters(network),
        device=device,
        compute_dtype=compute_dtype,
        gains=gains,
        sharded=sharded,
    )
