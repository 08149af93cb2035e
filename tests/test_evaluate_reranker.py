"""The evaluation of a run whose reranker alone was tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sentence_transformers import CrossEncoder
from test_evaluate import make_evaluated

from rag_ft.config import RerankerConfig
from rag_ft.evaluation.systems import NAMES
from rag_ft.schema import Prediction
from rag_ft.session import Session
from rag_ft.stages import evaluate
from rag_ft.storage import read_jsonl, write_text

__all__ = ["make_evaluated"]  # a fixture


def test_its_ranking_is_what_its_system_is_shown(
    make_evaluated: Any, tiny_encoder_dir: Path
) -> None:
    config, run_dir = make_evaluated()
    config = config.model_copy(update={"reranker": RerankerConfig(model="auto")})
    # A reranker with random weights, whose order is all that counts.
    model = CrossEncoder(str(tiny_encoder_dir), num_labels=1, device="cpu")
    model.save_pretrained(str(run_dir.reranker))
    encoder = Session(config, run_dir).retriever().encoder.fingerprint
    row = {"encoder": encoder, "weight": 1.0, "depth": 10}
    write_text(run_dir.reranking, json.dumps({"base": row, "tuned": None}))

    session = Session(config, run_dir)
    assert session.tuned_components == {"reranker"}
    counts = evaluate.run(session)
    assert (counts["generator_tuned"], counts["reranker_tuned"]) == (0, 1)
    hits = {path.stem for path in run_dir.hits("base").parent.iterdir()}
    assert hits == {"base", "tuned", "lexical", "dense_base"}
    shown = {
        name: {
            p.question_id: p.chunk_ids for p in read_jsonl(run_dir.predictions(name), Prediction)
        }
        for name in NAMES
    }
    # Without another tuned ranking component, "tuned" is the reranked order.
    assert shown["tuned_reranker"] == shown["tuned"]
    assert shown["tuned_retriever"] == shown["tuned_generator"] == shown["base"]
    reranked = Session(config, run_dir).retriever({"reranker"})
    assert reranked.reranker is not None
    assert shown["tuned_reranker"] != shown["base"]
