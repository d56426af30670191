"""`python -m benchmarks.plain_recipe job.json`: the engine's job, trained as anybody would with
transformers and PEFT alone: padded batches, an attention mask, the model's own loss.

Only the order of the examples, the split and the learning rates come from the engine, so that both
see the same. Prints one JSON object: the held-out loss and the median tokens a second.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, autograd, nn

from services.trainer.engine.determinism import seed_randomness
from services.trainer.engine.examples import Example, load_encoder, load_examples
from services.trainer.engine.job import Job, read_job
from services.trainer.engine.plan import Plan
from services.trainer.engine.schedule import learning_rate


def main(job_file: str) -> None:
    job = read_job(Path(job_file))
    torch.set_num_threads(job.threads)
    training = job.training
    encoder = load_encoder(job.base_model_dir)
    limit = training.max_sequence_tokens
    examples = load_examples(job.dataset_file, encoder, limit, training, job.seed)
    plan = Plan(tuple(map(len, examples.training)), job.seed, training.batch_size)

    seed_randomness(job.seed, "initial weights")
    model = job.method.attach(job.method.load(job.base_model_dir, torch.float32))
    speeds = list(_train(model, job, plan, examples.training))
    loss = _held_out_loss(model, examples.validation)
    print(json.dumps({"validation_loss": loss, "tokens_per_second": statistics.median(speeds)}))


def _train(model: nn.Module, job: Job, plan: Plan, examples: Sequence[Example]) -> list[float]:
    training = job.training
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: Any = torch.optim.AdamW(trained, weight_decay=training.weight_decay)
    model.train()
    speeds: list[float] = []
    for step in range(1, training.max_steps + 1):
        started = time.perf_counter()
        batch = [examples[i] for i in plan.batch(step)]
        autograd.backward(model(**_inputs(batch)).loss)
        nn.utils.clip_grad_norm_(trained, training.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, training.max_steps, training)
        optimizer.step()
        optimizer.zero_grad()
        speeds.append(sum(map(len, batch)) / (time.perf_counter() - started))
    return speeds


@torch.no_grad()
def _held_out_loss(model: nn.Module, examples: Sequence[Example]) -> float:
    """Nats a labeled token, one example at a time."""
    model.eval()
    total, count = 0.0, 0
    for example in examples:
        inputs = _inputs([example])
        logits: Tensor = model(**inputs).logits[0, :-1]
        labels = inputs["labels"][0, 1:]
        total += functional.cross_entropy(logits, labels, reduction="sum").item()
        count += int((labels != -100).sum().item())
    return total / count


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
