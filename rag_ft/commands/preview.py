"""`rag-ft preview`: training examples of the generator as text, the learned part marked."""

from __future__ import annotations

import argparse

from rag_ft.commands.arguments import checked_config_of
from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.terminal import say


def preview(session: Session, n: int = 10) -> str:
    """`n` training examples, spread over the pairs. Lines of the prompt begin with `|`, lines that
    are learned with `>`. Nothing is trained or written.

    Raises:
        ConfigError: `n` is not positive.
    """
    from rag_ft.training.generator.dataset import sample_examples
    from rag_ft.training.generator.tokenization import load_chat_tokens

    if n < 1:
        raise ConfigError(f"--num {n} shows nothing: give 1 or more")
    llm = session.config.llm
    tokens = load_chat_tokens(llm.required_model, llm.advanced.trust_remote_code)
    examples, rejects = sample_examples(session, tokens.encode, n)
    # A block for each example, then a line for each reject: what is left out is worth seeing too.
    blocks = []
    for example in examples[:n]:
        ids, num_prompt = example.encoded.input_ids, example.encoded.num_prompt_tokens
        learned = example.encoded.num_answer_tokens
        lines = [f"# {example.id} ({example.kind}; {num_prompt} tokens + {learned} learned)"]
        lines += [f"| {line}" for line in tokens.tokenizer.decode(ids[:num_prompt]).splitlines()]
        lines += [f"> {line}" for line in tokens.tokenizer.decode(ids[num_prompt:]).splitlines()]
        blocks.append("\n".join(lines))
    blocks += [f"# {r.item}: left out, {r.reason} ({r.detail})" for r in rejects]
    return "\n\n".join(blocks)


def preview_command(args: argparse.Namespace) -> None:
    """`rag-ft preview`."""
    config = checked_config_of(args, "ingest", "index", "generate", "train_retriever")
    say(preview(Session.of(config), args.num))
