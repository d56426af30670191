"""What a job would take: simulates its largest steps, and says what the memory is for."""

from dataclasses import asdict, dataclass, replace

from services.trainer.engine.job import Job
from services.trainer.engine.layers import block_lists
from services.trainer.engine.precision import compute_dtype, resident_dtype
from services.trainer.engine.preparation import Preparation
from services.trainer.engine.simulation.demand import largest_places, trained_tokens
from services.trainer.engine.simulation.outline import (
    file_bytes,
    file_dtypes,
    keep_blocks,
    outline,
)
from services.trainer.engine.simulation.products import kernel_bytes
from services.trainer.engine.simulation.rehearsal import Runtime
from services.trainer.engine.simulation.trace import Held, Trace, trace

_FEW_BLOCKS, _MORE_BLOCKS, _MOST_BLOCKS = 2, 4, 6
"""Of a model of more than the most, the few and the more are simulated, and the rest lies on the
line through both: blocks are alike."""
_SMALL = 0.001
"""Of all that is held."""


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """Bytes, as in the contract's message of this name."""

    total_bytes: int
    weights_bytes: int
    trainable_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    runtime_bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """`tokens` counts those of all `total_steps`, padding apart."""

    method: str
    total_parameters: int
    trainable_parameters: int
    peak_memory: PeakMemory
    total_steps: int
    tokens: int


def estimate(job: Job, ready: Preparation, runtime: Runtime) -> Estimate:
    """Raises InvalidJob."""
    kept = resident_dtype(job, compute_dtype(job, ready.device))
    quantization = job.method.quantization(kept)
    mapped = (
        quantization is None
        and ready.device.type == "cpu"
        and file_dtypes(job.base_model_dir) == {kept}
    )
    places = largest_places(job, ready)

    def traced(blocks: int | None) -> Trace:
        base = outline(job.base_model_dir, kept, quantization)
        if blocks is not None:
            keep_blocks(base, blocks)
        return trace(job, ready, base, mapped, places)

    counts = {len(blocks) for blocks in block_lists(outline(job.base_model_dir, kept, None))}
    if len(counts) > 1 or max(counts) <= _MOST_BLOCKS:
        found = traced(None)
    else:
        few, more = traced(_FEW_BLOCKS), traced(_MORE_BLOCKS)
        whole = traced(None) if _at_other_moments(few, more) else None
        found = whole or _on_the_line(few, more, counts.pop())
    if ready.device.type == "cpu":
        kernels = kernel_bytes(found.products, found.shape, found.shapes)
        runtime = replace(runtime, warm_bytes=runtime.warm_bytes + kernels)
    read_bytes = 0 if mapped or ready.device.type != "cpu" else file_bytes(job.base_model_dir)
    return Estimate(
        method=job.method.kind,
        total_parameters=round(found.total_parameters),
        trainable_parameters=round(found.trainable_parameters),
        peak_memory=_peak(found, runtime, read_bytes, job.processes),
        total_steps=ready.total_steps,
        tokens=trained_tokens(ready),
    )


def _at_other_moments(few: Trace, more: Trace) -> bool:
    """Whether the two are fullest at different moments of a step, which lie on no line. At the same
    moment twice the blocks hold no less of what blocks have, and no more than twice, but for a
    small part, like one gradient that is or is not yet added up."""
    small = _SMALL * _total(few.fullest)
    of_blocks = ("weights", "added", "gradients", "moments")
    pairs = [(getattr(few.fullest, name), getattr(more.fullest, name)) for name in of_blocks]
    times = _MORE_BLOCKS / _FEW_BLOCKS
    return any(not a - small <= b <= times * a + small for a, b in pairs)


def _on_the_line(few: Trace, more: Trace, blocks: int) -> Trace:
    def at(a: float, b: float) -> float:
        return a + (b - a) * (blocks - _FEW_BLOCKS) / (_MORE_BLOCKS - _FEW_BLOCKS)

    def held(a: Held, b: Held) -> Held:
        end = asdict(b)
        return Held(**{name: at(value, end[name]) for name, value in asdict(a).items()})

    return replace(
        more,
        loaded=held(few.loaded, more.loaded),
        fullest=held(few.fullest, more.fullest),
        trainable_parameters=at(few.trainable_parameters, more.trainable_parameters),
        total_parameters=at(few.total_parameters, more.total_parameters),
    )


def _peak(found: Trace, runtime: Runtime, read_bytes: int, processes: int) -> PeakMemory:
    """The larger of two moments: the fullest of a step, and the end of loading, when the process
    still holds the `read_bytes` of the files that it has made its weights from."""
    loading = replace(
        found.loaded,
        weights=found.loaded.weights + read_bytes,
        slack=found.loaded.slack + runtime.loaded_bytes,
    )
    training = replace(found.fullest, slack=found.fullest.slack + runtime.warm_bytes)
    held = max(loading, training, key=_total)
    parts = {
        "weights_bytes": held.weights,
        "trainable_bytes": held.added + held.gradients,
        "optimizer_bytes": held.moments,
        "activations_bytes": held.activations,
        "runtime_bytes": held.slack,
    }
    rounded = {name: processes * round(value) for name, value in parts.items()}
    return PeakMemory(total_bytes=sum(rounded.values()), **rounded)


def _total(held: Held) -> float:
    return sum(asdict(held).values())
