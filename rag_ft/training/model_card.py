"""The README.md of a tuned generator: what it was made from, how, what came out, what it is not."""

from __future__ import annotations

import json
from typing import Any

from rag_ft.config import Config

CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [rag, lora, rag-ft]
---
# Generator tuned to answer from retrieved context

A {method} adapter for `{base}`, made by rag-ft {version} in the run `{run}`. It was trained to answer questions from
the retrieved chunks of one document collection, and to say "{abstain}" when they do not tell.

## Data
{data}
Questions of test documents, and chunks of test documents, were not trained on (checked before training).

## Training
Loss on the answers alone ({supervised} answer tokens of {tokens} tokens). Settings:

```json
{settings}
```

## Results
{results}
Answers before and after, with confidence intervals, are in the run's report (`rag-ft report`).

## Use
Prompts must be those of rag-ft's prompt set `{prompts}`: the adapter learned that layout. Load it with
`peft.PeftModel.from_pretrained(base, this_folder)`, or serve it with vLLM: `--enable-lora --max-lora-rank {rank}
--lora-modules tuned=this_folder`.

## Limits
It was tuned on one collection in the language of that collection; elsewhere it may be worse than its base model. It
knows no more than its context tells it, can still answer wrongly from it, and inherits the base model's licence,
biases and limits.
"""


def model_card(config: Config, counts: dict[str, Any], version: str) -> str:
    """Markdown; `counts` are the stage's, see `rag_ft.train_generator.run`."""
    knobs = config.train_generator
    settings = {k: v for k, v in knobs.model_dump(mode="json").items() if k not in ("enabled", "report_to")}
    return CARD.format(
        base=config.llm.model, method=knobs.method, version=version, run=config.name, abstain=config.llm.abstain,
        data=_data(counts), supervised=counts["num_supervised_tokens"], tokens=counts["num_tokens"],
        settings=json.dumps({**settings, "seed": config.run.seed, "top_k": config.retrieval.top_k}, indent=1),
        results=_results(counts), prompts=config.llm.prompts, rank=knobs.rank,
    )  # fmt: skip


def _data(counts: dict[str, Any]) -> str:
    return (
        f"* {counts['num_train_pairs']} question-answer pairs of train documents made {counts['num_examples']} "
        f"examples: {counts['num_answer']} with an answer, {counts['num_abstain']} to abstain from, "
        f"{counts['num_replay']} of the base model's own replies.\n"
        f"* {counts['num_dev_examples']} examples of other documents decided when to stop.\n"
    )


def _results(counts: dict[str, Any]) -> str:
    rows = [
        ("steps made", counts["num_steps"]),
        ("dev loss, first and best (nats a token)", f"{counts.get('dev_loss_first')} -> {counts.get('dev_loss_best')}"),
        ("plain text of dev documents, base and tuned (nats a token)",
         f"{counts.get('plain_text_loss_base')} -> {counts.get('plain_text_loss_tuned')}"),
    ]  # fmt: skip
    return "\n".join(["| measure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"
