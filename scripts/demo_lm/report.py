"""The full report on an exported checkpoint: greedy replies through transformers, judged by the
grammar."""

import json
import random
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from . import evaluate, questions, tasks
from .evaluate import GenerationCase

BATCH = 24
ANSWER_TOKENS, JSON_TOKENS = 32, 160


class Generator:
    """Greedy, batched replies of a checkpoint to single user messages."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.padding_side = "left"
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def _prompt(self, message: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )

    @torch.no_grad()
    def replies(self, messages: list[str], new_tokens: int) -> list[str]:
        """One reply per message, in order."""
        prompts = [self._prompt(message) for message in messages]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found: dict[int, str] = {}
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = self.tokenizer(
                [prompts[i] for i in rows],
                return_tensors="pt",
                padding=True,
                add_special_tokens=False,
            )
            output = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=new_tokens,
                do_sample=False,
            )
            for row, ids in zip(rows, output[:, batch["input_ids"].shape[1] :], strict=True):
                found[row] = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return [found[i] for i in range(len(messages))]


def token_f1(reply: str, gold: str) -> float:
    """Overlap of lower-cased words."""
    left, right = reply.lower().split(), gold.lower().split()
    common = sum((Counter(left) & Counter(right)).values())
    return 2 * common / (len(left) + len(right)) if common else 0.0


def answer_scores(replies: list[str], golds: list[str]) -> dict[str, float]:
    """Exact match, F1 and share of refusals."""
    number = len(golds)
    return {
        "em": round(sum(r == g for r, g in zip(replies, golds, strict=True)) / number, 3),
        "f1": round(sum(token_f1(r, g) for r, g in zip(replies, golds, strict=True)) / number, 3),
        "refused": round(sum(r == tasks.REFUSAL for r in replies) / number, 3),
    }


def _factoid_marks(reply: dict[str, str], case: GenerationCase) -> list[str]:
    evidence, question, answer = (str(reply.get(k, "")) for k in ("evidence", "question", "answer"))
    facts = [f for f in case.passage.facts if f.sentence == case.focus]
    if not facts:
        return ["filler_right"] if not question and not evidence else []
    asked = questions.asked_fact(question, case.passage)
    marks = ["evidence_verbatim"] if evidence == case.focus else []
    marks += ["answer_is_span"] if answer and answer in evidence else []
    marks += ["question_right"] if asked in facts else []
    return marks + (
        ["pair_right"] if asked in facts and asked is not None and asked.answer == answer else []
    )


def judge(text: str, case: GenerationCase) -> list[str]:
    """Which marks a reply to a generate prompt earns."""
    try:
        reply = json.loads(text)
    except json.JSONDecodeError:
        return []
    if not isinstance(reply, dict) or list(reply) != ["evidence", "question", "answer"]:
        return []
    if case.kind == "factoid":
        return ["valid_json", *_factoid_marks(reply, case)]
    question = str(reply["question"])
    fair = (
        reply["answer"] == tasks.REFUSAL
        and question.endswith("?")
        and questions.asked_fact(question, case.passage) is None
    )
    return ["valid_json", "unanswerable_right"] if fair else ["valid_json"]


def generation_scores(texts: list[str], cases: list[GenerationCase]) -> dict[str, float]:
    """Shares of the marks, each over the cases that could earn it."""
    counts = Counter(
        mark for text, case in zip(texts, cases, strict=True) for mark in judge(text, case)
    )
    factual = {f.sentence for case in cases for f in case.passage.facts}
    kinds = Counter(
        "unanswerable" if c.kind == "unanswerable" else "fact" if c.focus in factual else "filler"
        for c in cases
    )
    base = {
        "valid_json": len(cases),
        "unanswerable_right": kinds["unanswerable"],
        "filler_right": kinds["filler"],
    }
    names = (
        "valid_json",
        "evidence_verbatim",
        "answer_is_span",
        "question_right",
        "pair_right",
        "filler_right",
        "unanswerable_right",
    )
    return {name: round(counts[name] / max(1, base.get(name, kinds["fact"])), 3) for name in names}


def full_report(folder: Path, items: int) -> dict[str, dict[str, float]]:
    """Every measure of the model card."""
    generator = Generator(folder)
    report = {}
    for name, sets in evaluate.answer_sets(items).items():
        replies = generator.replies([turns[0][0] for turns in sets], ANSWER_TOKENS)
        report[name] = answer_scores(replies, [turns[0][1] for turns in sets])
    rng = random.Random(9)
    closed = [tasks.closed_book_item(rng, evaluate.EVAL_STYLE)[0][0] for _ in range(items // 4)]
    report["closed_book"] = answer_scores(
        generator.replies(closed, ANSWER_TOKENS), [tasks.REFUSAL] * len(closed)
    )
    cases = evaluate.generation_set(items, 8)
    report["generation"] = generation_scores(
        generator.replies([c.prompt for c in cases], JSON_TOKENS), cases
    )
    return report
