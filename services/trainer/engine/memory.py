"""What a run does when its memory runs out: smaller parts, then less kept; never another step.

The step that failed is done again on the same examples. Its parts are summed up and divided by the
step's labels, so that the update is the same up to the order of a sum. Only dropout differs: its
masks are drawn for each part.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.trainer.engine.checkpoint import Progress
from services.trainer.engine.errors import OutOfMemory
from services.trainer.engine.plan import Plan, parts


def relieved(progress: Progress, lengths: Sequence[int], shares: int, mode: str) -> Progress:
    """The progress with less memory needed from here on, after a batch of these lengths, divided
    among so many processes, was too much. `mode` is the job's `gradient_checkpointing`.

    Raises OutOfMemory if one example at a time is too much however it is computed.
    """
    runs = [run for share in parts(lengths, shares, progress.micro_batch_tokens) for run in share]
    sizes = [(lengths[run.stop - 1] * len(run), len(run)) for run in runs]
    tokens, examples = max(sizes)
    if examples == 1 and mode == "auto" and not progress.recompute:
        return replace(progress, recompute=True)
    several = [tokens for tokens, examples in sizes if examples > 1]
    if several:
        return replace(progress, micro_batch_tokens=max(several) // 2)
    raise OutOfMemory(f"a single example of {tokens} tokens does not fit into the memory")


def relieved_beforehand(
    progress: Progress, plan: Plan, shares: int, mode: str, times: int
) -> Progress:
    """As after so many times that the plan's largest batch was too much: for a run that had no
    chance to notice, as the kernel killed it. The least there is when that is reached sooner."""
    lengths = _largest_batch(plan)
    for _ in range(times):
        try:
            progress = relieved(progress, lengths, shares, mode)
        except OutOfMemory:
            return progress
    return progress


def _largest_batch(plan: Plan) -> list[int]:
    """The lengths of one that is as large as any."""
    count = plan.batch_size
    if plan.batch_tokens:
        count = max(1, plan.batch_tokens // max(plan.lengths))
    return sorted(plan.lengths)[-count:]


def in_words(progress: Progress) -> str:
    """What holds from here on, for a person."""
    changes: list[str] = []
    if progress.micro_batch_tokens:
        changes.append(f"at most {progress.micro_batch_tokens} tokens are computed at a time")
    if progress.recompute:
        changes.append("activations are computed twice instead of kept")
    return f"memory ran out: from here on {', and '.join(changes)}"
