"""Answers against abstaining: the base and a tuned generator at equal shares of abstentions.

    rag-ft run configs/demo.yaml --until generate
    python benchmarks/abstaining.py [--config configs/demo.yaml] [section.key=value ...]

Tunes the generator on the pairs of one half of the train and dev documents, and asks people's
questions about the other half; test questions are not read. Each question is asked over its gold
chunk among others, over the others alone (withheld), and, where it has no answer, over the chunks
that the base retriever finds. A model that abstains less answers more, so its F1 rises without any
better reading. Here a number is added to the logit of the abstain sentence's first token, at the
first token of the reply, so that each model abstains on the same share of the withheld prompts.

Prints F1 over the gold chunk and the share of abstentions on questions without an answer, by the
share of abstentions on withheld prompts, and the AUC: how often a withheld prompt looks more like
abstaining than one with the gold chunk. Writes
benchmarks/results/abstaining-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import processor, write_result

from rag_ft.config_loader import load_config
from rag_ft.documents.splits import hash_share
from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.fast.decoding import Row, left_pad, output_head
from rag_ft.llm.plain_decoding import plain_model
from rag_ft.prompts.prompt_set import parse_answer
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import batched, read_jsonl
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.dataset import layout_settings, make_examples
from rag_ft.training.generator.dev_f1 import ROWS, continue_rows
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.preference_prompts import PreferencePrompt, preference_prompts
from rag_ft.training.generator.retrieved import retrieve
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.generator.trainer import train

LONGEST_ANSWER = 32  # tokens
SHARES = (0.4, 0.5, 0.6, 0.7)  # of abstentions on withheld prompts, beside the base model's own


@dataclass(frozen=True)
class Asked:
    """`lean` is the logit of the abstain sentence's first token over that of the best other one:
    above 0 the model abstains. `f1` (0-1) is that of its best reply that does not abstain. `kind`
    is gold, withheld or unanswerable."""

    kind: str
    lean: float
    f1: float


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    config = load_config(args.config, args.overrides)
    session, settings = Session.of(config), config.train_generator
    tokens = load_chat_tokens(config.llm.required_model)
    pairs = [p for p in read_jsonl(session.run_dir.qa, QAPair) if p.split != "test"]
    passes, weight = math.ceil(settings.epochs), settings.advanced.human_weight
    found = retrieve(session, pairs, passes * weight)
    session.close_retrievers()

    # One half of the documents is trained on, people's questions about the other half are asked.
    held_out = {p.document_id for p in pairs if hash_share(f"half {p.document_id}") < 0.5}
    learned = [p for p in pairs if p.document_id not in held_out]
    people = [p for p in pairs if p.document_id in held_out and p.origin != "generated"]
    people = people[:: max(1, len(people) // args.questions)]
    prompt, context = session.answer_prompt, config.llm.max_model_tokens
    layout = layout_settings(settings, config.retrieval.num_shown, config.run.seed, context)
    examples, _ = make_examples(prompt, found, learned, tokens.encode, layout, passes, weight)
    prompts = kinds_of(people, preference_prompts(prompt, found, people, tokens.encode, layout))

    model = load_base(config.llm, settings)
    base = ask(model, tokens, prompts, prompt.prompts.abstain)
    with tempfile.TemporaryDirectory() as folder:
        work, alone = Path(folder), Processes(0, 1)
        trained = train(config, tokens.tokenizer, examples, [], work, alone, model)
        tuned = ask(trained.trainer.model, tokens, prompts, prompt.prompts.abstain)

    own = float(np.mean([one.lean > 0 for one in base if one.kind == "withheld"]))
    rows: list[dict[str, Any]] = []
    for name, asked in (("base", base), ("tuned", tuned)):
        points = [at_bias(asked, 0.0), *(at_share(asked, share) for share in (own, *SHARES))]
        rows += [{"model": name} | point for point in points]
    print("model  bias  withheld  F1 over gold  unanswerable  (abstentions in percent)")
    for row in rows:
        shown = [row[name] for name in ("bias", "withheld", "f1", "unanswerable")]
        print(f"{row['model']:6}", *(f"{value:6.1f}" for value in shown))
    print(f"AUC base {auc(base):.3f}, tuned {auc(tuned):.3f}, {len(examples)} examples")
    result = {"dtype": config.llm.dtype, "overrides": args.overrides, "prompts": len(prompts)}
    aucs = {"auc_base": auc(base), "auc_tuned": auc(tuned)}
    write_result("abstaining", processor(), result | aucs | {"rows": rows})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers against abstaining")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--questions", type=int, default=1000, help="about so many at most")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_args()


def kinds_of(
    pairs: Sequence[QAPair], prompts: Iterable[PreferencePrompt]
) -> list[tuple[str, PreferencePrompt]]:
    """The prompts of the three kinds, see `Asked`. Where every other chunk mentions the answer, the
    gold chunk cannot be withheld."""
    answerable = {pair.id for pair in pairs if pair.answerable}
    found = []
    for prompt in prompts:
        if prompt.shown == "retrieved" and prompt.pair_id not in answerable:
            found.append(("unanswerable", prompt))
        elif prompt.shown == "gold" or (prompt.shown == "withheld" and not prompt.answers):
            found.append((prompt.shown, prompt))
    return found


@torch.inference_mode()
def ask(
    model: Any, tokens: Any, prompts: Sequence[tuple[str, PreferencePrompt]], abstain: str
) -> list[Asked]:
    """Every prompt, asked once for its first token and once for the best answer."""
    plain, tokenizer = plain_model(model), tokens.tokenizer
    head, start = output_head(plain), tokenizer(abstain, add_special_tokens=False).input_ids[0]
    plain.eval()
    asked = []
    for batch in batched(sorted(prompts, key=lambda prompt: len(prompt[1].prompt)), ROWS):
        ids, mask = left_pad([p.prompt for _, p in batch], tokenizer.eos_token_id, plain)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        hidden = plain.base_model(input_ids=ids, attention_mask=mask, position_ids=positions)
        logits = head(hidden.last_hidden_state[:, -1])
        abstains = logits[:, start].clone()
        logits[:, start] = -math.inf
        best, first = logits.max(-1)
        leans = (abstains - best).tolist()
        rows = [
            Row([*p.prompt, token], LONGEST_ANSWER)
            for (_, p), token in zip(batch, first.tolist(), strict=True)
        ]
        continue_rows(model, tokenizer, rows)
        for (kind, p), lean, row in zip(batch, leans, rows, strict=True):
            text = tokenizer.decode([row.prompt[-1], *row.tokens], skip_special_tokens=True)
            answer, _ = parse_answer(text, p.num_chunks)
            asked.append(Asked(kind, lean, score_answer(answer, p.answers, False)["f1"]))
    return asked


def at_bias(asked: Sequence[Asked], bias: float) -> dict[str, float]:
    """What the model does with `bias` added to the abstain sentence's first token, in percent."""

    def mean(kind: str, score: Callable[[Asked], float]) -> float:
        return 100 * float(np.mean([score(one) for one in asked if one.kind == kind]))

    def abstains(one: Asked) -> float:
        return float(one.lean + bias > 0)

    return {
        "bias": bias,
        "withheld": mean("withheld", abstains),
        "f1": mean("gold", lambda one: (1 - abstains(one)) * one.f1),
        "unanswerable": mean("unanswerable", abstains),
    }


def at_share(asked: Sequence[Asked], share: float) -> dict[str, float]:
    """The same with the bias at which the model abstains on `share` of the withheld prompts."""
    leans = [a.lean for a in asked if a.kind == "withheld"]
    return at_bias(asked, -float(np.quantile(leans, 1 - share)))


def auc(asked: Sequence[Asked]) -> float:
    """How often a withheld prompt leans more to abstaining than one with the gold chunk (0-1)."""
    withheld = np.array([a.lean for a in asked if a.kind == "withheld"])[:, None]
    gold = np.array([a.lean for a in asked if a.kind == "gold"])[None]
    return float(np.mean((withheld > gold) + 0.5 * (withheld == gold)))


if __name__ == "__main__":
    main()
