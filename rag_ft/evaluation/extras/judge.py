"""A language model judges whether each answer is supported by what its system was shown.

The report shows its verdicts beside the lexical measure, and nothing depends on them: a judge has
biases of its own. An answer that it fails to judge is counted and has no score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rag_ft.engine.language_model import prepare
from rag_ft.evaluation.systems import ENSEMBLES, SYSTEMS, Answered
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.schema import Prediction, Reject, Score
from rag_ft.session import Session
from rag_ft.storage import content_hash
from rag_ft.text import neutralise

METRIC = "faithfulness_judged"
# Robustness probes are not judged: it would take as long again.
JUDGED = {system.name for system in (*SYSTEMS, *ENSEMBLES)}
MAX_TOKENS = 32
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"supported": {"type": "boolean"}},
    "required": ["supported"],
    "additionalProperties": False,
}
INSTRUCTION = (
    "Below are passages, a question and an answer. Is everything that the answer says supported by "
    'the passages? Reply with JSON only: {"supported": true} or {"supported": false}.'
)


@dataclass(frozen=True)
class Judgement:
    """`num_asked` distinct prompts; a Reject for each that brought no verdict."""

    scores: list[Score]
    rejects: list[Reject]
    num_asked: int


def judge(
    session: Session,
    answered: Iterable[Answered],
    passages: Callable[[Prediction], list[str]],
) -> Judgement:
    """Asks the model `evaluate.advanced.judge` about every answer that is no abstention.

    Each distinct prompt is asked once, by way of llm.backend; verdicts are cached with the other
    replies.

    Args:
        session: of the evaluated run.
        answered: what the systems said.
        passages: the texts that a prediction's system was shown.

    Raises:
        ConfigError: there is no such model.
    """
    prompts: dict[str, Messages] = {}
    askers: dict[str, list[Prediction]] = {}
    abstains = session.answer_prompt.abstains
    for ask, prediction in answered:
        says_something = prediction.answer and not abstains(prediction.answer)
        if ask.system in JUDGED and prediction.chunk_ids and says_something:
            messages = judge_prompt(ask.pair.question, prediction.answer, passages(prediction))
            key = content_hash(messages)
            prompts[key] = messages
            askers.setdefault(key, []).append(prediction)
    # Without a prompt the judge is not even loaded.
    if not prompts:
        return Judgement([], [], 0)

    scores, rejects = [], []
    config = session.config
    llm = config.llm.model_copy(update={"model": config.evaluate.advanced.judge})
    requests = [
        ChatRequest(key, said, MAX_TOKENS, schema=VERDICT, about=about_of(askers[key]))
        for key, said in prompts.items()
    ]
    with session.language_model("evaluate", llm) as model:
        kept = session.run_dir.replies("evaluate")
        prepare(model, requests, len(requests), kept, "evaluate: judge")
        for reply in cached_chat(model, requests, kept, desc="evaluate: judge"):
            supported, why = read_verdict(reply)
            if supported is None:
                first = askers[reply.id][0]
                item = f"{first.system} {first.question_id}"
                rejects.append(Reject(item, "the judge gave no verdict", why))
                continue
            for prediction in askers[reply.id]:
                question_id, system = prediction.question_id, prediction.system
                scores.append(Score(question_id, system, METRIC, float(supported)))
    return Judgement(sorted(scores, key=lambda s: (s.system, s.question_id)), rejects, len(prompts))


def about_of(judged: Iterable[Prediction]) -> tuple[str, ...]:
    """The ids of the questions of some predictions and of the chunks that they were shown."""
    ids = (i for one in judged for i in (one.question_id, *one.chunk_ids))
    return tuple(dict.fromkeys(ids))


def judge_prompt(question: str, answer: str, passages: Iterable[str]) -> Messages:
    """One message that asks for the verdict; nothing in it can end the message.

    The passages come first: a server's prefix cache then reads them once for all systems that
    were shown the same.
    """
    context = "\n".join(f"[{n}] {neutralise(passage)}" for n, passage in enumerate(passages, 1))
    asked = f"Question: {neutralise(question)}\nAnswer: {neutralise(answer)}"
    return ({"role": "user", "content": f"{INSTRUCTION}\n\nPassages:\n{context}\n\n{asked}"},)


def read_verdict(reply: Reply) -> tuple[bool | None, str]:
    """(the verdict, or None and why there is none). Only the JSON object asked for is a verdict."""
    if reply.error is not None:
        return None, reply.error
    try:
        said = json.loads(reply.text)
    except ValueError:
        said = None
    supported = said.get("supported") if isinstance(said, dict) else None
    if isinstance(supported, bool):
        return supported, ""
    return None, f"it said: {reply.text[:200]}"
