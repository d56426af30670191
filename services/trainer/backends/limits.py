"""What a job asks for that a tool cannot do: refused by name, before anything is started."""

from collections.abc import Iterator

from services.trainer.backends.tools import Tool
from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import Job
from services.trainer.engine.methods import Full, Lora, Qlora

_INSTEAD = "; the backend builtin can"


def check(job: Job, tool: Tool) -> None:
    """Raises InvalidJob with everything that the tool cannot do."""
    faults = [
        Fault(field, f"{tool} cannot {what}{_INSTEAD}") for field, what in _impossible(job, tool)
    ]
    if faults:
        raise InvalidJob(*faults)


def left_out(job: Job) -> list[str]:
    """What the engine would do for such a job, and a tool does not: a sentence each."""
    notes = ["it writes no checkpoints: an attempt that is interrupted begins anew"]
    if job.resume_from is not None:
        notes.append("it cannot go on from the checkpoint that was given, and begins anew")
    if job.training.sample_count and job.training.validation_fraction:
        notes.append("it answers no held-out prompts")
    if job.processes > 1:
        notes.append("it trains in one process")
    return notes


def _impossible(job: Job, tool: Tool) -> Iterator[tuple[str, str]]:
    """The field, and what it asks for."""
    method, training = job.method, job.training
    if not isinstance(method, Full | Lora | Qlora):
        yield "method", f"train by the method {method.kind}, only by full, lora and qlora"
    if is_encoder_decoder(job.base_model_dir):
        yield "base_model_dir", "train an encoder–decoder"
    if job.start_from is not None:
        yield "start_from", "train on from an earlier result"
    if training.packing:
        yield "training.packing", "pack examples unseen by each other"
    if training.batch_tokens:
        yield "training.batch_tokens", "fill batches by tokens"
    if training.early_stopping_patience:
        yield "training.early_stopping_patience", "stop early"
    match tool:
        case Tool.AXOLOTL:
            yield from _impossible_for_axolotl(job)
        case Tool.UNSLOTH:
            yield from _impossible_for_unsloth(job)


def _impossible_for_axolotl(job: Job) -> Iterator[tuple[str, str]]:
    method = job.method
    if isinstance(method, Lora | Qlora) and not method.alpha.is_integer():
        yield "method.alpha", f"scale by {method.alpha}, only by a whole number"


def _impossible_for_unsloth(job: Job) -> Iterator[tuple[str, str]]:
    method = job.method
    if isinstance(method, Lora) and method.dora:
        yield "method.dora", "train by DoRA"
    if isinstance(method, Qlora) and method.bits == 4 and not method.double_quantization:
        yield "method.double_quantization", "leave the scales of NF4 as they are"
