"""The canonical file: same examples, same bytes; readable a row group at a time."""

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chat.conversation import Content, Conversation, Message, Role
from services.dataset.domain import canonical
from services.dataset.domain.canonical import (
    ROW_GROUP_CHARACTERS,
    ROW_GROUP_EXAMPLES,
    CanonicalReader,
    CanonicalWriter,
    Damaged,
)
from services.dataset.domain.layouts import WeightedConversations


def asked(
    question: str, answer: str = "yes", *, train: bool = True, weight: float = 1.0
) -> Conversation:
    answered = Message(Role.ASSISTANT, answer, train, weight)
    return Conversation.of(Message(Role.USER, question), answered)


def written(*examples: Content) -> bytes:
    file = io.BytesIO()
    writer = CanonicalWriter(file)
    for example in examples:
        writer.append(example)
    writer.close()
    return file.getvalue()


def read(content: bytes) -> list[list[Content]]:
    reader = CanonicalReader(content[-CanonicalReader.footer_bytes(content[-8:]) :])
    return [
        list(reader.read(group, content[group.offset : group.offset + group.size_bytes]))
        for group in reader.groups
    ]


turns = (
    st.builds(Message, st.just(Role.USER), st.text())
    | st.builds(Message, st.just(Role.ASSISTANT), st.text(), st.booleans())
    | st.builds(
        Message, st.just(Role.ASSISTANT), st.text(), st.just(True), st.floats(0.001, 1000.0)
    )
)


conversations = st.lists(turns, min_size=1).map(lambda turns: Conversation(tuple(turns)))


@settings(max_examples=50, deadline=None)
@given(st.lists(conversations, min_size=1) | st.lists(st.text(), min_size=1))
def test_what_is_written_is_read_and_written_alike_again(examples: list[Content]):
    content = written(*examples)

    assert read(content) == [examples]
    assert written(*examples) == content


def test_other_parquet_readers_find_the_agreed_column():
    content = written(asked("1+1?", "2", train=False))

    table = pq.read_table(io.BytesIO(content))

    assert table.column_names == ["messages"]
    assert table.column("messages").to_pylist() == [
        [
            {"role": "user", "content": "1+1?", "train": False},
            {"role": "assistant", "content": "2", "train": False},
        ]
    ]


def test_other_parquet_readers_find_the_weights_of_weighted_messages():
    content = written(asked("1+1?", "2", train=False), asked("2+2?", "4", weight=0.1), asked("?"))

    turns = pq.read_table(io.BytesIO(content)).column("messages").to_pylist()

    assert turns[1] == [
        {"role": "user", "content": "2+2?", "weight": 0.0},
        {"role": "assistant", "content": "4", "weight": 0.1},
    ]
    assert [answer["weight"] for _, answer in turns] == [0.0, 0.1, 1.0]


@pytest.mark.parametrize("count", [1, ROW_GROUP_EXAMPLES, ROW_GROUP_EXAMPLES + 5])
def test_a_weight_that_comes_late_gives_the_file_of_one_that_is_known_of(
    count: int, monkeypatch: pytest.MonkeyPatch
):
    examples = [asked(str(number), train=number % 3 > 0) for number in range(count)]
    examples += [asked("2+2?", weight=0.5), asked("3+3?")]

    content = written(*examples)

    assert [example for group in read(content) for example in group] == examples
    monkeypatch.setattr(canonical, "layout_of", lambda _: WeightedConversations)
    assert written(*examples) == content


def test_a_weight_that_comes_late_leaves_nothing_beside_the_file(tmp_path: Path):
    file = io.BytesIO()
    writer = CanonicalWriter(file, tmp_path)
    for example in (asked("1+1?"), asked("2+2?", weight=2.0)):
        writer.append(example)
    writer.close()

    assert file.getvalue() == written(asked("1+1?"), asked("2+2?", weight=2.0))
    assert not list(tmp_path.iterdir())


def test_plain_texts_are_a_column_of_their_own():
    content = written("One.", " two\n")

    assert pq.read_table(io.BytesIO(content)).to_pydict() == {"text": ["One.", " two\n"]}
    assert content != written(*[Conversation.of(Message(Role.USER, t)) for t in ("One.", " two\n")])


@pytest.mark.parametrize("examples", [("One.", asked("1+1?")), (asked("1+1?"), "One.")])
def test_a_file_takes_conversations_or_plain_texts_but_not_both(examples: tuple[Content, ...]):
    with pytest.raises(TypeError, match="takes no"):
        written(*examples)


def test_row_groups_of_plain_texts_end_where_those_of_conversations_do():
    long = "x" * (ROW_GROUP_CHARACTERS // 4)

    assert [len(group) for group in read(written(*[long] * 5))] == [4, 1]
    groups = read(written(*map(str, range(ROW_GROUP_EXAMPLES + 1))))
    assert [len(group) for group in groups] == [ROW_GROUP_EXAMPLES, 1]


def test_a_row_group_ends_after_so_many_examples():
    groups = read(written(*[asked(str(number)) for number in range(ROW_GROUP_EXAMPLES + 1)]))

    assert [len(group) for group in groups] == [ROW_GROUP_EXAMPLES, 1]
    assert groups[1] == [asked(str(ROW_GROUP_EXAMPLES))]


def test_a_row_group_ends_after_so_many_characters():
    long = asked("x" * (ROW_GROUP_CHARACTERS // 4))

    assert [len(group) for group in read(written(*[long] * 5))] == [4, 1]


def test_the_digest_is_the_files_sha256():
    content = written(asked("1+1?"))

    assert canonical.digest(io.BytesIO(content)) == hashlib.sha256(content).hexdigest()


def test_a_flipped_bit_is_noticed_when_its_row_group_is_read():
    content = bytearray(written(*[asked(str(number)) for number in range(1000)]))
    content[len(content) // 3] ^= 1

    with pytest.raises(Damaged):
        read(bytes(content))


def test_what_is_no_parquet_is_damaged():
    with pytest.raises(Damaged):
        read(b"something else entirely")
    with pytest.raises(Damaged):
        CanonicalReader(b"\x00" * 50 + b"\x20\x00\x00\x00PAR1")
    with pytest.raises(Damaged):
        read(other_table())


def other_table() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["1+1?"]}), file)
    return file.getvalue()
