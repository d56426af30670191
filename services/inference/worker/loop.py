"""The worker's loop: a thread reads requests, the main thread answers one after the other."""

import queue
import threading
from collections.abc import Iterable
from typing import BinaryIO

from services.chat.conversation import Conversation, Message
from services.chat.conversation import Role as ChatRole
from services.chat.errors import ChatError
from services.inference.worker import protocol
from services.inference.worker.errors import ContextExceeded, ModelUnusable
from services.inference.worker.model import ResidentModel


class Worker:
    """Answers until its input ends. A cancelled request stops at its next token."""

    def __init__(self, model: ResidentModel, pipe: BinaryIO) -> None:
        self._model = model
        self._pipe = pipe
        self._requests: queue.Queue[protocol.Generate | protocol.ScoreTurns | None] = queue.Queue()
        self._wanted: set[int] = set()

    def serve(self, lines: Iterable[bytes]) -> None:
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        self._send(protocol.Ready())
        while (request := self._requests.get()) is not None:
            if request.id in self._wanted:
                self._answer(request)
            self._wanted.discard(request.id)

    def _read(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            request = protocol.read_request(line)
            if isinstance(request, protocol.Cancel):
                self._wanted.discard(request.id)
            else:
                self._wanted.add(request.id)
                self._requests.put(request)
        self._requests.put(None)

    def _answer(self, request: protocol.Generate | protocol.ScoreTurns) -> None:
        try:
            match request:
                case protocol.Generate():
                    self._generate(request)
                case protocol.ScoreTurns():
                    self._score(request)
        except ContextExceeded as error:
            self._send(protocol.TooLong(id=request.id, tokens=error.tokens, limit=error.limit))
        except ChatError as error:
            self._send(protocol.Refused(id=request.id, message=str(error)))
        except ModelUnusable as error:
            self._send(protocol.Unusable(id=request.id, message=str(error)))

    def _generate(self, request: protocol.Generate) -> None:
        answer = self._model.generate(
            request.artifacts,
            _conversation(request.turns, train=False),
            request.sampling,
            send=lambda text: self._send(protocol.TextPiece(id=request.id, text=text)),
            cancelled=lambda: request.id not in self._wanted,
        )
        if answer is None:
            return
        self._send(
            protocol.End(
                id=request.id,
                finish_reason=answer.finish_reason,
                prompt_tokens=answer.prompt_tokens,
                output_tokens=answer.output_tokens,
            )
        )

    def _score(self, request: protocol.ScoreTurns) -> None:
        loss_sum, token_count = self._model.score(
            request.artifacts, _conversation(request.turns, train=True)
        )
        self._send(protocol.Scored(id=request.id, loss_sum=loss_sum, token_count=token_count))

    def _send(self, answer: protocol.Answer) -> None:
        self._pipe.write(answer.to_line())
        self._pipe.flush()


def _conversation(turns: tuple[protocol.WireTurn, ...], *, train: bool) -> Conversation:
    return Conversation.of(
        *(
            Message(ChatRole(turn.role), turn.content, train=train and turn.role == "assistant")
            for turn in turns
        )
    )
