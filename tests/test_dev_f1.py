"""Questions that the model answers during its training are scored as the evaluation scores them."""

from __future__ import annotations

import functools

import pytest
from generator_run import Make, prepare

from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import read_jsonl
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.tokenization import load_chat_tokens


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_answers_during_training_are_scored_as_those_of_the_evaluation(prepared: Make) -> None:
    from rag_ft.evaluation.metrics.answers import score_answer
    from rag_ft.llm.factory import open_language_model
    from rag_ft.llm.interface import ChatRequest
    from rag_ft.prompts.prompt_set import is_abstention
    from rag_ft.training.generator.dataset import layout_settings
    from rag_ft.training.generator.dev_f1 import answer_f1, mean_f1
    from rag_ft.training.generator.dev_questions import make_questions
    from rag_ft.training.generator.retrieved import retrieve

    config, run_dir = prepared(llm__model="data/models/demo-lm")
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    session, tokens = Session(config, run_dir), load_chat_tokens(config.llm.required_model)
    found, prompt = retrieve(session, pairs), session.answer_prompt
    context = config.llm.max_model_tokens
    layout = layout_settings(
        config.train_generator, config.retrieval.top_k, config.run.seed, context
    )
    questions = list(make_questions(prompt, found, pairs, tokens.encode, layout))
    requests = []
    for pair in pairs:
        shown = [found.chunks[i] for i in found.hits(pair.id)[: config.retrieval.top_k]]
        requests.append(ChatRequest(pair.id, prompt.messages(pair.question, shown), 12))
    with open_language_model(config.llm, 0) as model:
        said = {reply.id: reply.text for reply in model.chat(requests)}
    wanted = [
        score_answer(
            said[p.id],
            p.answers if p.answerable else (),
            is_abstention(said[p.id], config.llm.advanced.abstain),
        )["f1"]
        for p in pairs
    ]
    base = load_base(config.llm, config.train_generator)
    assert answer_f1(base, tokens.tokenizer, questions, config.llm.advanced.abstain, 12) == wanted
    assert (
        0
        < mean_f1(base, tokens.tokenizer, questions, config.llm.advanced.abstain, 12)
        == sum(wanted) / len(wanted)
        < 1
    )
