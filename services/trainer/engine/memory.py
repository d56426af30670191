"""What a run does when its memory runs out: smaller parts, then less kept; never another result.

The step that failed is done again on the same examples. Its parts are summed up and divided by the
step's labels, so that the update is the same up to the order of a sum.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.errors import OutOfMemory
from services.trainer.engine.plan import parts


def relieved(progress: Progress, lengths: Sequence[int], shares: int, mode: str) -> Progress:
    """The progress with less memory needed from here on, after a batch of these lengths, divided
    among so many processes, was too much. `mode` is the job's `gradient_checkpointing`.

    Raises OutOfMemory if a single example is too much however it is computed.
    """
    runs = [run for share in parts(lengths, shares, progress.micro_batch_tokens) for run in share]
    tokens, examples = max((lengths[run.stop - 1] * len(run), len(run)) for run in runs)
    if examples > 1:
        return replace(progress, micro_batch_tokens=tokens // 2)
    if mode == "auto" and not progress.recompute:
        return replace(progress, recompute=True)
    raise OutOfMemory(f"a single example of {tokens} tokens does not fit into the memory")


def in_words(progress: Progress) -> str:
    """What has changed, for the log."""
    if progress.recompute:
        return "memory ran out: activations are now computed twice instead of kept"
    return (
        "memory ran out: from here on at most "
        f"{progress.micro_batch_tokens} tokens are computed at a time"
    )
