"""evaluate: real index, real (tiny, random) models; what is asked, scored and rejected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.errors import DataError
from rag_ft.evaluation.sampling import spread_over_documents
from rag_ft.evaluation.systems import NAMES
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Evidence, Hit, Prediction, QAPair, Score
from rag_ft.session import Session
from rag_ft.stages import evaluate, index, ingest
from rag_ft.storage import read_jsonl, write_jsonl

TEXTS = {
    "mill": "The mill at Oda was built in 1712 by Ruth Falk. It ground rye for the valley. "
    "Its wheel is made of oak.",
    "pier": "The pier at Lund was opened in 1893 by Karl Moen. It carries a small railway. "
    "Ships stop there in May.",
    "tower": "The tower at Vik was finished in 1640 by Ane Dahl. It holds two bells. "
    "The stairs have ninety steps.",
    "lamp": "The lamp at Sund was lit in 1801 by Per Holm. It burned whale oil. "
    "A keeper lived below it.",
}
SPLITS = {"mill": "train", "pier": "test", "tower": "test", "lamp": "test"}
ANSWERS = {"mill": "Ruth Falk", "pier": "Karl Moen", "tower": "Ane Dahl", "lamp": "Per Holm"}


def question(name: str, text: str, answer: str | None, origin: str = "generated") -> QAPair:
    start = TEXTS[name].find(answer) if answer else -1
    evidence = Evidence(answer, start, start + len(answer)) if answer and start >= 0 else None
    return QAPair(
        id=f"{name}-{len(text)}-{origin}",
        question=text,
        answers=(answer or "I don't know.",),
        chunk_id=f"{name}#0" if evidence else None,
        document_id=name,
        evidence=evidence,
        kind="factoid" if answer else "unanswerable",
        split=SPLITS[name],
        origin=origin,
    )


def questions() -> list[QAPair]:
    pairs = [question(name, f"Who made the {name}?", ANSWERS[name]) for name in TEXTS]
    return [*pairs, question("pier", "What did the pier cost to build?", None, "imported")]


@pytest.fixture
def make_evaluated(
    make_run: Callable[..., tuple[Config, RunDir]],
) -> Callable[..., tuple[Config, RunDir]]:
    """make_evaluated(**overrides) -> (config, run_dir) with documents, index and questions."""

    def make(**overrides: Any) -> tuple[Config, RunDir]:
        documents = [
            {"id": n, "title": n.title(), "text": t, "split": SPLITS[n]} for n, t in TEXTS.items()
        ]
        settings = {
            "evaluate__advanced__max_tokens": 4,
            "retrieval__top_k": 2,
            "ingest__chunk_tokens": 200,
            **overrides,
        }
        config, run_dir = make_run(documents, **settings)
        ingest.run(Session(config, run_dir))
        index.run(Session(config, run_dir))
        write_jsonl(run_dir.qa, questions())
        return config, run_dir

    return make


@pytest.fixture(scope="module")
def evaluated(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> tuple[RunDir, dict[str, Any]]:
    """(run_dir, counts) of an untuned run that was evaluated once; for tests that only read."""
    folder = tmp_path_factory.mktemp("evaluated")
    documents = [
        {"id": n, "title": n.title(), "text": t, "split": SPLITS[n]} for n, t in TEXTS.items()
    ]
    write_jsonl(folder / "documents.jsonl", documents)
    config = make_config(
        {
            "name": "test",
            "run": {"dtype": "float32", "dir": folder / "run"},
            "ingest": {"sources": [folder / "documents.jsonl"], "chunk_tokens": 200},
            "encoder": {"model": str(tiny_encoder_dir)},
            "retrieval": {"top_k": 2},
            "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
            "evaluate": {"advanced": {"max_tokens": 4, "robustness": True, "ensemble": True}},
        }
    )
    run_dir = RunDir(config.run_path)
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    write_jsonl(run_dir.qa, questions())
    return run_dir, evaluate.run(Session(config, run_dir))


def tiny_adapter(base: Path, folder: Path) -> None:
    """A LoRA adapter with random weights large enough to change what the model says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(
        r=4,
        lora_alpha=64,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(model, lora).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def test_an_untuned_run_scores_every_system_and_says_that_nothing_was_tuned(evaluated: Any) -> None:
    run_dir, counts = evaluated
    assert (counts["questions"], counts["generator_tuned"], counts["retriever_tuned"]) == (4, 0, 0)
    scores = list(read_jsonl(run_dir.scores, Score))
    # An optional component that was not tuned has no row.
    names = {*NAMES} - {"tuned_reranker"}
    assert names <= {score.system for score in scores}
    em = {
        (s.system, s.question_id): s.value for s in scores if s.metric == "em" and s.system in NAMES
    }
    assert all(
        em["base", q] == em["tuned", q] == em["tuned_generator", q] for s, q in em if s == "base"
    )
    assert len(em) == 4 * len(names)


def test_a_prompt_shared_by_several_systems_is_answered_once(evaluated: Any) -> None:
    run_dir, counts = evaluated
    replies = [json.loads(line) for line in run_dir.replies("evaluate").read_text().splitlines()]
    assert (
        len({row["key"] for row in replies})
        == len(replies)
        == counts["prompts"]
        < counts["predictions"] / 2
    )


def test_a_tuned_generator_answers_in_its_own_systems_alone(
    make_evaluated: Any, tiny_lm_dir: Path
) -> None:
    config, run_dir = make_evaluated()
    tiny_adapter(tiny_lm_dir, run_dir.generator)
    assert evaluate.run(Session(config, run_dir))["generator_tuned"] == 1
    said = {
        name: [p.answer for p in read_jsonl(run_dir.predictions(name), Prediction)]
        for name in NAMES
        if name != "tuned_reranker"
    }
    assert not run_dir.predictions("tuned_reranker").exists()
    assert said["base"] == said["tuned_retriever"]
    assert said["tuned"] == said["tuned_generator"]
    assert said["base"] != said["tuned"]


def test_an_evaluation_run_twice_writes_the_same_bytes(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated()
    evaluate.run(Session(config, run_dir))
    files = [
        run_dir.scores,
        run_dir.predictions("base"),
        run_dir.hits("base"),
        run_dir.replies("evaluate"),
    ]
    before = [path.read_bytes() for path in files]
    evaluate.run(Session(config, run_dir))
    assert [path.read_bytes() for path in files] == before


def test_only_questions_about_test_documents_are_asked(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__answers=False)
    evaluate.run(Session(config, run_dir))
    asked = {hit.question_id for hit in read_jsonl(run_dir.hits("base"), Hit)}
    assert asked == {pair.id for pair in questions() if pair.split == "test"}


def test_retrieval_alone_loads_no_language_model(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__answers=False, llm__model="no/such/model")
    counts = evaluate.run(Session(config, run_dir))
    assert "predictions" not in counts
    metrics = {(score.system, score.metric) for score in read_jsonl(run_dir.scores, Score)}
    assert {system for system, _ in metrics} == {"base", "tuned", "lexical", "dense_base"}
    assert ("lexical", "recall@5") in metrics


def test_every_file_of_hits_covers_all_test_questions_and_base_and_tuned_are_as_served(
    make_evaluated: Any, tiny_encoder_dir: Path
) -> None:
    config, run_dir = make_evaluated(evaluate__answers=False)
    asked = {pair.id: pair.question for pair in questions() if pair.split == "test"}

    def check(names: set[str]) -> None:
        session = Session(config, run_dir)
        evaluate.run(session)
        assert {path.stem for path in run_dir.hits("base").parent.iterdir()} == names
        for name in names:
            found: dict[str, list[tuple[str, float]]] = {question_id: [] for question_id in asked}
            for hit in read_jsonl(run_dir.hits(name), Hit):
                found[hit.question_id].append((hit.chunk_id, hit.score))
                assert hit.rank == len(found[hit.question_id])
            assert all(found.values()), name
            if name in ("base", "tuned"):
                tuned = session.tuned_components if name == "tuned" else ()
                served = session.retriever(tuned).search([*asked.values()], 20)
                for hits, expected in zip(found.values(), served, strict=True):
                    assert hits == [(i, pytest.approx(score, abs=1e-6)) for i, score in expected]

    check({"base", "tuned", "lexical", "dense_base"})
    shutil.copytree(tiny_encoder_dir, run_dir.retriever)
    encoder = load_encoder(config.encoder, run_dir.retriever)
    chunks = ChunkStore(run_dir.chunks)
    build_index(run_dir.retriever_index, chunks, encoder, config.retrieval, config.run.seed)
    check({"base", "tuned", "lexical", "dense_base", "dense_tuned"})


def test_unlocated_and_unanswerable_questions_have_no_retrieval_score(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__answers=False)
    assert evaluate.run(Session(config, run_dir))["located_questions"] == 3
    assert (
        len(
            [
                s
                for s in read_jsonl(run_dir.scores, Score)
                if (s.system, s.metric) == ("base", "recall@5")
            ]
        )
        == 3
    )


def test_withheld_contexts_contain_neither_the_gold_chunk_nor_the_answer(evaluated: Any) -> None:
    run_dir, _ = evaluated
    pairs = {pair.id: pair for pair in questions()}
    chunks = {chunk.id: chunk for chunk in read_jsonl(run_dir.chunks, Chunk)}
    for prediction in read_jsonl(run_dir.predictions("withheld_base"), Prediction):
        pair = pairs[prediction.question_id]
        assert prediction.chunk_ids
        assert not pair.answerable or all(
            pair.answer not in chunks[i].text for i in prediction.chunk_ids
        )


def test_the_oracle_is_shown_the_gold_chunk(evaluated: Any) -> None:
    run_dir, _ = evaluated
    shown = {
        p.question_id: p.chunk_ids
        for p in read_jsonl(run_dir.predictions("oracle_base"), Prediction)
    }
    assert shown[question("lamp", "Who made the lamp?", "Per Holm").id] == ("lamp#0",)


def test_a_question_without_a_known_document_is_answered_beside_the_others(
    make_evaluated: Any,
) -> None:
    config, run_dir = make_evaluated()
    nowhere = QAPair(
        "q", "Who was first?", ("nobody",), None, None, None, "factoid", "test", "imported"
    )
    write_jsonl(run_dir.qa, [*questions(), nowhere])
    evaluate.run(Session(config, run_dir))
    asked = {
        name: {p.question_id for p in read_jsonl(run_dir.predictions(name), Prediction)}
        for name in NAMES
        if name != "tuned_reranker"
    }
    assert asked["base"] == asked["tuned"] == asked["oracle_base"] | {"q"}
    assert "q" not in asked["oracle_tuned"] | asked["withheld_base"] | asked["withheld_tuned"]


def test_origins_choose_the_questions(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__origins=["imported"], evaluate__answers=False)
    assert evaluate.run(Session(config, run_dir))["questions"] == 1


def test_no_test_question_ends_in_an_error_with_a_remedy(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__origins=["reviewed"])
    with pytest.raises(DataError, match=r"no test question of origin reviewed.*evaluate\.origins"):
        evaluate.run(Session(config, run_dir))


def test_a_training_pair_about_a_test_document_stops_the_evaluation(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(evaluate__answers=False)
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    rows[1]["split"] = "train"  # its document stays a test document
    write_jsonl(run_dir.qa, rows)
    with pytest.raises(DataError, match="leak from the test documents"):
        evaluate.run(Session(config, run_dir))


def test_max_questions_spreads_over_the_documents() -> None:
    pairs = [
        QAPair(
            f"{name}{n}", f"{name} {n}?", ("x",), None, name, None, "factoid", "test", "imported"
        )
        for name, count in (("a", 30), ("b", 2), ("c", 2))
        for n in range(count)
    ]
    chosen = spread_over_documents(pairs, 6, seed=0)
    assert sorted(pair.document_id for pair in chosen) == ["a", "a", "b", "b", "c", "c"]
    assert chosen == [pair for pair in pairs if pair in chosen]
    assert chosen == spread_over_documents(pairs, 6, seed=0)


def test_robustness_adds_probes_for_both_generators(evaluated: Any) -> None:
    run_dir, _ = evaluated
    systems = {score.system for score in read_jsonl(run_dir.scores, Score)}
    assert {
        "noise0_base",
        "noise67_tuned",
        "order_first_base",
        "order_last_tuned",
        "swap_base",
    } <= systems


def test_an_ensemble_answers_from_each_chunk_alone(evaluated: Any) -> None:
    run_dir, _ = evaluated
    predictions = list(read_jsonl(run_dir.predictions("ensemble_base"), Prediction))
    assert len(predictions) == 4
    assert all(
        len(p.chunk_ids) == 2 and set(p.citations) <= set(p.chunk_ids) and p.citations
        for p in predictions
    )
    assert not any("#" in path.name for path in run_dir.predictions("base").parent.iterdir())


def test_judge_and_similarity_are_scored_on_request(make_evaluated: Any, tiny_lm_dir: Path) -> None:
    config, run_dir = make_evaluated(
        evaluate__advanced__judge=str(tiny_lm_dir), evaluate__advanced__similarity=True
    )
    tiny_adapter(tiny_lm_dir, run_dir.generator)  # the tiny model itself says nothing
    counts = evaluate.run(Session(config, run_dir))
    assert counts["judge_prompts"] > 0 == counts["judge_failed"]
    scores = {
        (s.system, s.question_id, s.metric): s.value for s in read_jsonl(run_dir.scores, Score)
    }
    assert all((*key[:2], "similarity") in scores for key in scores if key[2] == "f1")
    assert {value for key, value in scores.items() if key[2] == "faithfulness_judged"} <= {0.0, 1.0}


def test_failed_replies_are_rejects_and_never_scores(make_evaluated: Any) -> None:
    config, run_dir = make_evaluated(llm__max_model_tokens=350)
    counts = evaluate.run(Session(config, run_dir))
    assert counts["failed_prompts"] > 0
    assert counts["predictions"] < 4 * len(NAMES)
    assert run_dir.rejects("evaluate").read_text().count("\n") == counts["failed_prompts"]
