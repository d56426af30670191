"""From the bytes of an upload to its canonical file or its rejection."""

import io
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataset.domain.errors import EmptyUpload, Rejection, UploadRejected
from services.dataset.domain.formats.catalogue import Shape
from services.dataset.domain.intake import Examined, Intake
from services.dataset.domain.lines import MAX_LINE_BYTES
from services.dataset.domain.resources import SourceFormat


def examined(*chunks: bytes, shape: Shape | None = None) -> Examined:
    intake = Intake(shape, io.BytesIO())
    for chunk in chunks:
        intake.feed(chunk)
    return intake.end()


def rejection(*chunks: bytes, **options: Any) -> Rejection:
    with pytest.raises(UploadRejected) as caught:
        examined(*chunks, **options)
    assert isinstance(caught.value.payload, Rejection)
    return caught.value.payload


def faults(*chunks: bytes, **options: Any) -> list[tuple[int, str, str]]:
    found = rejection(*chunks, **options).faults
    return [(fault.line, str(fault.code), fault.pointer) for fault in found]


def chat(question: str = "1+1?", answer: str = "2") -> bytes:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode()


def row(prompt: str = "1+1?", completion: str = "2") -> bytes:
    return json.dumps({"prompt": prompt, "completion": completion}).encode()


def text(words: str = "All parcels are blue.") -> bytes:
    return json.dumps({"text": words}).encode()


def test_blank_lines_are_no_examples_but_have_numbers():
    assert (
        examined(b"\n  \r\n" + chat() + b"\n\n" + chat("2+2?", "4") + b"\n\t\n").example_count == 2
    )
    assert faults(b"\n\r\n" + chat() + b"\nx\n") == [(4, "NOT_JSON", "")]


def test_every_bad_line_is_named():
    lines = [chat(), b"{", chat("a"), b"[]", b"\xff", b"7", b'{"messages": [NaN, NaN]}', chat("b")]

    assert faults(b"\n".join(lines)) == [
        (2, "NOT_JSON", ""),
        (4, "NOT_AN_OBJECT", ""),
        (5, "NOT_UTF8", ""),
        (6, "NOT_AN_OBJECT", ""),
        (7, "NOT_A_FINITE_NUMBER", "/messages/0"),
        (7, "NOT_A_FINITE_NUMBER", "/messages/1"),
    ]


def test_a_line_that_is_too_long_is_named_and_the_others_are_checked():
    too_long = b'{"messages": "' + b"x" * MAX_LINE_BYTES + b'"}'

    assert faults(chat(), b"\n", too_long, b"\nx") == [
        (2, "LINE_TOO_LONG", ""),
        (3, "NOT_JSON", ""),
    ]


def test_the_first_hundred_faults_are_kept_and_all_are_counted():
    found = rejection(b'{"messages": [{}]}\n' * 5000)

    assert len(found.faults) == 100
    assert (found.fault_count, found.line_count) == (10_000, 5000)
    assert found.faults[99].line == 50


def test_the_fault_says_what_to_do():
    with pytest.raises(UploadRejected) as caught:
        examined(chat() + b'\n{"messages": 7}')

    assert caught.value.message == (
        "chunk: 1 fault in 2 lines; line 2 at /messages: WRONG_TYPE, must be a list"
    )
    assert caught.value.reason == "UPLOAD_REJECTED"


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\n", b"\xef\xbb\xbf"])
def test_an_upload_without_examples_is_empty(content: bytes):
    with pytest.raises(EmptyUpload):
        examined(content)


def test_the_first_readable_line_says_how_all_are_written():
    assert examined(chat()).source_format is SourceFormat.CHAT
    assert examined(row()).source_format is SourceFormat.PROMPT_COMPLETION
    assert examined(text()).source_format is SourceFormat.TEXT
    assert faults(b"x\n" + row() + b"\n" + chat()) == [
        (1, "NOT_JSON", ""),
        (3, "UNKNOWN_FIELD", "/messages"),
        (3, "MISSING_FIELD", "/prompt"),
        (3, "MISSING_FIELD", "/completion"),
    ]


def test_a_first_line_of_neither_format_is_taken_for_a_chat():
    assert faults(b'{"body": "a"}') == [
        (1, "UNKNOWN_FIELD", "/body"),
        (1, "MISSING_FIELD", "/messages"),
    ]


def test_a_format_that_the_caller_gave_is_not_guessed():
    assert faults(row(), shape=Shape(SourceFormat.CHAT))[-1] == (1, "MISSING_FIELD", "/messages")
    assert faults(chat(), shape=Shape(SourceFormat.PROMPT_COMPLETION))[0][1] == "UNKNOWN_FIELD"


def test_a_table_with_named_columns_is_taken_as_it_is():
    first = b'{"question": "1+1?", "answer": "2", "id": 1}\n'
    second = b'{"id": 2, "answer": "4", "question": "2+2?"}\n'
    columns = {"prompt": "question", "completion": "answer"}
    shape = Shape(SourceFormat.PROMPT_COMPLETION, columns)

    assert (
        examined(first, second, shape=shape).digest
        == examined(row() + b"\n" + row("2+2?", "4")).digest
    )


def test_a_table_with_a_named_text_is_taken_as_it_is():
    lines = b'{"body": "All parcels are blue.", "url": "x"}\n{"id": 2, "body": "Red."}'

    found = examined(lines, shape=Shape(SourceFormat.TEXT, {"text": "body"}))

    assert found.source_format is SourceFormat.TEXT
    assert found.digest == examined(text() + b"\n" + text("Red.")).digest


def test_plain_texts_and_conversations_do_not_mix():
    assert faults(b"\n".join([text(), chat(), text(), row()])) == [
        (2, "UNKNOWN_FIELD", "/messages"),
        (2, "MISSING_FIELD", "/text"),
        (4, "UNKNOWN_FIELD", "/prompt"),
        (4, "UNKNOWN_FIELD", "/completion"),
        (4, "MISSING_FIELD", "/text"),
    ]
    assert faults(chat() + b"\n" + text()) == [
        (2, "UNKNOWN_FIELD", "/text"),
        (2, "MISSING_FIELD", "/messages"),
    ]
    assert [line for line, _, _ in faults(row() + b"\n" + text())] == [2, 2, 2]


def test_the_same_examples_have_the_same_digest_however_they_are_written():
    spaced = json.dumps(json.loads(chat("é\u2028"))).replace(": ", " :  ").encode()
    escaped = chat("é\u2028")
    raw = json.dumps(json.loads(escaped), ensure_ascii=False).encode()
    as_row = row("é\u2028")
    weighted = escaped.replace(b'"2"}', b'"2", "weight": 1}')
    real = weighted.replace(b"1}", b"1.0}")
    forms = [spaced, escaped, raw, as_row, weighted, real, escaped + b"\r\n"]
    forms.append(b"\xef\xbb\xbf\n\n" + raw)

    assert len({examined(form).digest for form in forms}) == 1


def test_another_order_or_weight_is_another_digest():
    both = [chat(), chat("2+2?", "4")]
    turns = b'{"messages": [%s, {"role": "assistant", "content": "b", "weight": %g}, %s, %s]}'
    user, answer = b'{"role": "user", "content": "a"}', b'{"role": "assistant", "content": "c"}'

    assert examined(b"\n".join(both)).digest != examined(b"\n".join(both[::-1])).digest
    lines = [turns % (user, weight, user, answer) for weight in (0, 0.5, 1, 2)]
    assert len({examined(line).digest for line in lines}) == 4


def test_a_weight_that_is_no_finite_number_is_named_with_its_place():
    line = chat().replace(b'"2"}', b'"2", "weight": %s}')

    assert faults(b"\n".join(line % number for number in (b"NaN", b"-Infinity", b"1e400"))) == [
        (number, "NOT_A_FINITE_NUMBER", "/messages/1/weight") for number in (1, 2, 3)
    ]


contents = st.lists(
    st.sampled_from([chat(), chat("ü\n", "ß"), row(), b"", b"{", b"\xff", b'{"messages": []}']),
    max_size=6,
).map(b"\r\n".join)


def outcome(*chunks: bytes) -> object:
    try:
        return examined(*chunks)
    except UploadRejected as rejected:
        return rejected.payload
    except EmptyUpload:
        return None


@settings(deadline=None)
@given(contents, st.lists(st.integers(0, 400)))
def test_where_chunks_begin_and_end_makes_no_difference(content: bytes, cuts: list[int]):
    bounds = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]

    assert outcome(*[content[start:end] for start, end in pairwise(bounds)]) == outcome(content)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_refused_in_its_line_or_read_as_what_it_says(data: st.DataObject):
    lines = [chat("eins"), chat("zwei"), chat("drei")]
    number = data.draw(st.integers(0, 2))
    place = data.draw(st.integers(0, len(lines[number]) - 1))
    line = bytearray(lines[number])
    line[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != ord("\n")))
    lines[number] = bytes(line)

    found = outcome(b"\n".join(lines))

    if isinstance(found, Rejection):
        assert {fault.line for fault in found.faults} == {number + 1}
    else:
        messages = json.loads(line)["messages"]
        again = chat(messages[0]["content"], messages[1]["content"])
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert found == outcome(b"\n".join([*lines[:number], again, *lines[number + 1 :]]))


def test_a_chatml_text_among_others_is_a_fault_whichever_comes_first():
    marked = text("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n")
    lines = text() + b"\n" + marked + b"\n"
    assert faults(lines) == [(2, "MIXED_FORMATS", "")]
    named = Shape(SourceFormat.TEXT)
    assert faults(marked + b"\n" + text() + b"\n", shape=named) == [(2, "MIXED_FORMATS", "")]
    assert examined(marked + b"\n" + marked + b"\n", shape=named).example_count == 2
