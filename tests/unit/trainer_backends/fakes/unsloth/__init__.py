"""Stands in for unsloth, as far as the driver calls it: plain transformers and PEFT instead of
unsloth's kernels. A parameter that unsloth does not have is none here either."""

import peft
import torch
from transformers import AutoModelForCausalLM, set_seed


def is_bfloat16_supported() -> bool:
    return False


class FastLanguageModel:
    @staticmethod
    def from_pretrained(
        model_name: str,
        max_seq_length: int,
        dtype: torch.dtype,
        load_in_4bit: bool,
        load_in_8bit: bool,
        full_finetuning: bool,
        use_gradient_checkpointing: str | bool,
        use_exact_model_name: bool,
        random_state: int,
        trust_remote_code: bool,
    ):
        assert not load_in_4bit
        assert not load_in_8bit
        assert use_exact_model_name
        assert not trust_remote_code
        model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype)
        model.requires_grad_(full_finetuning)
        return model, None

    @staticmethod
    def get_peft_model(
        model,
        r: int,
        target_modules: list[str],
        lora_alpha: int,
        lora_dropout: float,
        bias: str,
        use_gradient_checkpointing: str | bool,
        random_state: int,
        use_rslora: bool,
    ):
        set_seed(random_state)
        config = peft.LoraConfig(
            r=r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=target_modules,
            bias=bias,
            use_rslora=use_rslora,
            task_type="CAUSAL_LM",
        )
        return peft.get_peft_model(model, config)
