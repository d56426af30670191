"""`anneal dataset tokens` and the client's part in it, against the scripted service."""

import json
from typing import Any

import pytest
from rich.console import Console

from anneal.cli.root import run
from anneal.client import Client
from anneal.common.v1.conversation_pb2 import ROLE_ASSISTANT, ROLE_USER
from anneal.dataset.v1.dataset_pb2 import MaskBreach, MaskProof, Token, TokenizedExample
from anneal.errors import Unavailable
from tests.contract.anneal.scripted import World

Captured = pytest.CaptureFixture[str]
BREACH = MaskBreach(index=3, code="NO_TRAINED_TOKEN", message="nothing is left")
LEARNT = [
    Token(id=2, text="<|user|>"),
    Token(id=40, text="1+1?\n\x1b[31m", role=ROLE_USER),
    Token(id=41, text="2", role=ROLE_ASSISTANT, trained=True, weight=0.5),
    Token(id=1, text="<|end|>", role=ROLE_ASSISTANT, cut_off=True),
]
ROW = TokenizedExample(
    index=3,
    sequences=[
        TokenizedExample.Sequence(
            tokens=LEARNT, token_count=6, trained_token_count=1, truncated=True
        )
    ],
    breaches=[BREACH],
)
COMMAND = ["dataset", "tokens", "support", "--base", "tiny-base"]
ask = pytest.mark.usefixtures("environment")


@ask
def test_a_pipe_gets_a_line_for_each_token(world: World, capsys: Captured) -> None:
    world.tokenized = [ROW]
    assert run([*COMMAND, "--row", "3", "--max-tokens", "64"]) == 0
    printed = capsys.readouterr()
    assert [line.split("\t") for line in printed.out.splitlines()] == [
        ["3", "2", "-", "-", "<|user|>"],
        ["3", "40", "user", "-", "1+1?\\n\\x1b[31m"],
        ["3", "41", "assistant", "0.5", "2"],
        ["3", "1", "assistant", "cut off", "<|end|>"],
    ]
    assert printed.err == "row 3: NO_TRAINED_TOKEN, nothing is left\n"
    (asked,) = world.requests("PreviewTokens")
    assert asked.name == "projects/default/datasets/support/versions/latest"
    assert (asked.base_model, asked.first_row, asked.max_tokens) == ("baseModels/tiny-base", 3, 64)
    assert asked.page_size == 1


@ask
def test_a_terminal_gets_colours(
    world: World, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def coloured(**options: Any) -> Console:
        return Console(**options, force_terminal=True, color_system="standard", width=80)

    monkeypatch.setattr("anneal.cli.dataset_tokens.is_terminal", lambda: True)
    monkeypatch.setattr("rich.console.Console", coloured)
    world.tokenized = [ROW]
    assert run(COMMAND) == 0
    shown = capsys.readouterr().out
    assert "#3: 1 of 6 tokens are learnt, the end is cut off" in shown
    assert "\x1b[1;32m2\x1b[0m" in shown  # bold and green: learnt
    assert "\x1b[2;9m<|end|>\x1b[0m" in shown  # struck out
    assert "·[31m" in shown  # the row's own words move no cursor
    assert "… and 2 more" in shown


@ask
def test_programs_get_json(world: World, capsys: Captured) -> None:
    world.tokenized = [ROW, ROW, ROW]
    assert run([*COMMAND, "-n", "2", "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 2
    assert rows[0]["sequences"][0]["tokens"][2]["trained"]
    assert rows[0]["breaches"][0]["code"] == "NO_TRAINED_TOKEN"


@ask
def test_rows_that_the_template_refuses_have_no_tokens(world: World, capsys: Captured) -> None:
    refused = MaskBreach(index=3, code="TEMPLATE_UNSUPPORTED", message="unknown role: tool")
    world.tokenized = [TokenizedExample(index=3, breaches=[refused])]
    assert run(COMMAND) == 1
    assert capsys.readouterr().err == "row 3: TEMPLATE_UNSUPPORTED, unknown role: tool\n"


@ask
def test_a_proof_fails_where_a_row_breaks_the_contract(world: World, capsys: Captured) -> None:
    good = MaskProof(row_count=1000, trained_token_count=12_345, truncated_row_count=2)
    world.proofs = [MaskProof(row_count=500), good]
    assert run([*COMMAND, "--prove"]) == 0
    assert capsys.readouterr().out == (
        "1,000 rows: 12,345 tokens are learnt, 2 rows lose their end, "
        "0 cannot be learnt as they should\n"
    )
    bad = MaskProof(row_count=9, breaching_row_count=1, breach_count=4, breaches=[BREACH])
    world.proofs = [MaskProof(), bad]
    assert run([*COMMAND, "--prove"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "row 3: NO_TRAINED_TOKEN, nothing is left",
        "… and 3 more",
    ]
    assert run([*COMMAND, "--prove", "-o", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["breach_count"] == "4"


def test_the_client_tells_how_far_a_proof_is(world: World, client: Client) -> None:
    world.proofs = [MaskProof(row_count=500), MaskProof(row_count=1000)]
    seen: list[int] = []
    proof = client.datasets.prove_masks(
        "support", "tiny-base", on_progress=lambda one: seen.append(one.row_count)
    )
    assert (proof.row_count, seen) == (1000, [500])


def test_a_proof_that_ends_early_proves_nothing(world: World, client: Client) -> None:
    world.proofs = [MaskProof(row_count=500)]
    with pytest.raises(Unavailable, match="ended before all rows"):
        client.datasets.prove_masks("support", "tiny-base")


def test_the_client_goes_through_all_rows(world: World, client: Client) -> None:
    world.tokenized = [TokenizedExample(index=index) for index in range(5)]
    rows = client.datasets.tokens("support", "tiny-base")
    assert [row.index for row in rows] == [0, 1, 2, 3, 4]
