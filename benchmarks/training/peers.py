"""The usual trainers: `.venv-bench/bin/python -m benchmarks.training.peers …`.

Prints a line of JSON after each optimizer step, as our engine does, and trains until it is killed.
Runs in an environment of its own: of this project it may import only what needs no other package.
"""

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import peft
import torch
import transformers

from benchmarks.training.encoded import NO_LABEL, EncodedExample, read_encoded
from benchmarks.training.sizes import LORA_ALPHA, LORA_RANK, PACKED_ROW_TOKENS, SIZES, Size

_peft: Any = peft  # untyped packages
_transformers: Any = transformers


@dataclass(frozen=True)
class Recipe:
    """How a trainer is used. `arguments` are those of its configuration class; `base_dtype` that of
    the frozen weights. What is chosen was the fastest found on a CPU, but for those "as they come".
    """

    trainer: Literal["transformers", "trl"]
    base_dtype: torch.dtype = torch.float32
    attention: Literal["sdpa", "eager"] = "sdpa"
    packed: bool = False
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])


_GROUPED: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
_PACKED: dict[str, Any] = {"packing": True, "max_length": PACKED_ROW_TOKENS}
_NO_RECOMPUTING: dict[str, Any] = {"gradient_checkpointing": False}

RECIPES = {
    "hf": Recipe("transformers"),
    "hf_tuned": Recipe(
        "transformers", torch.bfloat16, "eager", arguments={"bf16": True, **_GROUPED}
    ),
    "trl_default": Recipe("trl"),
    "trl_packed": Recipe("trl", packed=True, arguments=_PACKED | _NO_RECOMPUTING),
    "trl_best": Recipe("trl", torch.bfloat16, "eager", arguments=_GROUPED | _NO_RECOMPUTING),
}


class _Reports(_transformers.TrainerCallback):
    """Prints what the driver reads. Batches are collated in the order in which they are trained,
    a few of them ahead."""

    def __init__(self) -> None:
        self.collated: list[int] = []

    def counting(self, collate: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
        """`collate`, noting how many tokens without padding each batch has."""

        def counted(examples: list[Any]) -> Any:
            self.collated.append(sum(len(example["input_ids"]) for example in examples))
            return collate(examples)

        return counted

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            tokens = self.collated.pop(0)
            _print_line(type="step", step=state.global_step, tokens=tokens, loss=logs["loss"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=RECIPES)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("base_model", type=Path)
    parser.add_argument("encoded_file", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    _transformers.set_seed(options.seed)  # the trainers do so only after LoRA is drawn
    examples = read_encoded(options.encoded_file)
    with tempfile.TemporaryDirectory() as directory:
        trainer = _trainer(
            RECIPES[options.variant],
            SIZES[options.size],
            options.base_model,
            examples,
            {
                "output_dir": directory,
                "learning_rate": options.learning_rate,
                "seed": options.seed,
            },
        )
        reports = _Reports()
        _report_start(trainer)
        trainer.data_collator = reports.counting(trainer.data_collator)
        trainer.remove_callback(_transformers.PrinterCallback)
        trainer.add_callback(reports)
        trainer.train()


def _trainer(
    recipe: Recipe,
    size: Size,
    base_model: Path,
    examples: list[EncodedExample],
    arguments: dict[str, Any],
) -> Any:
    rows = size.packed_rows_a_step if recipe.packed else size.examples_a_step
    arguments = {
        "max_steps": 1_000_000,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": rows,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
        **recipe.arguments,
    }
    base = _transformers.AutoModelForCausalLM.from_pretrained(
        base_model, dtype=recipe.base_dtype, attn_implementation=recipe.attention
    )
    base.config.use_cache = False
    lora = _peft.LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    dataset = importlib.import_module("datasets").Dataset.from_list([asdict(e) for e in examples])
    tokenizer = _transformers.AutoTokenizer.from_pretrained(base_model)
    if recipe.trainer == "trl":
        trl: Any = importlib.import_module("trl")
        return trl.SFTTrainer(
            model=base,
            args=trl.SFTConfig(**arguments),
            train_dataset=dataset,
            processing_class=tokenizer,
            peft_config=lora,
        )
    return _transformers.Trainer(
        model=_peft.get_peft_model(base, lora),
        args=_transformers.TrainingArguments(**arguments),
        train_dataset=dataset,
        data_collator=_transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=NO_LABEL),
    )


def _report_start(trainer: Any) -> None:
    """Tells what the trainer will really see: its own dataset through its own collator."""
    rows: list[dict[str, Any]] = [
        {key: row[key] for key in row if key in ("input_ids", "labels", "seq_lengths")}
        for row in trainer.train_dataset
    ]
    labels = [trainer.data_collator([dict(row)])["labels"] for row in rows]
    _print_line(
        type="started",
        tokens_per_epoch=sum(len(row["input_ids"]) for row in rows),
        labels_per_epoch=sum(int((label != NO_LABEL).sum()) for label in labels),
        trainable_parameters=trainer.model.num_parameters(only_trainable=True),
    )


def _print_line(**fields: Any) -> None:
    print(json.dumps(fields), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main()
