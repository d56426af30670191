"""`python -m benchmarks.plain_recipe job.json`: the engine's job, trained as anybody would with
transformers and PEFT alone: padded batches, an attention mask, the model's own loss, torch's AdamW.

Only the order of the examples, the split and the learning rates come from the engine, so that both
see the same; in bfloat16, float32 weights under autocast. Prints one JSON object: the loss of every
step, the held-out loss and the median tokens a second.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, autograd, nn

from services.trainer.engine.determinism import seed_randomness
from services.trainer.engine.examples import Example, Examples, load_encoder, load_examples
from services.trainer.engine.job import Job, read_job
from services.trainer.engine.plan import Plan
from services.trainer.engine.precision import compute_dtype
from services.trainer.engine.schedule import learning_rate


@dataclass(frozen=True, slots=True)
class PlainStep:
    """`loss` in nats per labeled token; `tokens` without padding; `epochs` that lie behind."""

    loss: float
    tokens: int
    epochs: float


@dataclass(frozen=True, slots=True, eq=False)
class PlainRun:
    """A job's model before the first step, and what it is to see."""

    job: Job
    examples: Examples
    plan: Plan
    model: nn.Module

    def steps(self) -> Iterator[PlainStep]:
        """Takes a step each time that it is asked for one, `max_steps` in all."""
        training = self.job.training
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer: Any = torch.optim.AdamW(trained, weight_decay=training.weight_decay)
        dtype = compute_dtype(self.job, torch.device("cpu"))
        self.model.train()
        for step in range(1, training.max_steps + 1):
            batch = [self.examples.training[i] for i in self.plan.batch(step)]
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                loss: Tensor = self.model(**_inputs(batch)).loss
            autograd.backward(loss)
            nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, training.max_steps, training)
            optimizer.step()
            optimizer.zero_grad()
            yield PlainStep(loss.item(), sum(map(len, batch)), self.plan.epochs_done(step))

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Nats a labeled token, one example at a time."""
        self.model.eval()
        total, count = 0.0, 0
        for example in self.examples.validation:
            inputs = _inputs([example])
            logits: Tensor = self.model(**inputs).logits[0, :-1]
            labels = inputs["labels"][0, 1:]
            total += functional.cross_entropy(logits, labels, reduction="sum").item()
            count += int((labels != -100).sum().item())
        return total / count


def load_run(job: Job) -> PlainRun:
    """With the initial weights that the engine would draw."""
    torch.set_num_threads(job.threads)
    training = job.training
    encoder = load_encoder(job.base_model_dir)
    limit = training.max_sequence_tokens
    examples = load_examples(job.dataset_file, encoder, limit, training, job.seed)
    plan = Plan(
        tuple(map(len, examples.training)),
        job.seed,
        training.batch_size,
        training.batch_tokens,
        group_by_length=job.switches.group_by_length,
    )
    seed_randomness(job.seed, "initial weights")
    model = job.method.attach(job.method.load(job.base_model_dir, torch.float32))
    return PlainRun(job, examples, plan, model)


def main(job_file: str) -> None:
    run = load_run(read_job(Path(job_file)))
    losses: list[float] = []
    speeds: list[float] = []
    started = time.perf_counter()
    for step in run.steps():
        ended = time.perf_counter()
        speeds.append(step.tokens / (ended - started))
        losses.append(step.loss)
        started = ended
    told = {
        "losses": losses,
        "validation_loss": run.held_out_loss(),
        "tokens_per_second": statistics.median(speeds),
    }
    print(json.dumps(told))


def _inputs(examples: Sequence[Example]) -> dict[str, Tensor]:
    longest = max(map(len, examples))
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.token_ids.tolist())
        labeled = torch.tensor(list(example.labeled), dtype=torch.bool)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, : len(tokens)][labeled] = tokens[labeled]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


if __name__ == "__main__":
    main(sys.argv[1])
