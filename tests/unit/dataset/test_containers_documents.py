"""Documents: their text, in chunks that end where a reader would pause."""

import io
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from services.dataset.domain.containers import documents, web_page
from services.dataset.domain.containers.choices import (
    ContainerKind,
    DocumentChoice,
    DocumentKind,
)
from services.dataset.domain.containers.chunks import chunks
from services.dataset.domain.containers.reading import Reading, Unreadable
from tests.unit.dataset.uploading import document, examples, faults, outcome


def text_of(tmp_path: Path, content: bytes, kind: DocumentKind | None = None) -> str:
    """The text in this process, where no memory is limited."""
    path = tmp_path / "document"
    path.write_bytes(content)
    reading = Reading(str(path), ContainerKind.DOCUMENT, DocumentChoice(kind))
    return "".join(documents.extractor(reading)(path))


def split(text: str, size: int = 100, overlap: int = 0) -> list[str]:
    return list(chunks([text], size, overlap))


def test_a_short_text_is_one_chunk():
    assert split("Blue.\n") == ["Blue."]
    assert split(" \n\n ") == []


def test_a_chunk_ends_with_a_paragraph_rather_than_with_a_sentence():
    text = "a" * 60 + ". " + "b" * 10 + "\n\n" + "c" * 10 + ". " + "d" * 80

    assert split(text) == ["a" * 60 + ". " + "b" * 10, "c" * 10 + ". " + "d" * 80]


def test_a_chunk_ends_before_a_heading_and_nothing_is_repeated_there():
    text = "a " * 30 + "\n# Blue\n\n" + "b " * 10 + "\n\n" + "c " * 40

    first, second, *_ = split(text, overlap=20)

    assert first == ("a " * 30).strip()
    assert second.startswith("# Blue\n")


def test_without_a_pause_a_chunk_is_cut_where_it_is_full():
    assert split("x" * 250) == ["x" * 100, "x" * 100, "x" * 50]


def test_a_word_is_not_cut_where_there_is_another_place():
    assert split("parcel " * 30) == [
        ("parcel " * 14).strip(),
        ("parcel " * 14).strip(),
        "parcel parcel",
    ]


def test_a_chunk_repeats_the_last_sentence_before_it():
    sentences = [f"The parcel of row {number} is blue." for number in range(10, 40)]

    found = split(" ".join(sentences), size=200, overlap=50)

    for before, after in pairwise(found):
        last = re.findall(r"The parcel of row \d+ is blue\.", before)[-1]
        assert after.startswith(last)


def test_a_sentence_of_another_script_is_one():
    assert split("包裹是蓝色的。" * 30)[0].endswith("。")


@st.composite
def texts_of_unlike_letters(draw: st.DrawFn) -> str:
    gaps = draw(st.lists(st.sampled_from(["", "", " ", ". ", "\n", "\n\n", "\n# "]), max_size=100))
    return "".join(f"{chr(0x4E00 + number)}{gap}" for number, gap in enumerate(gaps))


def letters(text: str) -> list[str]:
    return [letter for letter in text if letter >= "\u4e00"]


@settings(max_examples=50, deadline=None)
@given(texts_of_unlike_letters(), st.integers(4, 60), st.data())
def test_no_letter_is_lost_and_no_chunk_is_too_long(text: str, size: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, size // 2))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    bounds = [0, *cuts, len(text)]

    found = list(chunks([text[a:b] for a, b in pairwise(bounds)], size, overlap))

    assert all(0 < len(chunk) <= size and chunk in text for chunk in found)
    once = list(dict.fromkeys(letter for chunk in found for letter in letters(chunk)))
    assert once == letters(text)
    repeated = sum(len(letters(chunk)) for chunk in found) - len(once)
    assert repeated <= overlap * max(0, len(found) - 1)
    assert found == list(chunks([text], size, overlap))


def test_a_text_document_becomes_plain_texts():
    content = b"\xef\xbb\xbf" + ("All parcels\r\nare blue.\r\n\r\n" * 300).encode()

    found = examples(content, choice=document(chunk_characters=1000, overlap_characters=0))

    assert 6 < len(found) < 20
    assert all(isinstance(text, str) and text.endswith("blue.") for text in found)
    assert "\r" not in "".join(map(str, found))


@pytest.mark.parametrize(
    ("content", "kind", "code"),
    [
        (b"a\xff", None, "NOT_UTF8"),
        ("blue".encode("utf-16"), None, "NOT_UTF8"),
        (b"a\0b", DocumentKind.MD, "NOT_TEXT"),
        (b"hello", DocumentKind.PDF, "CONTAINER_DAMAGED"),
        (b"%PDF-1.4 hello", DocumentKind.TXT, "CONTAINER_DAMAGED"),
        (b"%PDF-1.4 hello", None, "CONTAINER_DAMAGED"),
        (b"PK\x03\x04hello", None, "CONTAINER_DAMAGED"),
    ],
)
def test_a_document_that_is_none_is_named(
    tmp_path: Path, content: bytes, kind: DocumentKind | None, code: str
):
    with pytest.raises(Unreadable) as caught:
        text_of(tmp_path, content, kind)

    assert caught.value.flaw.code == code


def test_documents_must_be_named():
    page = b"\n<!DOCTYPE html><html><body>Not found</body></html>"

    assert outcome(page) == [(1, "UNKNOWN_CONTAINER")]
    assert faults(b"%PDF-1.7")[0].message == "this is a PDF file; name the container document"
    assert examples(page, choice=document()) == ["Not found"]


def test_an_empty_document_is_an_empty_upload():
    assert outcome(b"\n\n", choice=document()) == "EMPTY_UPLOAD"


@pytest.mark.parametrize(("chunk", "overlap"), [(99, 0), (100_001, 0), (1000, 501), (1000, -1)])
def test_chunks_out_of_bounds_are_refused(chunk: int, overlap: int):
    with pytest.raises(ValueError, match="chunk"):
        DocumentChoice(None, chunk, overlap)


PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style></head>
<body><nav>Home</nav><h2>Parcels &amp; colours</h2><p>All are <b>blue</b>,
even&nbsp;now.<script>var a = "<p>no</p>";</script></p>
<ul><li>one</li><li>two</ul><pre>a
  b</pre><p>Line<br>break</body></html>"""


def test_a_web_page_is_its_text(tmp_path: Path):
    text = text_of(tmp_path, PAGE.encode())

    assert [line for line in text.split("\n") if line.strip()] == [
        "Home", "## Parcels & colours", "All are blue, even\xa0now.", "- one", "- two",
        "a", "  b", "Line", "break",
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, len(PAGE)), max_size=4))
def test_where_the_pieces_of_a_page_begin_makes_no_difference(cuts: list[int]):
    bounds = [0, *sorted(cuts), len(PAGE)]
    pieces = [PAGE[start:end] for start, end in pairwise(bounds)]

    assert "".join(web_page.pieces(pieces)).split() == "".join(web_page.pieces([PAGE])).split()


W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(body: str, *, name: str = "word/document.xml", before: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            name, f'{before}<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
        )
    return file.getvalue()


BODY = (
    '<w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Parcels</w:t></w:r></w:p>'
    '<w:p><w:r><w:t xml:space="preserve">All are </w:t></w:r>\n<w:r><w:t>blue</w:t><w:tab/>'
    "<w:t>é.</w:t><w:br/><w:instrText>PAGE</w:instrText></w:r></w:p>"
    "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell</w:t></w:r></w:p></w:tc></w:tr></w:tbl>"
)


def test_a_word_document_is_its_paragraphs(tmp_path: Path):
    assert text_of(tmp_path, docx(BODY)) == "## Parcels\n\nAll are blue\té.\n\n\ncell\n\n"


def test_a_word_document_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(Unreadable, match="UNKNOWN_CONTAINER"):
        text_of(tmp_path, docx(BODY, name="xl/workbook.xml"))
    with pytest.raises(Unreadable, match="CONTAINER_DAMAGED"):
        text_of(tmp_path, docx("<w:p>"))
    with pytest.raises(Unreadable, match="CONTAINER_DAMAGED"):
        text_of(tmp_path, docx(BODY)[:-10])
    entities = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]>'
    with pytest.raises(Unreadable, match="declares entities"):
        text_of(tmp_path, docx("<w:p>&b;</w:p>", before=entities))


def test_a_word_document_that_is_a_bomb_is_limited():
    bomb = docx("<w:p><w:r><w:t>blue</w:t></w:r></w:p>" * 100_000)

    assert len(bomb) < 20_000
    assert outcome(bomb, choice=document(), limit_bytes=100_000) == "DECOMPRESSED_TOO_LARGE"


def pdf(*pages: str, password: str = "") -> bytes:
    writer = PdfWriter()
    font = DictionaryObject({
        NameObject("/Type"): NameObject("/Font"),
        NameObject("/Subtype"): NameObject("/Type1"),
        NameObject("/BaseFont"): NameObject("/Helvetica"),
    })  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(600, 800)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 50 700 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_a_pdf_file_is_the_text_of_its_pages(tmp_path: Path):
    content = pdf("All parcels are", "blue.")

    assert text_of(tmp_path, content).split() == ["All", "parcels", "are", "blue."]
    assert examples(content, choice=document()) == ["All parcels are\nblue."]


def test_a_pdf_file_without_text_is_named(tmp_path: Path):
    with pytest.raises(Unreadable, match="only pictures"):
        text_of(tmp_path, pdf(""))


def test_a_pdf_file_that_is_encrypted_or_cut_off_is_named(tmp_path: Path):
    with pytest.raises(Unreadable, match="ENCRYPTED"):
        text_of(tmp_path, pdf("blue", password="secret"))
    with pytest.raises(Unreadable, match="CONTAINER_DAMAGED"):
        text_of(tmp_path, pdf("blue")[:100])
