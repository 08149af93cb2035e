"""A language model's word on whether each answer is supported by what its system was shown.

It stands beside the lexical measure and decides nothing: a judge has tastes of its own. What it fails to judge is
counted, and never a score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rag_ft.evaluation.systems import ENSEMBLES, SYSTEMS, Ask
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.schema import Prediction, Reject, Score
from rag_ft.session import Session
from rag_ft.storage import content_hash
from rag_ft.text import neutralise

METRIC = "faithfulness_judged"
JUDGED = {
    system.name for system in (*SYSTEMS, *ENSEMBLES)
}  # the probes' changed contexts are not worth a judge's time
MAX_TOKENS = 32
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {"supported": {"type": "boolean"}},
    "required": ["supported"],
    "additionalProperties": False,
}
INSTRUCTION = (
    "Below are passages, a question and an answer. Is everything that the answer says supported by the passages? "
    'Reply with JSON only: {"supported": true} or {"supported": false}.'
)


@dataclass(frozen=True)
class Judgement:
    """`num_asked` distinct prompts; a Reject for each that brought no verdict."""

    scores: list[Score]
    rejects: list[Reject]
    num_asked: int


def judge(
    session: Session,
    answered: Iterable[tuple[Ask, Prediction]],
    passages: Callable[[Prediction], list[str]],
) -> Judgement:
    """Puts every answer that is no abstention, with the passages it was given, to the model `evaluate.advanced.judge`, each
    distinct prompt once, by way of llm.backend. Verdicts are cached with the other replies.

    Raises:
        ConfigError: there is no such model.
    """
    prompts: dict[str, Messages] = {}
    askers: dict[str, list[Prediction]] = {}
    abstains = session.answer_prompt.abstains
    for ask, prediction in answered:
        if (
            ask.system in JUDGED
            and prediction.chunk_ids
            and prediction.answer
            and not abstains(prediction.answer)
        ):
            messages = judge_prompt(ask.pair.question, prediction.answer, passages(prediction))
            key = content_hash(messages)
            prompts[key] = messages
            askers.setdefault(key, []).append(prediction)
    scores, rejects = [], []
    for reply in _ask(session, prompts):
        supported, why = read_verdict(reply)
        if supported is None:
            first = askers[reply.id][0]
            rejects.append(
                Reject(f"{first.system} {first.question_id}", "the judge gave no verdict", why)
            )
        else:
            scores += [
                Score(p.question_id, p.system, METRIC, float(supported)) for p in askers[reply.id]
            ]
    return Judgement(sorted(scores, key=lambda s: (s.system, s.question_id)), rejects, len(prompts))


def judge_prompt(question: str, answer: str, passages: Iterable[str]) -> Messages:
    """Passages first, so that a server's prefix cache pays once for those that several systems were shown."""
    context = "\n".join(f"[{n}] {neutralise(passage)}" for n, passage in enumerate(passages, 1))
    asked = f"Question: {neutralise(question)}\nAnswer: {neutralise(answer)}"
    return ({"role": "user", "content": f"{INSTRUCTION}\n\nPassages:\n{context}\n\n{asked}"},)


def read_verdict(reply: Reply) -> tuple[bool | None, str]:
    """(the verdict, or None and why there is none): anything but the asked-for JSON object is no verdict."""
    if reply.error is not None:
        return None, reply.error
    try:
        said = json.loads(reply.text)
    except ValueError:
        said = None
    supported = said.get("supported") if isinstance(said, dict) else None
    return (
        (supported, "") if isinstance(supported, bool) else (None, f"it said: {reply.text[:200]}")
    )


def _ask(session: Session, prompts: Mapping[str, Messages]) -> Iterator[Reply]:
    if not prompts:
        return
    requests = [
        ChatRequest(key, messages, MAX_TOKENS, schema=VERDICT) for key, messages in prompts.items()
    ]
    llm = session.config.llm.model_copy(update={"model": session.config.evaluate.advanced.judge})
    with session.language_model(llm) as model:
        kept = session.run_dir.replies("evaluate")
        yield from cached_chat(model, requests, kept, desc="evaluate: judge")
