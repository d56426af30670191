"""One job from its description to its artifacts: puts the parts together and runs the loop."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict

import peft
import torch
import transformers

from services.chat.encoder import ChatEncoder
from services.chat.errors import TemplateUnsupported, TokenizerFilesMissing
from services.trainer.engine.artifacts import write_adapter
from services.trainer.engine.checkpoint import (
    Checkpoint,
    Environment,
    Identity,
    Progress,
    load_checkpoint,
)
from services.trainer.engine.determinism import prepare_arithmetic, seed_randomness
from services.trainer.engine.errors import Fault, InvalidJob
from services.trainer.engine.events import Artifact, EventSink, Finished, LogLine, Started
from services.trainer.engine.examples import Examples, load_examples
from services.trainer.engine.job import Job
from services.trainer.engine.loop import Ending, Run, train
from services.trainer.engine.model import (
    base_model_digest,
    check_base_model,
    load_tunable_model,
    position_limit,
)
from services.trainer.engine.optimizer import Optimizer
from services.trainer.engine.plan import Plan
from services.trainer.engine.process import StopRequest


def run_job(job: Job, events: EventSink, stop: StopRequest, clock: Callable[[], float]) -> Ending:
    """Trains, and writes the artifacts unless stopped before the last step.

    Raises InvalidJob, InvalidData, CheckpointRefused and TrainingDiverged.
    """
    precision = prepare_arithmetic(job.threads)
    check_base_model(job.base_model_dir)
    max_tokens = _max_tokens(job)
    examples = _load_examples(job, max_tokens)
    plan = Plan(tuple(map(len, examples.training)), job.seed, job.training.batch_size)
    identity = _identity(job, examples, plan)
    checkpoint = load_checkpoint(job.resume_from, identity) if job.resume_from else None

    seed_randomness(job.seed, "initial weights")
    model = load_tunable_model(job.base_model_dir, job.method)
    run = Run(
        job=job,
        examples=examples,
        plan=plan,
        total_steps=plan.total_steps(job.training.max_steps, job.training.epochs),
        model=model,
        optimizer=Optimizer(model.trainable, job.training),
        identity=identity,
        environment=_environment(job.threads, model.device, precision),
        events=events,
        stop=stop,
        clock=clock,
    )
    progress = _restore(run, checkpoint) if checkpoint else Progress()
    _report_start(run, progress)
    _report_limits(run, max_tokens)
    ending, progress = train(run, progress)
    if ending is Ending.COMPLETE:
        events.emit(_finished(progress, write_adapter(model.network, job.artifacts_dir)))
    return ending


def _max_tokens(job: Job) -> int:
    asked, possible = job.training.max_sequence_tokens, position_limit(job.base_model_dir)
    return min(asked, possible or asked)


def _load_examples(job: Job, max_tokens: int) -> Examples:
    try:
        encoder = ChatEncoder.load(job.base_model_dir)
    except (TokenizerFilesMissing, TemplateUnsupported) as error:
        raise InvalidJob(Fault("base_model_dir", str(error))) from error
    return load_examples(
        job.dataset_file,
        encoder,
        max_tokens,
        job.training.validation_fraction,
        job.seed,
    )


def _identity(job: Job, examples: Examples, plan: Plan) -> Identity:
    parts = {"seed": job.seed, "method": asdict(job.method), "training": asdict(job.training)}
    settings = json.dumps(parts, sort_keys=True).encode()
    return Identity(
        settings=hashlib.sha256(settings).hexdigest(),
        dataset=examples.digest,
        plan=plan.digest,
        base_model=base_model_digest(job.base_model_dir),
    )


def _environment(threads: int, device: torch.device, precision: str) -> Environment:
    return Environment(
        torch=torch.__version__,
        transformers=transformers.__version__,
        peft=peft.__version__,
        device=device.type,
        threads=threads,
        matmul_precision=precision,
    )


def _restore(run: Run, checkpoint: Checkpoint) -> Progress:
    theirs, ours = asdict(checkpoint.environment), asdict(run.environment)
    changed = [f"{key} {theirs[key]} → {ours[key]}" for key in ours if theirs[key] != ours[key]]
    if changed:
        text = "resuming, but not bit for bit: the checkpoint was made with another "
        run.events.emit(LogLine("warning", text + ", ".join(changed)))
    run.model.set_trainable_tensors(checkpoint.trainable)
    run.optimizer.restore(checkpoint.optimizer)
    return checkpoint.progress


def _report_start(run: Run, progress: Progress) -> None:
    examples = run.examples
    run.events.emit(
        Started(
            total_steps=run.total_steps,
            start_step=progress.step,
            epochs=run.plan.epochs_done(run.total_steps),
            training_examples=len(examples.training),
            validation_examples=len(examples.validation),
            skipped_examples=examples.skipped,
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
    if training.warmup_steps >= run.total_steps:
        notes.append(f"the warm-up of {training.warmup_steps} steps outlasts the run")
    for note in notes:
        run.events.emit(LogLine("warning", note))


def _finished(progress: Progress, artifacts: tuple[Artifact, ...]) -> Finished:
    return Finished(
        steps=progress.step,
        final_loss=progress.loss,
        best_loss=progress.best_loss,
        validation_loss=progress.validation_loss,
        artifacts=artifacts,
    )
