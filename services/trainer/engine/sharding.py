"""One model over several processes: each keeps a part of every parameter, of its gradient and of
its moments (FSDP2, arXiv:2304.11277), and has a block whole only while it computes it.

Every process must then compute as many batches as any other, and all of them at once: see
`Team.in_step`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import Job
from services.trainer.engine.layers import block_lists

_SHARDABLE = ("full", "lora")
_BYTES_PER_PARAMETER = 16
"""A float32 weight, its gradient and two moments."""
_MOST_OF_THE_DEVICE = 0.75
"""What those may take. The rest is for activations."""


def is_to_be_sharded(job: Job, processes: int, device: torch.device) -> bool:
    """What the job file says; left open, whether what training every weight keeps would fill one
    GPU. Raises InvalidJob where sharding was asked for and can not be."""
    if processes == 1:
        return False
    match job.sharding:
        case "none":
            return False
        case "full":
            if job.method.kind not in _SHARDABLE:
                raise InvalidJob(Fault("sharding", f"{job.method.kind} cannot be sharded"))
            return True
        case "auto":
            if device.type != "cuda" or job.method.kind != "full":
                return False
            _, memory_bytes = torch.cuda.mem_get_info()
            return fills(job.base_model_dir, memory_bytes)


def fills(base_model_dir: Path, memory_bytes: int) -> bool:
    """Whether training every weight of the base leaves too little of the memory."""
    kept_bytes = _BYTES_PER_PARAMETER * sum(map(_count, base_model_dir.glob("*.safetensors")))
    return kept_bytes > _MOST_OF_THE_DEVICE * memory_bytes


def _count(file: Path) -> int:
    """The numbers in a safetensors file."""
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def shard(network: nn.Module, device: torch.device) -> None:
    """Moves the network to the device, block by block, and leaves of each this process's part.

    Gradients are added up over the processes as they come, not averaged. What one process does not
    use, as an expert that none of its tokens went to, counts there as 0.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    model = next(module for module in network.modules() if isinstance(module, PreTrainedModel))
    for blocks in block_lists(model):
        for block in blocks:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
            module.set_reduce_scatter_unused_params(True, recurse=False)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole ones of the shards among them, in the leader's own memory; nothing elsewhere. All
    processes have to call it. What is no shard stays as it is."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            full = tensor.full_tensor()
            if dist.get_rank() == 0:
                whole[name] = full.detach().cpu()
        else:
            whole[name] = tensor
    return whole


def divided_like(whole: Tensor, like: Tensor) -> Tensor:
    """This process's shard of what every process has whole, if that is what `like` is."""
    if not isinstance(like, DTensor):
        return whole
    moved: Any = whole.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)
