"""One job from its description to its artifacts: puts the parts together and runs the loop."""

import gc
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace

import peft
import torch
import transformers

from services.trainer.engine.artifacts import directory_digest, write_artifacts
from services.trainer.engine.base_model import base_model_digest
from services.trainer.engine.checkpoint import (
    Checkpoint,
    Environment,
    Identity,
    Progress,
    checkpoint_path,
    load_latest,
    tensors_digest,
)
from services.trainer.engine.determinism import seed_randomness
from services.trainer.engine.durable import clear_leftovers, remove_directory
from services.trainer.engine.events import (
    Artifact,
    EventSink,
    Finished,
    LogLine,
    Relieved,
    Resumed,
    Started,
)
from services.trainer.engine.examples import Examples
from services.trainer.engine.footprint import peak_memory_bytes
from services.trainer.engine.job import Job
from services.trainer.engine.loop import Ending, conclude, train
from services.trainer.engine.memory import in_words, relieved_beforehand
from services.trainer.engine.model import TunableModel, load_tunable_model
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.packing import require_separation
from services.trainer.engine.plan import Plan
from services.trainer.engine.precision import compute_dtype
from services.trainer.engine.preparation import layout, prepare
from services.trainer.engine.process import StopRequest
from services.trainer.engine.sharding import is_to_be_sharded
from services.trainer.engine.state import Run
from services.trainer.engine.team import Team


def run_job(
    job: Job, events: EventSink, stop: StopRequest, clock: Callable[[], float], team: Team
) -> Ending:
    """Trains, and writes the artifacts unless stopped before the last step.

    Raises InvalidJob, InvalidData, CheckpointRefused, TrainingDiverged and OutOfMemory.
    """
    if team.rank == 0:
        clear_leftovers(job.checkpoints_dir)
    team.meet()  # the others look for checkpoints only now
    ready = prepare(job)
    identity = _identity(job, ready.examples, ready.plan)
    checkpoint = _checkpoint(job, identity, team, events)

    seed_randomness(job.seed, "initial weights")
    sharded = is_to_be_sharded(job, team.size, ready.device)
    team = replace(team, in_step=sharded)
    dtype = compute_dtype(job, ready.device)
    model = load_tunable_model(job, dtype, ready.device, sharded=sharded)
    run = Run(
        job=job,
        examples=ready.examples,
        encoder=ready.encoder,
        layout=layout(job, model.network.config),
        plan=ready.plan,
        total_steps=ready.total_steps,
        model=model,
        optimizer=Optimizer(model.trainable, job.training, fused=job.switches.fused_adamw),
        identity=identity,
        environment=_environment(job, model, ready.precision, sharded),
        team=team,
        events=events,
        stop=stop,
        clock=clock,
    )
    if job.training.packing:
        require_separation(model)
    progress = checkpoint.progress if checkpoint else _beginning(job, team)
    _report_start(run, progress)
    _report_limits(run, ready.max_tokens)
    if checkpoint:
        _restore(run, checkpoint)
    if job.reliefs:
        progress = _begin_smaller(run, progress)
    if progress.recompute:
        model.recompute_activations()
    gc.freeze()  # what is loaded by now lives to the end: the collector need not look at it
    ending = Ending.COMPLETE
    if job.finish:
        progress = conclude(run, progress)
    else:
        ending, progress = train(run, progress)
    if ending is Ending.COMPLETE:
        _finish(run, progress)
    return ending


def _checkpoint(job: Job, identity: Identity, team: Team, events: EventSink) -> Checkpoint | None:
    """The one to go on from, if any. Those of this run that are of no use are removed, lest they
    are taken for its newest once more.

    Raises CheckpointRefused.
    """
    path = job.resume_from
    if path is None:
        return None
    checkpoint, refused = load_latest(path, identity)
    if refused:
        name = checkpoint_path(path.parent, checkpoint.progress.step).name
        events.emit(LogLine("warning", f"{refused[0]}; going on from {name}"))
    if team.rank == 0 and path.parent.resolve() == job.checkpoints_dir.resolve():
        for refusal in refused:
            remove_directory(path.with_name(refusal.path))
    return checkpoint


def _beginning(job: Job, team: Team) -> Progress:
    """Processes in step can not do a step again with less memory, and begin with the least."""
    mode = job.training.gradient_checkpointing
    return Progress(
        micro_batch_tokens=job.training.micro_batch_tokens,
        recompute=mode == "on" or (mode == "auto" and team.in_step),
    )


def _begin_smaller(run: Run, progress: Progress) -> Progress:
    """The checkpoint and the identity of the run are as they were: it learns the same."""
    job, mode = run.job, run.job.training.gradient_checkpointing
    less = relieved_beforehand(progress, run.plan, run.team.size, mode, job.reliefs)
    if less != progress:
        message = in_words(less)
        run.events.emit(Relieved(less.step + 1, less.micro_batch_tokens, less.recompute, message))
    return less


def _identity(job: Job, examples: Examples, plan: Plan) -> Identity:
    parts: dict[str, object] = {
        "seed": job.seed,
        "method": asdict(job.method),
        "training": asdict(job.training),
    }
    if job.start_from is not None:
        parts["start_from"] = directory_digest(job.start_from)
    settings = json.dumps(parts, sort_keys=True).encode()
    return Identity(
        settings=hashlib.sha256(settings).hexdigest(),
        dataset=examples.digest,
        plan=plan.digest,
        base_model=base_model_digest(job.base_model_dir),
    )


def _environment(job: Job, model: TunableModel, precision: str, sharded: bool) -> Environment:
    return Environment(
        torch=torch.__version__,
        transformers=transformers.__version__,
        peft=peft.__version__,
        device=model.device.type,
        threads=job.threads,
        processes=job.processes,
        matmul_precision=precision,
        compute_dtype=str(model.compute_dtype).removeprefix("torch."),
        gains=model.gains,
        sharded=sharded,
    )


def _restore(run: Run, checkpoint: Checkpoint) -> None:
    run.model.set_trainable_tensors(checkpoint.trainable)
    run.optimizer.restore(checkpoint.optimizer)
    run.best = checkpoint.best
    run.saved_step = checkpoint.progress.step
    held = tensors_digest(checkpoint.trainable, checkpoint.optimizer)
    restored = tensors_digest(run.model.trainable_tensors(), run.optimizer.state())
    before, now = asdict(checkpoint.environment), asdict(run.environment)
    changed = tuple(f"{key} {before[key]} → {now[key]}" for key in now if before[key] != now[key])
    run.events.emit(Resumed(checkpoint.progress.step, held, restored, held == restored, changed))
    if changed:
        text = "resuming, but not bit for bit: the checkpoint was made with another "
        run.events.emit(LogLine("warning", text + ", ".join(changed)))


def _finish(run: Run, progress: Progress) -> None:
    model = _whole_model(run)
    artifacts = _write_result(run, progress, model) if run.team.rank == 0 else ()
    peak = torch.tensor(float(peak_memory_bytes(run.model.device)), dtype=torch.float64)
    run.team.sum(peak)
    last = (progress.validation_loss, progress.token_accuracy)
    best = (progress.best_validation_loss, progress.best_token_accuracy)
    validation_loss, token_accuracy = last if run.best is None else best
    run.events.emit(
        Finished(
            steps=progress.step,
            final_loss=progress.loss,
            best_loss=progress.best_loss,
            validation_loss=validation_loss,
            artifacts=artifacts,
            token_accuracy=token_accuracy,
            peak_memory_bytes=int(peak.item()),
            tokens_per_second=run.pace.tokens_per_second,
        )
    )


def _whole_model(run: Run) -> TunableModel:
    """The run's; if that is in shards, one that holds the same on the leader's CPU."""
    if not run.team.in_step:
        return run.model
    trained = run.model.trainable_tensors()
    if run.team.rank > 0:
        return run.model
    whole = load_tunable_model(run.job, run.model.compute_dtype, torch.device("cpu"))
    whole.set_trainable_tensors(trained)
    return whole


def _write_result(run: Run, progress: Progress, model: TunableModel) -> tuple[Artifact, ...]:
    if run.best is not None:
        model.set_trainable_tensors(run.best)
        text = (
            f"the result is the model of step {progress.best_step}, the best on held-out examples"
        )
        run.events.emit(LogLine("info", text))
    with run.begun("result"):
        return write_artifacts(run.job, model)


def _report_start(run: Run, progress: Progress) -> None:
    examples = run.examples
    run.events.emit(
        Started(
            total_steps=run.total_steps,
            start_step=progress.step,
            epochs=run.plan.epochs_done(run.total_steps),
            training_examples=len(examples.training),
            validation_examples=len(examples.validation),
            skipped_examples=examples.skipped + examples.dropped,
            truncated_examples=examples.truncated,
            trainable_parameters=run.model.trainable_parameters,
            total_parameters=run.model.total_parameters,
            tokens_per_epoch=sum(run.plan.lengths),
            device=run.model.device.type,
        )
    )


def _report_limits(run: Run, max_tokens: int) -> None:
    """Says what of the dataset is not used, and what of the settings has no effect."""
    examples, training = run.examples, run.job.training
    notes: list[str] = []
    if max_tokens < training.max_sequence_tokens:
        notes.append(f"the base model reads at most {max_tokens} tokens")
    if examples.skipped:
        notes.append(f"{examples.skipped} examples have no token to learn from and are left out")
    if examples.truncated:
        notes.append(f"{examples.truncated} examples are cut at {max_tokens} tokens")
    if examples.dropped:
        notes.append(f"{examples.dropped} examples of over {max_tokens} tokens are left out")
    if training.validation_fraction and not examples.validation:
        notes.append("there are too few examples to hold any out")
    if training.early_stopping_patience and not examples.validation:
        notes.append("nothing is held out, so the run cannot stop early")
    if training.warmup_steps >= run.total_steps:
        notes.append(f"the warm-up of {training.warmup_steps} steps outlasts the run")
    for note in notes:
        run.events.emit(LogLine("warning", note))
