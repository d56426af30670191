"""`anneal chat`."""

from contextlib import closing, suppress
from importlib import import_module
from typing import Annotated

import typer

from anneal.cli.exits import exit_for
from anneal.cli.failures import describe
from anneal.cli.printing import Format, OutputOption, is_terminal, print_json_line
from anneal.cli.settings import client_for
from anneal.client import Client
from anneal.common.v1.conversation_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, ChatMessage
from anneal.errors import AnnealError
from anneal.inference.v1.inference_service_pb2 import SamplingParameters

app = typer.Typer(add_completion=False)

GREETING = "/reset forgets the conversation, /quit (or Ctrl-D) ends it, Ctrl-C stops an answer."


@app.command()
def chat(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="`tiny-base`, `support@champion`, `support@latest` or `support/v-…`."),
    ],
    message: Annotated[
        str, typer.Option("--message", "-m", help="Say this, print the answer, and end.")
    ] = "",
    system: Annotated[str, typer.Option(help="Instructions for the whole conversation.")] = "",
    max_output_tokens: Annotated[int | None, typer.Option(help="[256]")] = None,
    temperature: Annotated[float | None, typer.Option(help="0: the likeliest token [0].")] = None,
    top_p: Annotated[float | None, typer.Option(help="[1]")] = None,
    top_k: Annotated[int | None, typer.Option(help="[0: all]")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="[1]")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this; repeatable.")] = None,
    output: OutputOption = Format.TEXT,
) -> None:
    """Talk to a model. Without -m: a conversation, with its history."""
    sampling = SamplingParameters(
        max_output_tokens=max_output_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop_sequences=stop or (),
    )
    with client_for(ctx) as client:
        conversation = Conversation(client, model, system, sampling, output)
        if message:
            conversation.say(message)
        else:
            _converse(conversation)


class Conversation:
    """The turns so far, with one model."""

    def __init__(
        self, client: Client, model: str, system: str, sampling: SamplingParameters, output: Format
    ) -> None:
        self._client = client
        self._model = model
        self._start = [ChatMessage(role=ROLE_SYSTEM, content=system)] if system else []
        self._sampling = sampling
        self._output = output
        self.reset()

    def reset(self) -> None:
        self._turns = list(self._start)

    def say(self, text: str) -> None:
        """Prints the answer piece by piece. A turn that fails or is stopped is not remembered."""
        turns = [*self._turns, ChatMessage(role=ROLE_USER, content=text)]
        said = ""
        answers = self._client.inference.stream(self._model, turns, sampling=self._sampling)
        with closing(answers):
            for piece in answers:
                if self._output is Format.JSON:
                    print_json_line(piece)
                else:
                    print(piece.text, end="", flush=True)
                said += piece.text
        if self._output is Format.TEXT:
            print()
        self._turns = [*turns, ChatMessage(role=ROLE_ASSISTANT, content=said)]


def _converse(conversation: Conversation) -> None:
    if is_terminal():
        with suppress(ImportError):
            import_module("readline")  # gives input() editing and history
        print(GREETING)
    prompt = "> " if is_terminal() else ""
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            return
        if text == "/quit":
            return
        if text == "/reset":
            conversation.reset()
        elif text:
            _answer(conversation, text)


def _answer(conversation: Conversation, text: str) -> None:
    """Says `text`; on a terminal a failure or Ctrl-C ends the answer, not the conversation."""
    try:
        conversation.say(text)
    except KeyboardInterrupt:
        if not is_terminal():
            raise
        print(" …")
    except AnnealError as error:
        if not is_terminal():
            raise
        print(f"{describe(error)}\n(code {exit_for(error)})")
