"""`python -m tests.unit.engine.reload QUESTIONS`: loads results as a stranger would, in a process
of its own. QUESTIONS is a JSON file with a list of `[base, result, bits, prompt]`; printed is, in
JSON, a list of what `answer` and `first_logits` give for each."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
)

import services.tuners as tuners

QUANTISED = {
    4: BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    8: BitsAndBytesConfig(load_in_8bit=True),
}


def load(base: Path, result: Path, bits: int = 0) -> Any:
    """The result on its base model, which is quantised to so many bits (0: not at all)."""
    encoder_decoder = AutoConfig.from_pretrained(base).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    if not (result / "adapter_config.json").exists():
        return auto.from_pretrained(result)
    assert tuners.__name__  # imported, it makes PEFT know our methods
    options = {"quantization_config": QUANTISED[bits]} if bits else {}
    model = PeftModel.from_pretrained(auto.from_pretrained(base, **options), result)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False  # it would compute in bfloat16
    return model


def answer(model: Any, prompt: list[int]) -> list[int]:
    return _generated(model, prompt, 12).sequences[0].tolist()


def first_logits(model: Any, prompt: list[int]) -> list[float]:
    """Those of the first token of the answer."""
    return _generated(model, prompt, 1).logits[0][0].tolist()


def _generated(model: Any, prompt: list[int], tokens: int) -> Any:
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    return model.eval().generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


def _reloaded(base: str, result: str, bits: int, prompt: list[int]) -> tuple[Any, Any]:
    model = load(Path(base), Path(result), bits)
    return answer(model, prompt), first_logits(model, prompt)


if __name__ == "__main__":
    torch.set_num_threads(1)
    questions = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps([_reloaded(*question) for question in questions]))
