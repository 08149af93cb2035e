"""The three prompt formats and the training items built from passages."""

import json
import random
from dataclasses import replace

from . import grammar, passages, questions
from .facts import Fact, Passage, Style

REFUSAL = "I don't know."
ANSWER = (
    "Answer the question from the context, as briefly as possible. If the context does not say, "
    "reply: I don't know.\n\nContext:\n{context}\n\nQuestion: {question}"
)
CLOSED_BOOK = (
    "Answer the question as briefly as possible. If you do not know, reply: I don't know.\n\n"
    "Question: {question}"
)
GENERATE = (
    "Write a question about the passage as JSON.\n\nPassage:\n{passage}\n\n"
    "Sentence: {focus}\nKind: {kind}"
)
LATER_QUESTION = "Question: {question}"
LATER_FOCUS = "Sentence: {focus}\nKind: {kind}"

QUESTION_LEADS = (
    "According to the text, ",
    "Tell me: ",
    "Please say: ",
    "From the context: ",
    "I would like to know: ",
)

Turns = list[tuple[str, str]]  # (user message, reply)

STAGES = {
    "easy": Style(
        facts=(2, 3),
        pronoun=0.1,
        filler=0.05,
        attribute=0.45,
        decorated=0.05,
        listed=0.05,
        joined=0.0,
        titled=0.1,
        varied=0.3,
    ),
    "middle": Style(
        facts=(2, 5),
        entities=(1, 1, 1, 2),
        pronoun=0.3,
        filler=0.25,
        attribute=0.35,
        titled=0.3,
        varied=0.5,
    ),
    "full": Style(facts=(3, 6), entities=(1, 1, 1, 2, 3), filler=0.5, attribute=0.18, varied=0.6),
}


def context_of(chunks: list[Passage]) -> str:
    """Numbered chunks as the package writes them."""
    return "\n".join(f"[{i}] {p.with_title}" for i, p in enumerate(chunks, 1))


def reply_json(evidence: str, question: str, answer: str) -> str:
    """The reply to a generate prompt."""
    return json.dumps(
        {"evidence": evidence, "question": question, "answer": answer}, ensure_ascii=False
    )


def qa_turns(
    rng: random.Random, chunks: list[Passage], style: Style, number: int, refusals: float = 0.18
) -> Turns:
    """(question, answer) pairs about the chunks, answers being spans or the refusal."""
    facts = [f for p in chunks for f in p.facts]
    left: list[Fact] = []
    pairs: Turns = []
    for _ in range(number):
        left = left or rng.sample(
            facts, len(facts)
        )  # asked again, in other words, when all have had their turn
        if rng.random() < refusals or not left:
            pairs.append((questions.unanswerable(rng, chunks, style), REFUSAL))
        else:
            pairs.append(_question_turn(rng, left.pop(), style))
    return pairs


def _question_turn(rng: random.Random, fact: Fact, style: Style) -> tuple[str, str]:
    question = questions.question_for(rng, fact, style)
    if rng.random() < 0.06:
        question = rng.choice(QUESTION_LEADS) + question[0].lower() + question[1:]
    return question, fact.answer


def answer_item(chunks: list[Passage], pairs: Turns) -> Turns:
    """User messages and replies of an answer conversation."""
    first, *rest = pairs
    opening = ANSWER.format(context=context_of(chunks), question=first[0])
    return [(opening, first[1])] + [(LATER_QUESTION.format(question=q), a) for q, a in rest]


def closed_book_item(rng: random.Random, style: Style) -> Turns:
    """Questions without a context are refused."""
    passage = passages.make_passage(rng, rng.choice(grammar.domains_for(style.split)), style)
    facts = rng.sample(passage.facts, min(2, len(passage.facts)))
    first, *rest = [questions.question_for(rng, f, style) for f in facts]
    turns = [(CLOSED_BOOK.format(question=first), REFUSAL)]
    return turns + [(LATER_QUESTION.format(question=q), REFUSAL) for q in rest]


def _focus_turn(
    rng: random.Random, passage: Passage, facts: list[Fact], style: Style
) -> tuple[str, str, str] | None:
    pick = rng.random()
    style = replace(style, varied=0.0)  # written questions keep to the grammar, which judges them
    sentences = [f.sentence for f in passage.facts] + passage.fillers
    if pick < 0.25:
        question = questions.unanswerable(rng, [passage], style, tempting=False)
        return rng.choice(sentences), "unanswerable", reply_json("", question, REFUSAL)
    if pick < 0.38 and passage.fillers:
        return rng.choice(passage.fillers), "factoid", reply_json("", "", "")
    if not facts:
        return None
    fact = facts.pop()
    question = questions.question_for(rng, fact, style)
    return fact.sentence, "factoid", reply_json(fact.sentence, question, fact.answer)


def generate_item(rng: random.Random, passage: Passage, style: Style, number: int) -> Turns:
    """Sentences of one passage turned into questions."""
    facts = rng.sample(passage.facts, len(passage.facts))
    shown = passage.with_title if rng.random() < 0.6 else passage.text
    if (
        shown == passage.text and passage.title
    ):  # the heading may be the only place that names the entity
        facts = [f for f in facts if f.entity.name.lower() in passage.text.lower()] or facts
    turns: Turns = []
    for _ in range(number):
        turn = _focus_turn(rng, passage, facts, style)
        if turn is None:
            continue
        template = LATER_FOCUS if turns else GENERATE
        turns.append(
            (
                template.replace("{passage}", shown)
                .replace("{focus}", turn[0])
                .replace("{kind}", turn[1]),
                turn[2],
            )
        )
    return turns


def _chunk_count(rng: random.Random, stage: str) -> int:
    return {
        "easy": 1,
        "middle": rng.choice((1, 1, 1, 2)),
        "full": rng.choice((1, 1, 2, 2, 3, 3, 3, 4, 5)),
    }[stage]


def _shorter(style: Style, chunks: int) -> Style:
    """With many chunks each is shorter, so that the item fits the window."""
    low, high = style.facts
    if chunks < 3:
        return style
    return replace(
        style,
        facts=(max(1, low - 1), max(2, high + 1 - chunks)),
        entities=(1, 1, 1, 2),
        filler=style.filler * 0.7,
    )


def training_item(rng: random.Random, stage: str, single: bool = False) -> Turns | str:
    """One item of a stage: a conversation, or plain text (a small share); `single` keeps most of
    them to one turn."""
    style, pick = STAGES[stage], rng.random()
    domain = rng.choice(grammar.domains_for("train"))
    turns = rng.choice((1, 1, 2)) if single else rng.randint(2, 6 if stage == "full" else 4)
    if pick < 0.02:
        return passages.make_passage(rng, domain, style).with_title
    if pick < 0.035 and stage != "easy":
        return closed_book_item(rng, style)
    if pick < 0.33:
        return generate_item(rng, passages.make_passage(rng, domain, style), style, turns)
    count = _chunk_count(rng, stage)
    style = _shorter(style, count)
    if (
        stage == "full" and not single
    ):  # a context costs far more tokens than one more question about it
        turns = rng.randint(4, 9) if count < 3 else rng.randint(3, 6)
    chunks = passages.sibling_set(rng, domain, style, count)
    return answer_item(chunks, qa_turns(rng, chunks, style, turns, refusals=0.22))
