"""One base model in memory, and its versions: what a conversation is answered with."""

from collections.abc import Callable
from pathlib import Path

import torch

from services.chat.conversation import Conversation
from services.inference.domain.generation import FinishReason, Sampling
from services.inference.worker.language_model import LanguageModel
from services.inference.worker.text import TextStream
from services.inference.worker.versions import Versions


class Answer:
    """What is known of an answer beside its text."""

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = 0
        self.finish_reason = FinishReason.LENGTH


class ResidentModel:
    """Loads the base once, and a version when it is first asked for.

    `artifacts` is the directory of a version's artifacts; without one, the base answers.
    """

    def __init__(self, directory: Path) -> None:
        """Raises NetworkUnusable."""
        self._versions = Versions(directory)

    def generate(
        self,
        artifacts: str | None,
        conversation: Conversation,
        sampling: Sampling,
        send: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Answer | None:
        """Sends the answer's text piece by piece; None when it was cancelled.

        Raises ContextExceeded, ChatError and ModelUnusable.
        """
        model = self._model(artifacts)
        with torch.inference_mode():
            return _generate(model, conversation, sampling, send, cancelled)

    def score(self, artifacts: str | None, conversation: Conversation) -> tuple[float, int]:
        """The summed cross-entropy of the trained turns' tokens in nats, and their number.

        Raises ContextExceeded, ChatError and ModelUnusable.
        """
        model = self._model(artifacts)
        with torch.inference_mode():
            return model.score(conversation)

    def _model(self, artifacts: str | None) -> LanguageModel:
        return self._versions.model(None if artifacts is None else Path(artifacts))


def _generate(
    model: LanguageModel,
    conversation: Conversation,
    sampling: Sampling,
    send: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> Answer | None:
    prompt = model.encoder.prompt(conversation)
    limit = min(sampling.max_output_tokens, model.room(prompt))
    answer = Answer(len(prompt))
    stream = TextStream(model.encoder.decode, sampling.stop_sequences)
    for token in model.tokens(prompt, sampling, limit):
        if cancelled():
            return None
        answer.output_tokens += 1
        if token in model.encoder.eos_token_ids:
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
