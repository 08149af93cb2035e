"""The README.md of a tuned generator: its data, training, results, use and limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rag_ft.config import Config

CARD = """---
base_model: {base}
library_name: {library}
pipeline_tag: text-generation
tags: [rag, rag-ft]
---
# Generator tuned to answer from retrieved chunks

{what}, made by rag-ft {version} in the run `{run}`. It was trained to answer questions from
the retrieved chunks of one document collection, and to reply "{abstain}" when they do not contain
the answer.

## Data
{data}
Nothing of a test document was trained on: no question and no chunk (checked before training).

## Training
Loss on the answers alone ({supervised} answer tokens of {tokens} tokens). Settings:

```json
{settings}
```

## Results
{results}
Answers before and after, with confidence intervals, are in the run's report (`rag-ft report`).

## Use
Prompts must be those of rag-ft's prompt set `{prompts}`, which it was trained with. If the chat
template has a thinking mode, switch it off, as in training: render with `enable_thinking=False` (in
requests to vLLM `"chat_template_kwargs": {{"enable_thinking": false}}`). {use}

## Limits
It was tuned on one collection in the language of that collection; elsewhere it may be worse than
its base model. It knows no more than the chunks it is shown, can still answer wrongly from them,
and inherits the base model's licence, biases and limits.
"""

ADAPTER_USE = """Load it with
`peft.PeftModel.from_pretrained(base, this_folder)`, or serve it with vLLM: `--enable-lora
--max-lora-rank {rank} --lora-modules tuned=this_folder`."""
WHOLE_USE = """It is a whole model:
`transformers.AutoModelForCausalLM.from_pretrained(this_folder)`, or `vllm serve this_folder`."""

# (measure, count before the training, count after it); a row is shown where the counts have it.
RESULTS = [
    ("dev loss, first and best (nats per token)", "dev_loss_first", "dev_loss_best"),
    ("dev F1, first and best", "dev_f1_first", "dev_f1_best"),
    (
        "preference tuning: dev F1 where answered, start and kept",
        "dev_answered_f1_start",
        "dev_answered_f1_best",
    ),
    (
        "preference tuning: dev abstention F1, start and kept",
        "dev_abstention_f1_start",
        "dev_abstention_f1_best",
    ),
    (
        "plain text of dev documents, base and tuned (nats per token)",
        "plain_text_loss_base",
        "plain_text_loss_tuned",
    ),
    (
        "F1 of trained questions without context, base and tuned",
        "closed_book_f1_base",
        "closed_book_f1_tuned",
    ),
    (
        "F1 on train documents that were held out, base and tuned",
        "folds_f1_base",
        "folds_f1_tuned",
    ),
]


def model_card(config: Config, counts: Mapping[str, Any], version: str) -> str:
    """Markdown for the Hub; `counts` are those of the stage, see `stages.train_generator.run`."""
    settings, base = config.train_generator, config.llm.model
    whole = settings.method == "full"
    if whole:
        what = f"`{base}` with all weights tuned"
    else:
        what = f"A {settings.method} adapter for `{base}`"
    # The settings that shaped the model; trackers did not.
    shown = settings.model_dump(mode="json", exclude={"enabled": True, "advanced": {"report_to"}})
    shown |= {"seed": config.run.seed, "top_k": config.retrieval.top_k}
    data = (
        f"* {counts['num_train_pairs']} question-answer pairs of train documents made "
        f"{counts['num_examples']} examples over all passes: {counts['num_answer']} with an "
        f"answer ({counts['num_counterfactual']} of them counterfactual), "
        f"{counts['num_abstain']} to abstain from, {counts['num_replay']} of the base model's own "
        "replies.\n"
        f"* {counts['num_dev_examples']} examples of other documents decided when to stop.\n"
    )
    table = ["| measure | value |", "|---|---|", f"| steps made | {counts['num_steps']} |"]
    for measure, first, last in RESULTS:
        if last in counts:
            table.append(f"| {measure} | {counts[first]} -> {counts[last]} |")
    return CARD.format(
        base=base,
        what=what,
        library="transformers" if whole else "peft",
        version=version,
        run=config.name,
        abstain=config.llm.advanced.abstain,
        data=data,
        supervised=counts["num_supervised_tokens"],
        tokens=counts["num_tokens"],
        settings=json.dumps(shown, indent=1),
        results="\n".join(table) + "\n",
        prompts=config.llm.prompts,
        use=WHOLE_USE if whole else ADAPTER_USE.format(rank=settings.advanced.rank),
    )
