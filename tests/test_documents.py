"""Readers, sentences, chunks, near-duplicates and splits: each from both ends, the result and the refusal."""

from __future__ import annotations

import io
import itertools
import random
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft.config import IngestConfig
from rag_ft.documents.chunking import split_chunks, split_sentences
from rag_ft.documents.html import read_html
from rag_ft.documents.near_duplicates import groups, signature
from rag_ft.documents.plain_text import (
    UnreadableError,
    decode,
    readable,
    tidy,
    tidy_in_place,
    unwrap,
)
from rag_ft.documents.readers import read_file, read_markdown, read_text
from rag_ft.documents.splits import hash_share, split_of, strictest

MEGABYTE = 2**20
WORD_NS = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def count_words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def count_bytes(texts: list[str]) -> list[int]:
    return [len(text.encode()) for text in texts]


def count_unevenly(texts: list[str]) -> list[int]:
    """Like a tokenizer whose counts do not add up: a whole has more tokens than its parts."""
    return [len(text.split()) + len(text) // 50 for text in texts]


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def chunks(
    text: str,
    count: Callable[[list[str]], list[int]] = count_words,
    size: int = 16,
    overlap: int = 4,
) -> list[str]:
    return [text[start:end] for start, end, _ in split_chunks(text, count, size, overlap)]


def make_pdf(lines: list[str], title: str = "") -> bytes:
    """A one-page PDF with a text layer, written by hand: pypdf only reads."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                             NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
    )
    content = DecodedStreamObject()
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    content.set_data(f"BT /F1 12 Tf 14 TL 72 700 Td {shown} ET".encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def make_docx(body: str, title: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{WORD_NS}"><w:body>{body}</w:body></w:document>',
        )
        if title:
            dc = "http://purl.org/dc/elements/1.1/"
            archive.writestr(
                "docProps/core.xml", f'<p xmlns:dc="{dc}"><dc:title>{title}</dc:title></p>'
            )
    return out.getvalue()


def paragraph(text: str, style: str = "") -> str:
    marked = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{marked}<w:r><w:t>{text}</w:t></w:r></w:p>"


def read_as(tmp_path: Path, name: str, raw: bytes, max_bytes: float = MEGABYTE) -> Any:
    path = tmp_path / name
    path.write_bytes(raw)
    return read_file(path, max_bytes)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_decoded_in_the_encodings_people_use(encoding: str) -> None:
    text = "Die Öffnungszeiten des Cafés – täglich “ab zehn”"
    assert decode(text.encode(encoding)) == text


def test_utf8_with_a_damaged_character_stays_utf8() -> None:
    assert decode("Größe, Maß und Übung: fünf Räume für Gäste".encode() + b"\xff") == (
        "Größe, Maß und Übung: fünf Räume für Gäste\ufffd"
    )


@pytest.mark.parametrize(
    "raw",
    [
        random.Random(0).randbytes(3000),
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        "Sixteen bits and no mark".encode("utf-16-le"),
        "Почтовый индекс и адрес".encode("koi8-r"),
        "営業時間は午前九時からです".encode("shift-jis"),
        b"\xff\xfeodd",
    ],
)
def test_binary_content_and_unknown_encodings_are_not_text(raw: bytes) -> None:
    with pytest.raises(UnreadableError, match="not text"):
        decode(raw)


def test_tidy_text_has_plain_newlines_no_controls_and_composed_characters() -> None:
    assert tidy("\ufeffa\x00b\r\nc\rd  \n\n\n\n\n\ne\u0301\u00a0f\x07 ") == "ab\nc\nd\n\n\n\u00e9 f"
    assert tidy("lone \ud800 surrogate") == "lone \ufffd surrogate"


def test_wrapped_paragraphs_become_one_line_and_other_lines_stay() -> None:
    wrapped = "The Skerry Chapel was completed in 1742 by Father\nAnskar Bloom, who was no builder, and it shows in\nways."
    assert (
        unwrap(f"Title\n{wrapped}\n\nPhone: 1\nFax: 2")
        == f"Title\n{wrapped.replace(chr(10), ' ')}\n\nPhone: 1\nFax: 2"
    )
    for kept in (
        "- The first of the items is a rather long line\n- The second of the items is a rather long line",
        "The speaker of the market hall: Delphine Osk, since spring\nPhone: 12\nThe key is kept: in the harbour office",
        "The Skerry Chapel | 1742 | Father Anskar Bloom | Hill\nThe Beacon Tower | 1936 | Sigrun Halle | Upper quay",
    ):
        assert unwrap(kept) == kept


def test_tidying_in_place_keeps_every_position() -> None:
    text = "a\x00b\r\nc\rd\ud800 answer"
    kept = tidy_in_place(text)
    assert len(kept) == len(text) and kept.index("answer") == text.index("answer")
    assert kept.encode() and "\r" not in kept and "\x00" not in kept


# Readers


def test_markdown_loses_its_marks_and_keeps_its_structure() -> None:
    content = read_markdown(
        b"---\ntitle: House rules\nyear: 2024\n---\n# Rules\n\n## **Opening** hours\nThe *hall* opens at `nine`; see "
        b'[the plan](plan.md "x").\n<!-- no\nsecret -->\n\n* one\n* two_words_here\n\n| Day | Time |\n'
        b"|---|:--:|\n| Mon | 9 |\n\n"
        b"```python\na = b['**c**'] # d\n```\n"
    )
    assert (content.title, content.metadata) == ("House rules", {"year": 2024})
    assert "Opening hours\nThe hall opens at nine; see the plan." in content.text
    assert "* one\n* two_words_here" in content.text and "Day | Time\nMon | 9" in tidy(content.text)
    assert "a = b['**c**'] # d" in content.text
    assert "secret" not in content.text and "---" not in content.text


def test_markdown_without_front_matter_is_titled_by_its_first_heading() -> None:
    assert read_markdown(b"Intro\n\n## Second\n\n# The *main* one #\ntext").title == "The main one"
    assert read_markdown(b"Under *lined*\n===\n\ntext").title == "Under lined"
    assert read_markdown(b"---\n: [bad yaml\n---\n# Title\n").title == "Title"
    assert read_markdown(b"---\ndate: 2024-13-45\n---\n# Title ##\n").title == "Title"
    assert read_markdown(b"# On C#\n").text == "On C#"
    assert read_markdown(b"```\n# a comment\n```\ntext").title == ""


def test_html_keeps_blocks_lists_and_tables_and_drops_scripts_and_navigation() -> None:
    title, text = read_html(
        b"<html><head><title>Site | Rules</title><style>p{}</style></head><body><nav>Home</nav>"
        b"<h1>House <i>rules</i></h1>"
        b"<script>var x='</p>';</script><!-- hidden --><p>First\n para<b>graph</b>.</p><p>Line<br>break &amp; more</p>"
        b"<ul><li><p>one</p></li><li>two</li></ul><table><tr><th>Day</th><th>Time</th></tr><tr><td>Mon</td>"
        b"<td><p>9</p></td></tr></table><pre>a\n  b</pre></body></html>"
    )
    assert title == "House rules"
    text = tidy(text)
    assert text.startswith("House rules\n\nFirst paragraph.\n\nLine\nbreak & more\n\n- one\n")
    assert (
        "\n- two\n" in text
        and "\nDay | Time\n" in text
        and "\nMon | 9\n" in text
        and text.endswith("\na\n  b")
    )
    assert not any(word in text for word in ("Home", "var", "hidden", "p{}", "Site"))


def test_html_is_read_in_the_encoding_it_declares() -> None:
    raw = '<meta charset="koi8-r"><title>Почта</title><p>Индекс</p>'.encode("koi8-r")
    title, text = read_html(raw)
    assert (title, text.strip()) == ("Почта", "Индекс")


def test_a_table_that_lays_out_the_page_is_no_table_of_facts() -> None:
    title, text = read_html(
        b"<table><tr><td>menu<td><h1>House<br>rules</h1><p>One.</p><p>Two.</p></table>"
    )
    assert title == "House rules" and "One.\n\nTwo." in text


def test_plain_text_is_titled_by_a_first_line_that_stands_alone() -> None:
    assert read_text(b"Opening hours\n\nThe hall opens.").title == "Opening hours"
    assert read_text(b"Opening hours\n=====\nThe hall opens.").title == "Opening hours"
    assert read_text(b"The hall opens at nine.\n\nIt closes.").title == ""
    assert read_text(b"one\ntwo").title == ""


def test_pdf_text_and_title_are_read(tmp_path: Path) -> None:
    content = read_as(
        tmp_path,
        "a.pdf",
        make_pdf(["The hall opens at nine.", "It is a long exam-", "ple."], "House rules"),
    )
    assert content.title == "House rules"
    assert "The hall opens at nine." in content.text and "long example." in content.text
    assert (
        read_as(tmp_path, "floor_plan.pdf", make_pdf(["x"], "Microsoft Word - Draft")).title
        == "Floor plan"
    )


def test_word_paragraphs_headings_lists_and_tables_are_read(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(c)}</w:tc>" for c in ("Day", "Time"))
    body = (
        paragraph("House rules", "Heading1") + paragraph("The hall opens.") + "<w:p/>"
        + '<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>Item</w:t></w:r></w:p>' + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
        + '<w:p><w:hyperlink><w:r><w:t>a link</w:t><w:tab/></w:r></w:hyperlink>'
        + "<w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
    )  # fmt: skip
    content = read_as(tmp_path, "a.docx", make_docx(body, "Ignored"))
    assert content.title == "House rules"
    assert content.text.split("\n") == [
        "House rules",
        "",
        "",
        "The hall opens.",
        "",
        "- Item",
        "Day | Time",
        "",
        "a link",
    ]
    assert read_as(tmp_path, "b.docx", make_docx(paragraph("x"), "Named")).title == "Named"


def test_a_title_is_at_last_the_files_name(tmp_path: Path) -> None:
    assert read_as(tmp_path, "opening_hours-2024.txt", b"just text").title == "Opening hours 2024"
    assert readable("a.b__c") == "A b c"


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.pdf", b"%PDF-1.7\ngarbage", "corrupt"),
        ("a.pdf", b"no pdf at all", "corrupt"),
        ("a.docx", b"PK\x03\x04 broken", "corrupt"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "encrypted"),
        ("a.txt", random.Random(1).randbytes(500), "not text"),
        ("a.html", b"\x00\x01\x02\x03" * 50, "not text"),
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t ", "empty"),
        ("a.html", b"<html><script>x</script></html>", "empty"),
        ("a.xyz", b"text", "unknown type"),
        ("noextension", b"text", "unknown type"),
        ("a.txt", b"x" * 3000, "too large"),
    ],
)
def test_a_file_that_gives_no_document_says_why(
    tmp_path: Path, name: str, raw: bytes, reason: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_as(tmp_path, name, raw, max_bytes=2000)
    assert caught.value.reason == reason


def test_damaged_pdf_and_word_files_never_raise_anything_else(tmp_path: Path) -> None:
    chance = random.Random(2)
    for name, whole in (
        ("a.pdf", make_pdf(["The hall opens."])),
        ("a.docx", make_docx(paragraph("The hall opens."))),
    ):
        for _ in range(60):
            raw = bytearray(
                whole[: chance.randrange(1, len(whole))] if chance.random() < 0.4 else whole
            )
            for _ in range(chance.randrange(1, 8)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            try:
                read_as(tmp_path, name, bytes(raw))
            except UnreadableError as error:
                assert error.reason in {"corrupt", "empty", "encrypted", "too large", "not text"}


def test_an_encrypted_pdf_is_a_reject_unless_its_password_is_empty(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    for password, readable_ in (("secret", False), ("", True)):
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf(["The hall opens."]))))
        writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        if readable_:
            assert "The hall opens." in read_as(tmp_path, "a.pdf", out.getvalue()).text
            continue
        with pytest.raises(UnreadableError, match="encrypted"):
            read_as(tmp_path, "a.pdf", out.getvalue())


def test_a_scanned_pdf_is_told_to_go_through_ocr(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="OCR"):
        read_as(tmp_path, "a.pdf", make_pdf([]))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="too large"):
        read_as(tmp_path, "a.docx", make_docx(paragraph("x" * 10_000_000)))


def test_a_broken_link_is_unreadable(tmp_path: Path) -> None:
    link = tmp_path / "a.txt"
    link.symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UnreadableError, match="broken link"):
        read_file(link, MEGABYTE)


@pytest.mark.parametrize("read", [read_markdown, read_html, read_text])
def test_hostile_repetition_is_read_in_linear_time(read: Callable[[bytes], Any]) -> None:
    begin = time.process_time()
    for piece in (
        "<!--",
        " ",
        "*a ",
        "__a ",
        "[a](",
        "| ",
        "-",
        "#",
        "# ",
        "`",
        "> ",
        "<p>",
        "<li>",
        "&#",
        "\n ",
        "\t\n",
    ):
        for raw in (piece * 5_000, "# x" + piece * 5_000 + "y", "|" + " " * 50_000 + piece + "|x"):
            read(raw.encode())
    assert time.process_time() - begin < 20


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He came. She left! Why? Yes...", ["He came.", "She left!", "Why?", "Yes..."]),
        (
            "Dr. Smith of the U.S. office came. See Fig. 3.",
            ["Dr. Smith of the U.S. office came.", "See Fig. 3."],
        ),
        (
            "It opens at 9 a.m. The bar at 3.5 p.m. on 1.1.",
            ["It opens at 9 a.m.", "The bar at 3.5 p.m. on 1.1."],
        ),
        (
            'He said: "Come." Then (at once.) He went.',
            ['He said: "Come."', "Then (at once.)", "He went."],
        ),
        ("Title\n\nText goes\non here. End.", ["Title", "Text goes\non here.", "End."]),
        ("Phone: 1\nFax: 2\n- one\n- two", ["Phone: 1", "Fax: 2", "- one", "- two"]),
        ("1. Open it. Wait.\n2. Close it.", ["1. Open it.", "Wait.", "2. Close it."]),
        (
            "This line was wrapped by an editor near the seventieth column of\nDr. Smith. Next.",
            [
                "This line was wrapped by an editor near the seventieth column of\nDr. Smith.",
                "Next.",
            ],
        ),
        ("她说：“你好。”然后走了。真的？是！", ["她说：“你好。”", "然后走了。", "真的？", "是！"]),
        (
            "متى تفتح القاعة؟ تفتح في التاسعة. ثم تغلق.",
            ["متى تفتح القاعة؟", "تفتح في التاسعة.", "ثم تغلق."],
        ),
        ("Am 3. Mai kam z. B. Dr. Li. Gut.", ["Am 3. Mai kam z. B. Dr. Li.", "Gut."]),
        ("  \n ", []),
    ],
)
def test_sentences_end_where_a_reader_would_end_them(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


# Chunks


def made_up_text(chance: random.Random) -> str:
    words = ["a", "hall", "opens。", "very", "x" * 70, "Dr.", "now.", "今天是星期五！我们去", "？", "\n", "\n\n",
             "- it", "é", "🙂🙂", "e\u0301", "تفتح", "القاعة؟", " " * 40, "!?", "3.5", "\t", "A,B;C", "I."]  # fmt: skip
    return "".join(
        chance.choice(words) + chance.choice([" ", " ", "", "\n"])
        for _ in range(chance.randrange(1, 120))
    )


@pytest.mark.parametrize("count", [count_words, count_bytes, count_unevenly])
def test_chunks_have_exact_positions_fit_and_leave_nothing_out(
    count: Callable[[list[str]], list[int]],
) -> None:
    chance = random.Random(3)
    for _ in range(150):
        text, size = made_up_text(chance), chance.choice([16, 30, 128])
        overlap = chance.randrange(0, size)
        covered = np.zeros(len(text), dtype=bool)
        last = -1
        for start, end, num_tokens in split_chunks(text, count, size, overlap):
            assert 0 < num_tokens <= size and count([text[start:end]]) == [num_tokens]
            assert text[start:end] == text[start:end].strip()
            assert start > last, "chunks move forward"
            last = start
            covered[start:end] = True
        assert all(covered[i] or text[i].isspace() for i in range(len(text)))


def test_a_chunk_is_made_of_whole_sentences_and_begins_with_the_end_of_the_one_before() -> None:
    text = " ".join(f"Sentence number {n} is here." for n in range(10))
    found = chunks(text, size=16, overlap=5)
    assert (
        found[0]
        == "Sentence number 0 is here. Sentence number 1 is here. Sentence number 2 is here."
    )
    assert found[1].startswith("Sentence number 2 is here. Sentence number 3")
    assert chunks(text, size=16, overlap=0)[1].startswith("Sentence number 3")


def test_repeated_sentences_keep_their_own_positions() -> None:
    text = "The same thing again. " * 40
    spans = list(split_chunks(text, count_words, 16, 4))
    assert [s.start for s in spans] == list(range(0, 22 * 37, 66)) and spans[-1].end == len(
        text
    ) - 1


def test_an_overlong_sentence_is_cut_between_words_with_overlap() -> None:
    text = " ".join(f"word{n}" for n in range(100))
    found = chunks(text, size=16, overlap=6)
    assert all(part.split() == [w for w in text.split() if w in part.split()] for part in found)
    assert all(first.split()[-1] in second.split() for first, second in itertools.pairwise(found))


def test_chinese_and_arabic_fill_their_chunks(demo_encoder: str) -> None:
    from rag_ft.model_hub import load_tokenizer, resolve

    tokenizer = load_tokenizer(resolve(demo_encoder, "encoder"))

    def count(texts: list[str]) -> list[int]:
        return [len(row) for row in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    for sentence in (
        "图书馆每天早上九点开门，晚上六点关门。",
        "تفتح المكتبة كل يوم في التاسعة صباحا. ",
    ):
        spans = list(split_chunks(sentence * 60, count, 128, 20))
        assert all(90 <= num_tokens <= 128 for *_, num_tokens in spans[:-1])
        assert all(
            (sentence * 60)[start:end].endswith(sentence.strip()[-1]) for start, end, _ in spans
        )


@pytest.mark.parametrize(
    "piece", ["x", "word ", "One sentence here. ", ".", "汉", " \n", "a.b ", ".)"]
)
def test_one_endless_line_takes_linear_time(piece: str) -> None:
    text = (piece * 400_000)[:400_000]
    begin = time.process_time()
    number = sum(1 for _ in split_chunks(text, count_bytes, 128, 20))
    assert number > 2000 or not text.strip()
    assert time.process_time() - begin < 8


def test_one_endless_line_takes_little_memory() -> None:
    tracemalloc.start()
    number = sum(1 for _ in split_chunks("word " * 40_000, count_bytes, 128, 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number > 1000 and peak < 20 * MEGABYTE


# Near-duplicates


def test_the_signature_estimates_the_jaccard_similarity_of_word_5_grams() -> None:
    chance = random.Random(4)
    words = [f"w{n}" for n in range(1000)]
    for changed in (1, 5, 20, 60):
        other = list(words)
        for place in chance.sample(range(1000), changed):
            other[place] = "new"
        a, b = ({tuple(w[n : n + 5]) for n in range(996)} for w in (words, other))
        expected = len(a & b) / len(a | b)
        measured = (signature(" ".join(words)) == signature(" ".join(other))).mean()
        assert abs(measured - expected) < 0.12


def test_case_and_punctuation_do_not_make_a_difference() -> None:
    assert (
        signature("The hall, opens at Nine; every day!")
        == signature("the hall opens at nine every day")
    ).all()
    assert (signature("图书馆每天早上九点开门") != signature("图书馆每天早上九点关闭了")).any()
    assert signature("").shape == (128,) == signature("!?").shape


def test_near_duplicates_are_linked_through_each_other() -> None:
    words = [f"w{n}" for n in range(400)]
    versions = [" ".join(words[:n] + ["x"] * 20 + words[n + 20 :]) for n in (0, 100)]
    texts = [
        "something else altogether " * 9,
        *versions,
        " ".join(words),
        "one more different thing " * 9,
    ]
    assert groups(np.array([signature(t) for t in texts]), 0.85) == [0, 1, 1, 1, 4]
    assert groups(np.array([signature(t) for t in texts]), 1.0) == [0, 1, 2, 3, 4]
    assert groups(np.array([signature("alone")]), 0.8) == [0]


# Splits


def config(**knobs: Any) -> IngestConfig:
    return IngestConfig(**knobs)


def test_splits_have_their_shares_and_depend_on_the_id_alone() -> None:
    ids = [f"d{n}" for n in range(4000)]
    splits = [split_of(i, config(test_share=0.3, dev_share=0.1)) for i in ids]
    assert (
        abs(splits.count("test") / 4000 - 0.3) < 0.03
        and abs(splits.count("dev") / 4000 - 0.1) < 0.02
    )
    assert all(0 <= hash_share(i) < 1 for i in ids)
    assert hash_share("handbook/a.md") == pytest.approx(
        0.19207, abs=1e-5
    )  # fixed for ever: runs must stay comparable


def test_every_document_is_a_test_document_in_exactly_one_fold() -> None:
    for number in (2, 5):
        folds = [config(folds=number, fold=fold, dev_share=0.1) for fold in range(number)]
        for n in range(500):
            assert [split_of(f"d{n}", c) for c in folds].count("test") == 1
        others = [s for n in range(3000) if (s := split_of(f"d{n}", folds[0])) != "test"]
        assert abs(others.count("dev") / len(others) - 0.1) < 0.02


def test_the_strictest_of_different_splits_is_test() -> None:
    assert strictest(["train", "test", "dev"]) == "test" and strictest(["train", "dev"]) == "dev"
