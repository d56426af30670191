"""In which precision a run multiplies, and in which it keeps its weights."""

import torch

from services.trainer.engine.fast import multiplies_bfloat16
from services.trainer.engine.job import Job


def compute_dtype(job: Job, device: torch.device) -> torch.dtype:
    """bfloat16 if the job asks for it, or leaves it open and the hardware multiplies it fast."""
    match job.training.precision:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


def resident_dtype(job: Job, compute: torch.dtype) -> torch.dtype:
    """Frozen weights are kept as they are multiplied; trained ones need float32, in which a small
    update is not rounded away."""
    if job.method.freezes_base and job.switches.resident_bfloat16:
        return compute
    return torch.float32
