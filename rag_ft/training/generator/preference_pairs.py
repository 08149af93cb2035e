"""What preference tuning compares: the model's own replies to train questions, scored by what can
be verified, as pairs of a better and a worse reply.

The pairs stand in four quadrants (Divide-Then-Align): whether the model knows the answer without
chunks, and whether a shown chunk is gold. As many pairs teach to abstain as teach not to; else the
model would abstain too often, or answer without support.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np

from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.fast.decoding import Row
from rag_ft.prompts.prompt_set import is_abstention, parse_answer
from rag_ft.training.generator.dev_f1 import continue_rows
from rag_ft.training.generator.preference_prompts import PreferencePrompt

MARGIN = 0.5  # the least difference in score (0-1) of two replies that are compared
RIGHT = 0.5  # F1 from which on an answer counts as right
TEMPERATURE = 1.0
Teaches = Literal["abstain", "answer", "read"]


@dataclass(frozen=True)
class Replying:
    """How replies are asked for and judged.

    `dtype` is run.dtype, `abstain` the abstain sentence; `num_samples` random replies of at most
    `max_tokens` tokens are drawn beside the greedy one, by `seed`. `cite`: see `judge`.
    """

    dtype: str
    abstain: str
    max_tokens: int
    seed: int
    cite: bool
    num_samples: int


@dataclass(frozen=True)
class Judged:
    """A reply as token ids with its end of turn, and its score (0-1)."""

    tokens: tuple[int, ...]
    score: float
    abstained: bool


@dataclass(frozen=True)
class Preference:
    """`chosen` is the better reply to `prompt` (all token ids). `teaches` says what the model
    learns by it: to abstain, to answer where it could abstain, or to read better. `spare`: the
    model made no mistake, and the worse reply is not its own."""

    pair_id: str
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    teaches: Teaches
    known: bool
    gold_shown: bool
    spare: bool = False


@dataclass(frozen=True)
class Compared:
    """What became of a prompt: the score (0-1) of the greedy reply, and a preference if any."""

    pair_id: str
    known: bool
    gold_shown: bool
    score: float
    preference: Preference | None


def judge(text: str, prompt: PreferencePrompt, abstain: str, cite: bool) -> tuple[float, bool]:
    """(score, whether it abstains) of a reply. Where no shown chunk is gold, to abstain scores 1
    and anything else 0. Elsewhere the score is the answer's F1; with `cite` half of it counts only
    if a gold chunk is cited."""
    answer, cited = parse_answer(text, prompt.num_chunks)
    abstained = is_abstention(answer, abstain) or not answer
    score = score_answer(answer, prompt.answers, abstained)["f1"]
    if cite and prompt.answers and not set(cited) & set(prompt.gold):
        score /= 2
    return score, abstained


def compare(
    model: Any, tokenizer: Any, prompts: Sequence[PreferencePrompt], replying: Replying
) -> list[Compared]:
    """Asks the model each prompt greedily and several times at random, and compares the replies.
    The prompts of a pair stand together; those without chunks only tell what is known."""
    abstaining = _abstaining_reply(prompts)
    asked = [
        (prompt, number)
        for prompt in prompts
        for number in range(1 if prompt.shown == "none" else replying.num_samples + 1)
    ]
    rows = [_row(prompt, number, replying) for prompt, number in asked]
    texts = continue_rows(model, tokenizer, rows)
    judged = []
    for (prompt, number), row, text in zip(asked, rows, texts, strict=True):
        end = prompt.right_reply[-1:] if row.finish_reason == "stop" else []
        scored = judge(text, prompt, replying.abstain, replying.cite)
        reply = Judged((*row.tokens, *end), *scored)
        judged.append((prompt, number, reply))

    compared = []
    for _, group in groupby(judged, key=lambda item: item[0].pair_id):
        of_pair = list(group)
        known = any(p.shown == "none" and reply.score >= RIGHT for p, _, reply in of_pair)
        for _, same in groupby(of_pair, key=lambda item: id(item[0])):
            replies = list(same)
            prompt = replies[0][0]
            if prompt.shown != "none":
                preference = prefer(prompt, [r for *_, r in replies], known, abstaining)
                score = replies[0][2].score
                gold_shown = bool(prompt.answers)
                compared.append(Compared(prompt.pair_id, known, gold_shown, score, preference))
    return compared


def _row(prompt: PreferencePrompt, number: int, replying: Replying) -> Row:
    """Number 0 is greedy; the draws of the others depend on nothing but the prompt and the seed."""
    if number == 0:
        return Row(prompt.prompt, replying.max_tokens)
    rng = random.Random(f"{replying.seed}:{prompt.pair_id}:{prompt.shown}:{number}")
    uniforms = np.array([rng.random() for _ in range(replying.max_tokens)])
    return Row(prompt.prompt, replying.max_tokens, TEMPERATURE, uniforms)


def _abstaining_reply(prompts: Iterable[PreferencePrompt]) -> tuple[int, ...]:
    """Empty where to abstain is never right."""
    found = (p.right_reply for p in prompts if not p.answers)
    return tuple(next(found, ()))


def prefer(
    prompt: PreferencePrompt,
    replies: Sequence[Judged],
    known: bool,
    abstaining: tuple[int, ...] = (),
) -> Preference | None:
    """The best reply against the worst, the more frequent of equals. Where no reply is all right,
    the right one is the better one. Where an answer is right and none of the replies is much worse,
    `abstaining` (token ids) is the worse one."""
    times = Counter(reply.tokens for reply in replies)
    worst = min(replies, key=lambda reply: (reply.score, -times[reply.tokens]))
    best = max(replies, key=lambda reply: (reply.score, times[reply.tokens]))
    if best.score < 1.0:
        best = Judged(tuple(prompt.right_reply), 1.0, not prompt.answers)
    spare = best.score - worst.score < MARGIN
    if spare and (not prompt.answers or not abstaining):
        return None
    if spare:
        worst = Judged(abstaining, 0.0, True)
    teaches: Teaches = "read"
    if best.abstained or worst.abstained:
        teaches = "abstain" if best.abstained else "answer"
    return Preference(
        pair_id=prompt.pair_id,
        prompt=tuple(prompt.prompt),
        chosen=best.tokens,
        rejected=worst.tokens,
        teaches=teaches,
        known=known,
        gold_shown=bool(prompt.answers),
        spare=spare,
    )


def balance(preferences: Iterable[Preference], seed: int) -> list[Preference]:
    """As many preferences that teach to abstain as those that teach to answer, and all that teach
    to read, in random order. Spare ones only fill up what is missing."""
    ordered = list(preferences)
    random.Random(f"{seed}:balance").shuffle(ordered)
    ordered.sort(key=lambda preference: preference.spare)
    of = {
        teaches: [p for p in ordered if p.teaches == teaches]
        for teaches in ("abstain", "answer", "read")
    }
    own_mistakes = max(sum(not p.spare for p in of[name]) for name in ("abstain", "answer"))
    most = min(len(of["abstain"]), len(of["answer"]), own_mistakes)
    chosen = [*of["abstain"][:most], *of["answer"][:most], *of["read"]]
    random.Random(f"{seed}:order").shuffle(chosen)
    return chosen


def quadrants(
    compared: Iterable[Compared], used: Iterable[Preference]
) -> list[dict[str, bool | int | float]]:
    """A row for each quadrant: {known, gold_shown, prompts, score, preferences}. `score` is the
    mean (0-1) of the greedy replies; `preferences` counts those that are trained on."""
    counted = Counter((p.known, p.gold_shown) for p in used)
    scores: dict[tuple[bool, bool], list[float]] = {}
    for one in compared:
        scores.setdefault((one.known, one.gold_shown), []).append(one.score)
    return [
        {
            "known": known,
            "gold_shown": gold_shown,
            "prompts": len(of_quadrant),
            "score": round(sum(of_quadrant) / len(of_quadrant), 4),
            "preferences": counted[known, gold_shown],
        }
        for (known, gold_shown), of_quadrant in sorted(scores.items(), reverse=True)
    ]
