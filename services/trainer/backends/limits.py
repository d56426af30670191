"""What a job asks for that a tool cannot do: refused by name, before anything is started."""

from dataclasses import asdict

from services.trainer.backend_limits import Asked, lacks
from services.trainer.backends.tools import Tool
from services.trainer.engine.base_model import is_encoder_decoder
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.job import Job

_OUR_NAMES = {"base_model": "base_model_dir", "start": "start_from"}


def check(job: Job, tool: Tool) -> None:
    """Raises InvalidJob with everything that the tool cannot do."""
    asked = Asked(
        method=asdict(job.method),
        training=job.training,
        on_encoder_decoder=is_encoder_decoder(job.base_model_dir),
        goes_on=job.start_from is not None,
    )
    faults = [
        Fault(_OUR_NAMES.get(lack.field, lack.field), lack.words) for lack in lacks(tool, asked)
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
