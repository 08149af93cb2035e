"""The ingest stage on messy folders: what is kept, what is rejected and why, and the splits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pdf_files import pdf_of

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Reject
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl

TEXT = (
    "The {} hall opens at nine every day and closes at six. It has seats for {} guests. "
    "Dogs must stay outside."
)
MakeRun = Callable[..., tuple[Config, RunDir]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "docs"
    (found / "sub").mkdir(parents=True)
    return found


@pytest.fixture
def ingest_folder(
    folder: Path, tmp_path: Path, tiny_encoder_dir: Path
) -> Callable[..., dict[str, Any]]:
    """ingest_folder(sources=None, **settings) -> {counts, documents, chunks, rejects}"""

    def run(sources: list[Any] | None = None, **settings: Any) -> dict[str, Any]:
        config = make_config(
            {
                "run": {"dir": tmp_path / "run"},
                "ingest": {"sources": sources or [folder], **settings},
                "encoder": {"model": str(tiny_encoder_dir)},
            }
        )
        run_dir = RunDir(config.run_path)
        counts = ingest.run(Session(config, run_dir))
        return {
            "counts": counts,
            "documents": {d.id: d for d in read_jsonl(run_dir.documents, Document)},
            "chunks": list(read_jsonl(run_dir.chunks, Chunk)),
            "rejects": {
                Path(r.item).name: r for r in read_jsonl(run_dir.rejects("ingest"), Reject)
            },
        }

    return run


def write_lines(path: Path, *rows: Any) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def texts(number: int) -> list[dict[str, Any]]:
    return [
        {"id": f"d{n}", "title": f"Hall {n}", "text": " ".join(f"word{n}x{i}." for i in range(60))}
        for n in range(number)
    ]


def test_a_messy_folder_gives_its_readable_documents_and_a_reason_for_each_other(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    (folder / "sub" / "b.md").write_text("# Blue hall\n\n" + TEXT.format("blue", 40))
    (folder / "a.txt").write_text(TEXT.format("red", 30), encoding="utf-16")
    (folder / "copy.html").write_text(f"<p>{TEXT.format('red', 30)}</p>")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "fake.txt").write_bytes(bytes(range(256)))
    (folder / "none.md").write_bytes(b"")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    (folder / "big.txt").write_bytes(b"x" * 60_000)
    (folder / "gone.md").symlink_to(folder / "nowhere.md")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / ".hidden.md").write_text("hidden")
    (folder / "~$open.docx").write_text("a lock")
    write_lines(folder / "questions.jsonl", {"id": "q1", "question": "When?", "answers": ["nine"]})
    found = ingest_folder(min_kept_share=0.1, max_document_mb=0.05)
    assert list(found["documents"]) == ["a.txt", "sub/b.md"]
    assert (
        found["documents"]["sub/b.md"].title == "Blue hall"
        and found["documents"]["a.txt"].title == "A"
    )
    assert {name: reject.reason for name, reject in found["rejects"].items()} == {
        "big.txt": "too large",
        "broken.pdf": "corrupt",
        "copy.html": "duplicate",
        "fake.txt": "not text",
        "gone.md": "unreadable",
        "linked": "unreadable",
        "none.md": "empty",
        "photo.jpg": "unknown type",
    }
    assert found["rejects"]["copy.html"].detail == "duplicate of a.txt"
    counts = found["counts"]
    assert (counts["num_sources"], counts["num_documents"], counts["num_rejects"]) == (10, 2, 8)
    assert counts["num_chunks"] == len(found["chunks"]) > 1


def test_chunks_are_exact_fit_the_encoder_and_inherit_the_split(make_run: MakeRun) -> None:
    from rag_ft.model_hub import load_tokenizer, resolve

    config, run_dir = make_run(
        texts(30), ingest__chunk_tokens=40, ingest__advanced__chunk_overlap_tokens=10
    )
    counts = ingest.run(Session(config, run_dir))
    documents = {d.id: d for d in read_jsonl(run_dir.documents, Document)}
    tokenizer = load_tokenizer(resolve(config.encoder.model, "encoder"))
    numbers: dict[str, int] = {}
    for chunk in read_jsonl(run_dir.chunks, Chunk):
        document = documents[chunk.document_id]
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert (chunk.title, chunk.split) == (document.title, document.split)
        assert chunk.id == f"{document.id}#{numbers.setdefault(document.id, 0)}"
        assert (
            chunk.num_tokens
            == len(tokenizer(chunk.text, add_special_tokens=False)["input_ids"])
            <= 40
        )
        numbers[document.id] += 1
    assert counts["num_chunks"] == sum(numbers.values()) and len(numbers) == 30
    assert sum(counts[f"num_{split}_documents"] for split in ("train", "dev", "test")) == 30


def test_jsonl_text_keeps_its_positions_and_its_fields(make_run: MakeRun) -> None:
    text = "One\r\n\r\n\r\n\r\n\r\nthe\u0000 answer e\u0301 "
    config, run_dir = make_run(
        [{"id": 7, "text": text, "split": "dev", "metadata": {"a": [1]}, "other": 1}]
    )
    ingest.run(Session(config, run_dir))
    (document,) = read_jsonl(run_dir.documents, Document)
    assert document.text.index("answer") == text.index("answer") and len(document.text) == len(text)
    assert (document.id, document.title, document.split, document.metadata) == (
        "7",
        "7",
        "dev",
        {"a": [1]},
    )


def test_a_bad_line_is_rejected_with_its_number_and_the_others_are_kept(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    good = [
        {"id": f"g{n}", "title": "T", "text": f"Text of the good number {n}."} for n in range(3)
    ]
    write_lines(
        folder / "d.jsonl",
        good[0],
        "{broken",
        "",
        {"id": "g0", "text": "Another text."},
        {"id": [1], "text": "No."},
        {"id": "x"},
        {"id": "y", "text": " "},
        {"id": "z", "text": "t", "split": "validation"},
        "[1]",
        {"id": "w", "text": "w" * 70_000},
        {"id": "m", "text": "t", "metadata": "x"},
        *good[1:],
    )
    found = ingest_folder(min_kept_share=0, max_document_mb=0.05)
    assert list(found["documents"]) == ["g0", "g1", "g2"]
    reasons = {int(name.split()[-1]): r.reason for name, r in found["rejects"].items()}
    assert all(name.startswith("d.jsonl line ") for name in found["rejects"])
    assert reasons == {
        2: "not JSON",
        4: "duplicate id",
        5: "bad id",
        6: "no text",
        7: "empty",
        8: "unknown split",
        9: "not JSON",
        10: "too large",
        11: "bad metadata",
    }


def test_a_rejected_duplicate_id_does_not_take_the_text_of_a_later_document(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    write_lines(
        folder / "d.jsonl",
        {"id": "a", "text": "One."},
        {"id": "a", "text": "Two."},
        {"id": "b", "text": "Two."},
    )
    assert list(ingest_folder(min_kept_share=0)["documents"]) == ["a", "b"]


def test_the_same_path_in_two_folders_is_told_apart(
    folder: Path, tmp_path: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    other = tmp_path / "more"
    other.mkdir()
    (folder / "readme.md").write_text(TEXT.format("red", 1))
    (other / "readme.md").write_text(TEXT.format("green and very different", 2))
    assert list(ingest_folder([folder, other])["documents"]) == ["readme.md", "more/readme.md"]
    assert list(ingest_folder([folder, folder / "readme.md"])["documents"]) == ["readme.md"]


def test_near_duplicates_share_a_split_and_are_kept(make_run: MakeRun) -> None:
    words = [f"word{n}" for n in range(200)]
    rows = texts(40)
    for n in range(20):
        version = [*words[:n], "changed", *words[n + 1 :]]
        rows.append({"id": f"v{n}", "title": "V", "text": " ".join(version)})
    config, run_dir = make_run(rows)
    counts = ingest.run(Session(config, run_dir))
    splits = {d.id: d.split for d in read_jsonl(run_dir.documents, Document)}
    assert counts["num_near_duplicate_groups"] == 1 and len(splits) == 60
    assert len({split for name, split in splits.items() if name.startswith("v")}) == 1
    assert len(set(splits.values())) == 3


def test_near_duplicates_with_different_fixed_splits_go_to_test_and_that_is_logged(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    words = " ".join(f"word{n}" for n in range(200))
    rows = [
        {"id": "a", "text": words, "split": "train"},
        {"id": "b", "text": words + " more", "split": "test"},
    ]
    config, run_dir = make_run([*rows, *texts(5)])
    ingest.run(Session(config, run_dir))
    splits = {d.id: d.split for d in read_jsonl(run_dir.documents, Document)}
    assert (splits["a"], splits["b"]) == ("test", "test")
    assert "all go to test: a, b" in caplog.text


def test_the_user_can_fix_the_split_of_a_source(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    for n in range(5):
        (folder / f"{n}.txt").write_text(f"Number {n} stands alone. " * (n + 1))
        write_lines(
            folder / "sub" / "d.jsonl", {"id": "own", "text": "This has its own.", "split": "dev"}
        )
    found = ingest_folder([{"path": folder, "split": "test"}])
    assert {d.split for name, d in found["documents"].items() if name != "own"} == {"test"}
    assert found["documents"]["own"].split == "dev"


def test_folds_put_each_document_into_test_once(make_run: MakeRun) -> None:
    tested: list[str] = []
    for fold in (0, 1):
        config, run_dir = make_run(
            texts(40), ingest__advanced__folds=2, ingest__advanced__fold=fold
        )
        ingest.run(Session(config, run_dir))
        tested += [d.id for d in read_jsonl(run_dir.documents, Document) if d.split == "test"]
    assert sorted(tested) == sorted(f"d{n}" for n in range(40))


def test_two_runs_are_byte_equal_and_leave_no_temporary_file(make_run: MakeRun) -> None:
    before = None
    for _ in range(2):
        config, run_dir = make_run(texts(20))
        ingest.run(Session(config, run_dir))
        after = [
            p.read_bytes() for p in (run_dir.documents, run_dir.chunks, run_dir.rejects("ingest"))
        ]
        assert before in (None, after)
        before = after
        names = {path.name for path in run_dir.path.iterdir()}
        known = {"findings.jsonl", "signatures.npy"}
        assert names == {"chunks.jsonl", "documents.jsonl", "rejects", *known}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": []}, "ingest.sources is empty"),
        ({"chunk_tokens": 16, "chunk_overlap_tokens": 16}, "chunk_overlap_tokens must be below"),
        ({"test_share": 0.7, "dev_share": 0.3}, "below 1"),
        ({"folds": 2, "fold": 2}, "ingest.advanced.fold below it"),
        ({"folds": 1}, "at least 2"),
    ],
)
def test_settings_that_contradict_each_other_are_an_error_before_anything_is_read(
    settings: dict[str, Any], message: str
) -> None:
    config = make_config({"ingest": {"sources": ["docs"]} | settings})
    with pytest.raises(ConfigError, match=message):
        ingest.run(Session(config, RunDir(Path("unused"))))


def test_a_missing_source_is_named(
    ingest_folder: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"ingest.sources: .*nowhere does not exist .*correct the path"
    ):
        ingest_folder([tmp_path / "nowhere"])


def test_a_corpus_without_a_readable_document_says_where_the_reasons_are(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(DataError, match=r"no document could be read from .*docs \(no files\)"):
        ingest_folder()
    (folder / "none.md").write_bytes(b"")
    with pytest.raises(DataError, match=r"\(1 empty\): see .*rejects/ingest.jsonl"):
        ingest_folder()
    write_lines(folder / "questions.jsonl", {"question": "When?"})
    with pytest.raises(DataError, match="1 not documents"):
        ingest_folder([folder / "questions.jsonl"])


def test_the_stage_fails_when_too_little_was_readable(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    (folder / "good.md").write_text("Readable.")
    (folder / "photo.jpg").write_bytes(b"x")
    for n in range(3):
        (folder / f"{n}.pdf").write_bytes(b"broken")
    with pytest.raises(
        DataError,
        match=r"only 25% .*3 corrupt.*rejects/ingest.jsonl.*ingest.advanced.min_kept_share",
    ):
        ingest_folder()
    assert ingest_folder(min_kept_share=0.25)["counts"]["num_documents"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_rejected(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    (folder / "a.md").write_text("Readable.")
    (folder / "b.md").write_text("Secret.")
    (folder / "b.md").chmod(0)
    assert ingest_folder()["rejects"]["b.md"].reason == "unreadable"


def test_answers_stay_where_the_questions_say_on_real_documents(
    real_data: Path, make_run: MakeRun
) -> None:
    for name in ("covidqa_dev", "xquad_zh_dev", "xquad_ar_dev"):
        rows = [
            json.loads(line)
            for line in (real_data / name / "documents.jsonl").open(encoding="utf-8")
        ]
        config, run_dir = make_run(rows)
        ingest.run(Session(config, run_dir))
        documents = {d.id: d.text for d in read_jsonl(run_dir.documents, Document)}
        for line in (real_data / name / "questions.jsonl").open(encoding="utf-8"):
            question = json.loads(line)
            for answer, start in zip(
                question["answers"], question["answer_start_in_document"], strict=True
            ):
                assert start is None or documents[question["document_id"]][start:].startswith(
                    answer
                )


def test_names_and_escapes_that_are_no_unicode_do_not_stop_the_stage(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("The hall opens.")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.pdf")).write_text("broken")
    write_lines(
        folder / "d.jsonl",
        {"id": "\ud800", "title": "\udfff", "text": "a \ud800 b", "metadata": {"\ud801": "\ud802"}},
    )
    found = ingest_folder(min_kept_share=0)
    assert list(found["documents"]) == ["caf\ufffd.txt", "\ufffd"]
    assert found["documents"]["\ufffd"].metadata == {"\ufffd": "\ufffd"}


def test_a_part_that_is_lost_is_noted_and_the_rest_is_read(
    folder: Path, ingest_folder: Callable[..., dict[str, Any]]
) -> None:
    red, blue = [(72, 700, 11, "The red hall.")], [(72, 700, 11, "The blue hall.")]
    (folder / "a.pdf").write_bytes(pdf_of([red, [], blue]))
    found = ingest_folder()
    (note,) = found["rejects"].values()
    assert (note.reason, note.partial) == ("partly read", True)
    counts = found["counts"]
    assert (counts["num_sources"], counts["num_rejects"], counts["num_partly_read"]) == (1, 0, 1)
    assert counts["num_pages"] == 3 and counts["num_words"] == 6
    assert counts["partly_read_by_reason"] == {"no text layer; a scan?": 1}
    assert (found["chunks"][0].page, found["chunks"][0].page_end) == (1, 3)
