"""Uses a tuned adapter without Anneal: transformers and PEFT are all it takes.

    anneal model download support@champion my-adapter
    python use_with_peft.py BASE_MODEL_DIR my-adapter "Where is my parcel?"

Works with the results of `lora` and `qlora`. Those of `prefix` and `adapter` need one line more,
`import services.tuners`, by which PEFT learns these methods.
"""

import argparse
import json
from typing import Any

import torch
import transformers
from peft import PeftModel

_transformers: Any = transformers  # its auto classes are not typed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("question")
    parser.add_argument("--logits", action="store_true", help="print the prompt's logits instead")
    arguments = parser.parse_args()

    tokenizer = _transformers.AutoTokenizer.from_pretrained(arguments.base)
    base = _transformers.AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    model: Any = PeftModel.from_pretrained(base, arguments.adapter).eval()

    conversation = [{"role": "user", "content": arguments.question}]
    prompt = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        if arguments.logits:
            print(json.dumps(model(**prompt).logits[0].tolist()))
            return
        output = model.generate(**prompt, max_new_tokens=64, do_sample=False)
    print(tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
