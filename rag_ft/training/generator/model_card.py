"""The README.md of a tuned generator: what it was made from, how, what came out, what it is not."""

from __future__ import annotations

import json
from typing import Any

from rag_ft.config import Config

CARD = """---
base_model: {base}
library_name: {library}
pipeline_tag: text-generation
tags: [rag, rag-ft]
---
# Generator tuned to answer from retrieved context

{what}, made by rag-ft {version} in the run `{run}`. It was trained to answer questions from
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
Prompts must be those of rag-ft's prompt set `{prompts}`: that is the layout it learned. Where the
chat template has a thinking mode, it learned to answer without: render with `enable_thinking=False` (in requests to
vLLM `"chat_template_kwargs": {{"enable_thinking": false}}`). {use}

## Limits
It was tuned on one collection in the language of that collection; elsewhere it may be worse than its base model. It
knows no more than its context tells it, can still answer wrongly from it, and inherits the base model's licence,
biases and limits.
"""


ADAPTER_USE = """Load it with
`peft.PeftModel.from_pretrained(base, this_folder)`, or serve it with vLLM: `--enable-lora --max-lora-rank {rank}
--lora-modules tuned=this_folder`."""
WHOLE_USE = """It is a whole model:
`transformers.AutoModelForCausalLM.from_pretrained(this_folder)`, or `vllm serve this_folder`."""


def model_card(config: Config, counts: dict[str, Any], version: str) -> str:
    """Markdown; `counts` are the stage's, see `rag_ft.stages.train_generator.run`."""
    knobs = config.train_generator
    base, whole = f"`{config.llm.model}`", knobs.method == "full"
    what = f"{base} with all weights tuned" if whole else f"A {knobs.method} adapter for {base}"
    settings = {
        k: v for k, v in knobs.model_dump(mode="json").items() if k not in ("enabled", "report_to")
    }
    return CARD.format(
        base=config.llm.model, what=what, library="transformers" if whole else "peft", version=version, run=config.name,
        abstain=config.llm.advanced.abstain, data=_data(counts), supervised=counts["num_supervised_tokens"],
        tokens=counts["num_tokens"],
        settings=json.dumps({**settings, "seed": config.run.seed, "top_k": config.retrieval.top_k}, indent=1),
        results=_results(counts), prompts=config.llm.prompts,
        use=WHOLE_USE if whole else ADAPTER_USE.format(rank=knobs.advanced.rank),
    )  # fmt: skip


def _data(counts: dict[str, Any]) -> str:
    return (
        f"* {counts['num_train_pairs']} question-answer pairs of train documents made {counts['num_examples']} "
        f"examples over all passes: {counts['num_answer']} with an answer, {counts['num_abstain']} to abstain from, "
        f"{counts['num_replay']} of the base model's own replies.\n"
        f"* {counts['num_dev_examples']} examples of other documents decided when to stop.\n"
    )


def _results(counts: dict[str, Any]) -> str:
    pairs = [
        ("dev loss, first and best (nats a token)", "dev_loss_first", "dev_loss_best"),
        ("dev F1, first and best", "dev_f1_first", "dev_f1_best"),
        (
            "plain text of dev documents, base and tuned (nats a token)",
            "plain_text_loss_base",
            "plain_text_loss_tuned",
        ),
        (
            "trained questions without context, F1, base and tuned",
            "closed_book_f1_base",
            "closed_book_f1_tuned",
        ),
        (
            "F1 on held-out folds of train documents, base and tuned",
            "folds_f1_base",
            "folds_f1_tuned",
        ),
    ]
    rows = [("steps made", counts["num_steps"])]
    rows += [
        (text, f"{counts[first]} -> {counts[last]}")
        for text, first, last in pairs
        if last in counts
    ]
    return (
        "\n".join(
            ["| measure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
        )
        + "\n"
    )
