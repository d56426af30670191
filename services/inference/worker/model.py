"""One base model in memory, and the adapters that answer on top of it."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType
from transformers import AutoModelForCausalLM

from services.chat.conversation import Conversation
from services.chat.encoder import ChatEncoder
from services.chat.errors import ChatError
from services.inference.domain.generation import FinishReason, Sampling
from services.inference.worker.errors import (
    AdapterUnusable,
    ContextExceeded,
    ModelUnusable,
    OutputNotFinite,
)
from services.inference.worker.sampling import TokenChooser
from services.inference.worker.text import TextStream

_ADAPTERS_IN_MEMORY = 8


class Answer:
    """An answer under way: iterate for its text; afterwards the rest is set."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = 0
        self.finish_reason = FinishReason.LENGTH


class ResidentModel:
    """Loads the base once; adapters are attached beside it and switched, never merged.

    Not safe to use from several threads: switching an adapter changes the shared model.
    """

    def __init__(self, directory: Path) -> None:
        self._encoder = ChatEncoder.load(directory)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            directory, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        self._context = int(self._model.config.max_position_embeddings)
        self._adapters: OrderedDict[str, None] = OrderedDict()

    @torch.inference_mode()
    def generate(
        self,
        adapter: str | None,
        conversation: Conversation,
        sampling: Sampling,
        send: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Answer | None:
        """Sends the answer's text piece by piece; None when it was cancelled.

        Raises ContextExceeded, ChatError and ModelUnusable.
        """
        prompt = self._encoder.prompt(conversation)
        if len(prompt) >= self._context:
            raise ContextExceeded(len(prompt), self._context - 1)
        limit = min(sampling.max_output_tokens, self._context - len(prompt))
        answer = Answer(len(prompt))
        stream = TextStream(self._encoder.decode, sampling.stop_sequences)
        with self._using(adapter):
            for token in self._tokens(prompt, sampling, limit):
                if cancelled():
                    return None
                answer.output_tokens += 1
                if token in self._encoder.eos_token_ids:
                    answer.finish_reason = FinishReason.STOP
                    break
                if text := stream.add(token):
                    send(text)
                if stream.stopped:
                    answer.finish_reason = FinishReason.STOP
                    break
        if rest := stream.finish():
            send(rest)
        return answer

    @torch.inference_mode()
    def score(self, adapter: str | None, conversation: Conversation) -> tuple[float, int]:
        """The summed cross-entropy of the trained turns' tokens in nats, and their number.

        Raises ContextExceeded, ChatError and ModelUnusable.
        """
        example = self._encoder.encode(conversation, max_tokens=self._context + 1)
        if len(example.token_ids) > self._context:
            raise ContextExceeded(len(example.token_ids), self._context)
        ids = torch.tensor([example.token_ids])
        labeled = torch.tensor(example.labeled)[1:]
        with self._using(adapter):
            logits = self._model(input_ids=ids).logits[0, :-1][labeled].double()
        targets = ids[0, 1:][labeled]
        loss = float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        if not math.isfinite(loss):
            raise OutputNotFinite
        return loss, len(targets)

    def _tokens(self, prompt: Sequence[int], sampling: Sampling, limit: int) -> Iterator[int]:
        chooser = TokenChooser(sampling, torch.tensor(prompt))
        ids = torch.tensor([prompt])
        cache: Any = None
        for _ in range(limit):
            output = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            token = chooser.choose(output.logits[0, -1])
            yield token
            ids = torch.tensor([[token]])

    def _using(self, adapter: str | None) -> AbstractContextManager[None]:
        """The model with this adapter, or the bare base, for as long as the block runs."""
        if adapter is not None:
            name = self._attach(Path(adapter))  # may replace the model
            self._model.set_adapter(name)
            return nullcontext()
        return self._model.disable_adapter() if self._adapters else nullcontext()

    def _attach(self, directory: Path) -> str:
        """The adapter's name in the model: its directory's, which is a digest."""
        name = directory.name
        if name not in self._adapters:
            self._load(directory, name)
        self._adapters[name] = None
        self._adapters.move_to_end(name)
        if len(self._adapters) > _ADAPTERS_IN_MEMORY:
            oldest, _ = self._adapters.popitem(last=False)
            self._model.delete_adapter(oldest)
        return name

    def _load(self, directory: Path, name: str) -> None:
        """Raises AdapterUnusable; the base and the other adapters then answer as before."""
        try:
            config = _lora_config(directory)
            if not isinstance(self._model, PeftModel):
                self._model = PeftModel(self._model, config, name)
            loaded: Any = self._model.load_adapter(directory, adapter_name=name)
            if loaded.missing_keys:
                raise AdapterUnusable(f"it has no {loaded.missing_keys[0]}")
        except AdapterUnusable:
            self._unload(name)
            raise
        except Exception as error:  # PEFT and safetensors raise nothing more specific
            self._unload(name)
            raise AdapterUnusable(str(error)) from error
        self._model.eval()

    def _unload(self, name: str) -> None:
        if not self._adapters and isinstance(self._model, PeftModel):
            self._model = self._model.unload()  # PEFT can not answer with no adapter left
        elif name in getattr(self._model, "peft_config", ()):
            self._model.delete_adapter(name)


def _lora_config(directory: Path) -> PeftConfig:
    for required in ("adapter_config.json", "adapter_model.safetensors"):
        if not (directory / required).is_file():  # PEFT would ask the hub, or take a pickle
            raise AdapterUnusable(f"it has no {required}")
    config = PeftConfig.from_pretrained(str(directory))
    if config.peft_type != PeftType.LORA:
        raise AdapterUnusable(f"it is of the kind {config.peft_type}, not LoRA")
    config.inference_mode = True
    return config


__all__ = ["Answer", "ChatError", "ContextExceeded", "ModelUnusable", "ResidentModel"]
