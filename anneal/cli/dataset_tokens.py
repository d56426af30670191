"""`anneal dataset tokens`: what training sees of a dataset, token by token."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from anneal.cli.exits import Exit
from anneal.cli.printing import Format, OutputOption, as_json, is_terminal, print_json
from anneal.cli.settings import client_for
from anneal.client import Client
from anneal.conversations import role_word
from anneal.dataset.v1.dataset_pb2 import MaskBreach, MaskProof, Token, TokenizedExample

_TRAINED, _CUT_OFF = "bold green", "strike dim"
_BY_ROLE = {"system": "magenta", "user": "cyan", "assistant": "yellow", "tool": "blue"}


def tokens(
    ctx: typer.Context,
    version: Annotated[
        str, typer.Argument(help="`support` (its newest version) or `support/v-…`.")
    ],
    base: Annotated[str, typer.Option(help="The base model, for example `tiny-base`.")],
    row: Annotated[int, typer.Option(min=0, help="The first row that is shown, from 0.")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many rows.")] = 1,
    max_tokens: Annotated[
        int | None, typer.Option(help="As --max-sequence-tokens of the job [512].")
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Look at every row, and show what is wrong alone.")
    ] = False,
    output: OutputOption = Format.TEXT,
) -> None:
    """Show rows as the tokens that training sees, and which of them are learnt.

    On a terminal learnt tokens are green and what is cut off is struck out; a pipe gets a line for
    each token: row, id, whose, weight, text. The command fails if no row can be shown, and with
    --prove if any could not be learnt as it should.
    """
    with client_for(ctx) as client:
        if prove:
            _prove(client, version, base, max_tokens, output)
            return
        rows = list(
            client.datasets.tokens(version, base, first_row=row, limit=limit, max_tokens=max_tokens)
        )
        if output is Format.JSON:
            print_json([as_json(one) for one in rows])
        else:
            for one in rows:
                _print_row(one)
        if not any(one.sequences for one in rows):
            raise typer.Exit(Exit.FAILURE)


def _print_row(row: TokenizedExample) -> None:
    if is_terminal():
        _colour(row)
    else:
        for token in (token for sequence in row.sequences for token in sequence.tokens):
            text = token.text.encode("unicode_escape").decode()
            print(row.index, token.id, _role(token), _state(token), text, sep="\t")
    _print_breaches(row.breaches)


def _colour(row: TokenizedExample) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for sequence in row.sequences:
        counts = f"{sequence.trained_token_count:,} of {sequence.token_count:,} tokens are learnt"
        cut = ", the end is cut off" if sequence.truncated else ""
        console.print(Text(f"#{row.index}: {counts}{cut}", style="bold"))
        shown = Text.assemble(*((_printable(one.text), _style(one)) for one in sequence.tokens))
        left = sequence.token_count - len(sequence.tokens)
        console.print(shown.append(f"\n… and {left:,} more" if left else ""))


def _style(token: Token) -> str:
    if token.cut_off:
        return _CUT_OFF
    return _TRAINED if token.trained else _BY_ROLE.get(_role(token), "dim")


def _state(token: Token) -> str:
    """Its weight, or why it has none."""
    if token.cut_off:
        return "cut off"
    return f"{token.weight:g}" if token.trained else "-"


def _role(token: Token) -> str:
    return role_word(token.role) if token.role else "-"


def _printable(text: str) -> str:
    """Line breaks stay; what a terminal would obey does not."""
    return "".join(char if char.isprintable() or char in "\n\t" else "·" for char in text)


def _prove(client: Client, version: str, base: str, max_tokens: int | None, output: Format) -> None:
    """Raises typer.Exit if any row breaks the contract."""
    proof = client.datasets.prove_masks(version, base, max_tokens=max_tokens)
    if output is Format.JSON:
        print_json(as_json(proof))
    else:
        _print_proof(proof)
    if proof.breach_count:
        raise typer.Exit(Exit.FAILURE)


def _print_proof(proof: MaskProof) -> None:
    print(
        f"{proof.row_count:,} rows: {proof.trained_token_count:,} tokens are learnt, "
        f"{proof.truncated_row_count:,} rows lose their end, "
        f"{proof.breaching_row_count:,} cannot be learnt as they should"
    )
    _print_breaches(proof.breaches)
    left = proof.breach_count - len(proof.breaches)
    if left:
        print(f"… and {left:,} more", file=sys.stderr)


def _print_breaches(breaches: Sequence[MaskBreach]) -> None:
    for one in breaches:
        print(f"row {one.index}: {one.code}, {one.message}", file=sys.stderr)
