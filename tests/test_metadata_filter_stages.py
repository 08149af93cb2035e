"""Two customers in one index never mix: asked, evaluated, in negatives and in training contexts."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_ft import RagPipeline
from rag_ft.cli import main
from rag_ft.commands.ask import ask, read_filters
from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, Prediction, QAPair, Reject
from rag_ft.session import Session
from rag_ft.stages import evaluate, generate, index, ingest
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.generator.dataset import build_training_set, read_training_set
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.retriever.dataset import select_pairs
from rag_ft.training.retriever.hard_negatives import mine_negatives
from rag_ft.training.retriever.lm_supervision import retrieved_chunks
from rag_ft.training.retriever.ship_gate import measure

CUSTOMERS = ("acme", "bolt")
SPLITS = ["train"] * 6 + ["dev", "test", "test"]
Make = Callable[..., tuple[Config, RunDir]]


def documents() -> list[dict[str, Any]]:
    """The customers' documents differ in a name and a number alone, so that each is the nearest
    wrong chunk of the other's questions."""
    rows = []
    for n, split in enumerate(SPLITS):
        for customer in CUSTOMERS:
            text = f"Pump {n} stands in hall {10 * n + len(rows) % 2}. The {customer} team oils it."
            metadata = {"customer": customer}
            rows.append({"id": f"{customer}/{n}", "title": "Pumps", "text": text, "split": split})
            rows[-1]["metadata"] = metadata
    return rows


def questions() -> list[dict[str, Any]]:
    """Of each document one that it answers, and of each customer two that nothing answers."""
    rows = []
    for found in documents():
        hall = found["text"].split(".")[0].split()[-1]
        row = {"question": f"Where does pump {found['id'][-1]} stand?", "answers": [f"hall {hall}"]}
        rows.append({**row, "document_id": found["id"], "filters": found["metadata"]})
    for n in (1, 8):
        for customer in CUSTOMERS:
            row = {"question": f"Who made pump {n}?", "answers": []}
            filters = {"customer": [customer], "id": f"{customer}/*"}
            rows.append({**row, "document_id": f"{customer}/{n}", "filters": filters})
    return rows


@pytest.fixture
def prepare(make_run: Make, tmp_path: Path) -> Make:
    return functools.partial(prepared, make_run, tmp_path / "questions.jsonl")


def prepared(make_run: Make, file: Path, **settings: Any) -> tuple[Config, RunDir]:
    """Ingested, indexed, and with the questions of both customers imported."""
    file.write_text("".join(json.dumps(row) + "\n" for row in questions()), encoding="utf-8")
    values = {
        "generate__questions": [file],
        "generate__pairs_per_chunk": 0,
        "retrieval__top_k": 3,
        "llm__backend": "transformers",
        "evaluate__advanced__max_tokens": 4,
        **settings,
    }
    config, run_dir = make_run(documents(), **values)
    for stage in (ingest, index, generate):
        stage.run(Session(config, run_dir))
    return config, run_dir


def customer_of(pair: QAPair) -> str:
    return (pair.document_id or "").partition("/")[0]


def strangers(shown: dict[str, list[str]], pairs: list[QAPair]) -> list[tuple[str, str]]:
    """(question, chunk id) of all chunks of the other customer; fails where nothing is shown."""
    assert any(shown.values())
    customers = {pair.id: customer_of(pair) for pair in pairs}
    return [(i, c) for i, ids in shown.items() for c in ids if c.split("/")[0] != customers[i]]


def test_questions_keep_their_filters_and_the_others_keep_their_lines(prepare: Make) -> None:
    _, run_dir = prepare()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    assert len(pairs) == 22 and len({pair.id for pair in pairs}) == 22
    assert all(
        pair.filters["customer"] in (customer_of(pair), [customer_of(pair)]) for pair in pairs
    )
    write_jsonl(run_dir.qa, [pairs[0], QAPair(**{**vars(pairs[1]), "filters": {}})])
    first, second = run_dir.qa.read_text(encoding="utf-8").splitlines()
    assert '"filters": {"customer": "acme"}' in first and "filters" not in second


def test_without_filters_the_customers_do_mix(prepare: Make) -> None:
    """What the tests below would see if the filters did nothing."""
    config, run_dir = prepare()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    hits = Session(config, run_dir).retriever().search([pair.question for pair in pairs], 5)
    found = {p.id: [i for i, _ in ranked] for p, ranked in zip(pairs, hits, strict=True)}
    assert len(strangers(found, pairs)) > 20


def test_an_answer_is_made_of_allowed_chunks_alone(prepare: Make) -> None:
    config, _ = prepare()
    with RagPipeline.from_config(config) as rag:
        for customer in CUSTOMERS:
            filters = {"customer": customer}
            said = rag.answer("Where does pump 3 stand?", filters=filters)
            assert [f.chunk.document_id.split("/")[0] for f in said.chunks] == [customer] * 3
            assert len(rag.retrieve("Where?", 50, filters)) == 9
        with pytest.raises(DataError, match="'customer' must have a text"):
            rag.retrieve("Where?", filters={"customer": None})


def test_where_the_filters_allow_nothing_the_model_is_not_asked(prepare: Make) -> None:
    config, _ = prepare()
    with RagPipeline.from_config(config) as rag:
        said = rag.answer("Where does pump 3 stand?", filters={"customer": "nobody"})
        assert said.abstained and not said.chunks and not said.citations
        assert said.answer == config.llm.advanced.abstain and rag._model is None
    assert "allow no chunk" in ask(config, "Where?", filters={"customer": "nobody"})


def test_the_command_line_has_the_same_filters(
    prepare: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = prepare()
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude={"name"})))
    words = ["ask", str(file), "Where does pump 3 stand?", "--filter", "customer=acme,none"]
    assert main([*words, "--filter", "id=*", "retrieval.top_k=9"]) == 0
    out = capsys.readouterr().out
    assert "[9] acme/" in out and "bolt" not in out
    assert main([*words, "--filter", "customer"]) == 1
    assert capsys.readouterr().err.startswith("rag-ft: error: --filter 'customer': write")


def test_a_word_of_the_command_line_is_a_field_with_values() -> None:
    assert read_filters(["a=b=c", "d=1, 2*", "a=x"]) == {"a": ["b=c", "x"], "d": ["1", "2*"]}
    for wrong in ("a", "=b", "a=", "a=b,"):
        with pytest.raises(DataError, match="--filter"):
            read_filters([wrong])


def test_every_system_and_probe_is_evaluated_on_allowed_chunks(prepare: Make) -> None:
    config, run_dir = prepare(
        evaluate__advanced__robustness=True, evaluate__advanced__ensemble=True
    )
    evaluate.run(Session(config, run_dir))
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    rankings = sorted((run_dir.path / "hits").glob("*.jsonl"))
    assert len(rankings) >= 4
    for path in rankings:
        found: dict[str, list[str]] = {}
        for hit in read_jsonl(path, Hit):
            found.setdefault(hit.question_id, []).append(hit.chunk_id)
        assert strangers(found, pairs) == [], path.name
        if path.stem != "lexical":
            assert {len(ids) for ids in found.values()} == {9}
    systems = sorted((run_dir.path / "predictions").glob("*.jsonl"))
    assert {"withheld_base", "noise67_base", "ensemble_base"} <= {path.stem for path in systems}
    for path in systems:
        shown = {p.question_id: list(p.chunk_ids) for p in read_jsonl(path, Prediction)}
        assert not path.stem.startswith("closed_book") or not any(shown.values())
        if any(shown.values()):
            assert strangers(shown, pairs) == [], path.name


def test_the_swapped_answer_is_one_of_the_same_filters(prepare: Make) -> None:
    config, run_dir = prepare()
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split == "test"]
    chunks = {chunk.id: chunk for chunk in read_jsonl(run_dir.chunks, Chunk)}
    gold = {pair.id: {pair.chunk_id or ""} for pair in pairs}
    nothing: dict[str, list[str]] = {pair.id: [] for pair in pairs}
    asks = probes(pairs, nothing, gold, chunks, config.retrieval, 0)
    swapped = [one for one in asks if one.system == "swap_base"]
    assert len(swapped) == 4
    for one in swapped:
        [answer] = one.answers
        [other] = [p for p in pairs if p.answers == (answer,)]
        assert customer_of(other) == customer_of(one.pair)


def test_negatives_and_scored_chunks_are_allowed_ones(prepare: Make) -> None:
    config, run_dir = prepare()
    session = Session(config, run_dir)
    retriever, found = session.retriever(), select_pairs(run_dir, session.chunks, 0.8)
    # All other chunks of each customer: random negatives must fill up.
    num = {c: sum(i.startswith(c) for i in found.chunks) for c in CUSTOMERS}
    mined = mine_negatives(found.train, retriever, found.chunks, 20, 0.05, 0)
    assert all(len(mined[p.id]) == num[customer_of(p)] - 1 >= 3 for p in found.train)
    assert strangers({i: list(ids) for i, ids in mined.items()}, found.train) == []
    least = min(num.values())
    scored = retrieved_chunks(found.train, retriever, found.chunks, least, 100)
    assert len(scored) == len(found.train) and strangers(scored, found.train) == []
    assert not retrieved_chunks(found.train, retriever, found.chunks, max(num.values()) + 1, 100)
    recall = measure(retriever, found.train, {p.id: {p.chunk_id or ""} for p in found.train})
    assert recall.served.mean() > 0.8


@pytest.mark.parametrize("layout", ["raft", "radit", "concat"])
def test_training_contexts_hold_allowed_chunks_alone(
    prepare: Make, tmp_path: Path, layout: str
) -> None:
    settings = {"layout": layout, "gold_share": 0.5, "replay_share": 0.0}
    config, run_dir = prepare(
        **{f"train_generator__advanced__{name}": value for name, value in settings.items()}
    )
    # A chunk of the other customer that the round trip would have found.
    pairs = []
    for pair in read_jsonl(run_dir.qa, QAPair):
        other = "bolt" if customer_of(pair) == "acme" else "acme"
        pairs.append(QAPair(**{**vars(pair), "hard_chunk_ids": (f"{other}/0#0",)}))
    write_jsonl(run_dir.qa, pairs)
    tokens = load_chat_tokens(config.llm.required_model)
    build_training_set(Session(config, run_dir), tokens.encode, tmp_path / "set")
    made = read_training_set(tmp_path / "set")
    assert {example.kind for example in made.train} == {"answer", "abstain"}
    shown = {e.id.partition("/")[0]: list(e.chunk_ids) for e in [*made.train, *made.dev]}
    assert strangers(shown, pairs) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"document_id": "bolt/0", "filters": {"customer": "acme"}},
            "filters exclude its document",
        ),
        ({"filters": {"customer": "nobody"}}, "filters match no document"),
        ({"document_id": "acme/0", "filters": {"custmer": "acme"}}, "filters match no document"),
        ({"filters": {"customer": []}}, "wrong field"),
        ({"filters": "acme"}, "wrong field"),
    ],
)
def test_a_question_whose_filters_cannot_be_right_is_rejected(
    prepare: Make, tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    config, run_dir = prepare()
    line = {"question": "Where does pump 0 stand?", "answers": ["hall 0"], **row}
    with (tmp_path / "questions.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    generate.run(Session(config, run_dir))
    [reject] = read_jsonl(run_dir.rejects("generate"), Reject)
    assert reject.reason == reason and reject.item == "questions.jsonl:23"


def test_a_question_without_a_document_is_placed_among_the_allowed_ones(
    prepare: Make, tmp_path: Path
) -> None:
    config, run_dir = prepare()
    # "team oils it" stands in every document; of those that are allowed in one alone.
    rows = [{"question": "Who oils it?", "answers": ["team"], "filters": {"id": "bolt/2"}}]
    rows.append({"question": "Who oils it?", "answers": ["team"], "filters": {"id": "bolt/*"}})
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    generate.run(Session(config, run_dir))
    placed, unplaced = sorted(read_jsonl(run_dir.qa, QAPair), key=lambda p: p.document_id is None)
    assert placed.document_id == "bolt/2" and placed.chunk_id == "bolt/2#0"
    assert unplaced.document_id is None and placed.id != unplaced.id
