"""`python anneal_unsloth.py settings.json`: trains with unsloth what the settings say, and writes
the result to their `output_dir`.

Runs in the interpreter that has unsloth. Unsloth is imported before transformers, which it changes.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

_NO_LABEL = -100


def main(settings: dict[str, Any]) -> None:
    importlib.import_module("anneal_child").die_with_parent()
    unsloth: Any = importlib.import_module("unsloth")
    reports: Any = importlib.import_module("anneal_reports")
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    bfloat16 = _is_bfloat16(settings["precision"], unsloth)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    model, _ = unsloth.FastLanguageModel.from_pretrained(dtype=dtype, **settings["model"])
    if settings["adapter"] is not None:
        model = unsloth.FastLanguageModel.get_peft_model(model, **settings["adapter"])
    rows = [json.loads(line) for line in Path(settings["rows_file"]).read_text().splitlines()]
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(bf16=bfloat16, **settings["arguments"]),
        train_dataset=rows,
        data_collator=_padded,
    )
    trainer.add_callback(reports.watch(trainer))
    trainer.train()
    model.save_pretrained(settings["output_dir"])


def _is_bfloat16(precision: str, unsloth: Any) -> bool:
    """As the engine's `auto`: bfloat16 where the hardware has it, else float32, never float16."""
    if precision == "auto":
        return bool(unsloth.is_bfloat16_supported())
    return precision == "bfloat16"


def _padded(rows: list[dict[str, list[int]]]) -> Any:
    """A batch, filled at the right with what neither attention nor loss sees."""
    torch: Any = importlib.import_module("torch")
    longest = max(len(row["input_ids"]) for row in rows)
    filling = {"input_ids": 0, "attention_mask": 0, "labels": _NO_LABEL}
    return {
        name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in filling.items()
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
