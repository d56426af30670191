"""One base model in memory, and the adapters that answer on top of it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from services.chat.conversation import Conversation
from services.chat.encoder import ChatEncoder
from services.chat.errors import ChatError
from services.inference.domain.generation import FinishReason, Sampling
from services.inference.worker.sampling import TokenChooser
from services.inference.worker.text import TextStream

_ADAPTERS_IN_MEMORY = 8


class ContextExceeded(Exception):
    """The conversation has more tokens than the model takes."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"{tokens} tokens, and the model takes {limit}")
        self.tokens = tokens
        self.limit = limit


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
    ) -> Answer:
        """Sends the answer's text piece by piece. Raises ContextExceeded and ChatError."""
        prompt = self._encoder.prompt(conversation)
        if len(prompt) >= self._context:
            raise ContextExceeded(len(prompt), self._context - 1)
        limit = min(sampling.max_output_tokens, self._context - len(prompt))
        answer = Answer(len(prompt))
        stream = TextStream(self._encoder.decode, sampling.stop_sequences)
        with self._using(adapter):
            for token in self._tokens(prompt, sampling, limit):
                if cancelled():
                    return answer
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

        Raises ContextExceeded and ChatError.
        """
        example = self._encoder.encode(conversation, max_tokens=self._context + 1)
        if len(example.token_ids) > self._context:
            raise ContextExceeded(len(example.token_ids), self._context)
        ids = torch.tensor([example.token_ids])
        labeled = torch.tensor(example.labeled)[1:]
        with self._using(adapter):
            logits = self._model(input_ids=ids).logits[0, :-1][labeled].double()
        targets = ids[0, 1:][labeled]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        return float(loss), len(targets)

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
        if isinstance(self._model, PeftModel):
            self._model.load_adapter(directory, adapter_name=name, is_trainable=False)
        else:
            self._model = PeftModel.from_pretrained(
                self._model, directory, adapter_name=name, is_trainable=False
            )
        self._model.eval()


__all__ = ["Answer", "ChatError", "ContextExceeded", "ResidentModel"]
