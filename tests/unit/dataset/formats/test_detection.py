"""What is proposed for a table, by its columns and its first rows."""

from typing import Any

import pytest

from services.dataset.domain.formats.detection import propose
from tests.unit.dataset.formats.rows import say

TURN = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
TALK = [say(), say("assistant")]
OTHER = [say(), say("assistant", "other")]
TURNS = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]

TABLES: list[tuple[dict[str, Any], str, dict[str, str], tuple[str, ...]]] = [
    ({"text": "a"}, "text", {}, ()),
    ({"body": "a"}, "text", {"text": "body"}, ()),
    ({"text": TURN}, "chatml", {}, ()),
    ({"content": TURN, "id": 7}, "chatml", {"text": "content"}, ("id",)),
    ({"conversations": TALK}, "chat", {"messages": "conversations"}, ()),
    ({"conversations": TURNS}, "sharegpt", {}, ()),
    ({"prompt": [say()], "completion": [say("assistant")]}, "prompt_completion", {}, ()),
    ({"question": "a", "chosen": "b", "rejected": "c"}, "preference", {
        "chosen": "chosen",
        "rejected": "rejected",
        "prompt": "question",
    }, ()),
    ({"chosen": TALK, "rejected": OTHER}, "preference", {}, ()),
    ({"prompt": "text", "messages": TALK, "chosen": TALK, "rejected": OTHER, "score": 7},
     "preference",
     {"chosen": "chosen", "rejected": "rejected", "prompt": "prompt"},
     ("messages", "score")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "name", "columns", "dropped"), TABLES)
def test_the_format_that_fits_is_proposed(
    row: dict[str, Any], name: str, columns: dict[str, str], dropped: tuple[str, ...]
):
    found = propose([row, row])

    assert (found.shape.format.value, dict(found.shape.columns)) == (name, columns)
    assert found.dropped == dropped
    assert (found.readable_count, found.row_count) == (2, 2)


def test_chatml_of_which_some_rows_are_cut_off_is_not_taken_for_plain_text():
    found = propose([{"text": TURN}, {"text": TURN[:-15]}, {"text": TURN}])

    assert found.shape.format.value == "chatml"
    assert (found.readable_count, found.row_count) == (2, 3)
