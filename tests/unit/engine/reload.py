"""`python reload.py BASE RESULT PROMPT…`: loads a result as a stranger would, in a process of its
own, and prints what it answers: a JSON list of token ids."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import services.tuners as tuners


def load(base: Path, result: Path) -> Any:
    encoder_decoder = AutoConfig.from_pretrained(base).is_encoder_decoder
    auto = AutoModelForSeq2SeqLM if encoder_decoder else AutoModelForCausalLM
    if not (result / "adapter_config.json").exists():
        return auto.from_pretrained(result)
    assert tuners.__name__  # imported, it makes PEFT know our methods
    return PeftModel.from_pretrained(auto.from_pretrained(base), result)


def answer(model: Any, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}
    return model.eval().generate(input_ids=ids, attention_mask=mask, **options)[0].tolist()


if __name__ == "__main__":
    torch.set_num_threads(1)
    model = load(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps([answer(model, json.loads(prompt)) for prompt in sys.argv[3:]]))
