"""`rag-ft preview`: training examples of the generator with the learned part marked, or documents
as blocks and chunks."""

from __future__ import annotations

import argparse
import itertools

from rag_ft.commands.arguments import checked_config_of, config_of
from rag_ft.config import EncoderConfig, IngestConfig
from rag_ft.documents.prepare import Prepared, limits_of, prepare_all, prepare_settings
from rag_ft.documents.source_files import find_files
from rag_ft.errors import ConfigError
from rag_ft.freshness import require_pairs
from rag_ft.model_hub import resolve
from rag_ft.schema import Reject
from rag_ft.session import Session
from rag_ft.terminal import say


def preview(session: Session, n: int = 10) -> str:
    """`n` training examples, spread over the pairs. Lines of the prompt begin with `|`, lines that
    are learned with `>`. Nothing is trained or written.

    Raises:
        ConfigError: `n` is not positive.
        DataError: the run has no pairs.
    """
    from rag_ft.training.generator.dataset import sample_examples
    from rag_ft.training.generator.tokenization import load_chat_tokens

    if n < 1:
        raise ConfigError(f"--num {n} shows nothing: give 1 or more")
    require_pairs(session.run_dir)
    llm = session.config.llm
    tokens = load_chat_tokens(llm.required_model, llm.advanced.trust_remote_code)
    examples, rejects = sample_examples(session, tokens.encode, n)
    # A block for each example, then a line for each reject: what is left out is worth seeing too.
    blocks = []
    for example in examples[:n]:
        prompt, learned = example.encoded.prompt_ids, example.encoded.answer_ids
        lines = [f"# {example.id} ({example.kind}; {len(prompt)} tokens + {len(learned)} learned)"]
        lines += [f"| {line}" for line in tokens.tokenizer.decode(prompt).splitlines()]
        lines += [f"> {line}" for line in tokens.tokenizer.decode(learned).splitlines()]
        blocks.append("\n".join(lines))
    blocks += [f"# {r.item}: left out, {r.reason} ({r.detail})" for r in rejects]
    return "\n\n".join(blocks)


def preview_documents(
    ingest: IngestConfig, encoder: EncoderConfig, wanted: str, n: int = 10
) -> str:
    """The first `n` documents whose file's path contains `wanted`, each as its blocks and as its
    chunks, read from the sources. Nothing is written.

    Raises:
        ConfigError: `n` is not positive, or no file has such a path.
    """
    if n < 1:
        raise ConfigError(f"--num {n} shows nothing: give 1 or more")
    files = [file for file in find_files(ingest.sources) if wanted in str(file.path)]
    if not files:
        raise ConfigError(f"no file of ingest.sources has '{wanted}' in its path")
    settings = prepare_settings(ingest, resolve(encoder.model, "encoder"))
    found = prepare_all(files, settings, limits_of(ingest))
    return "\n\n".join(_described(one) for one in itertools.islice(found, n))


def _described(found: Prepared | Reject) -> str:
    """A document in lines: its blocks marked by `|`, its chunks by `>`."""
    if isinstance(found, Reject):
        return f"# {found.item}: {found.reason} ({found.detail})"
    document, text = found.document, found.document.text
    lines = [f"# {document.id}: {document.title}"]
    if found.sensitive:
        kinds = ", ".join(f"{number} {kind}" for kind, number in found.sensitive.items())
        lines.append(f"# sensitive: {kinds}")
    for block in document.blocks:
        kind = f"{block.kind} {block.level}" if block.kind == "heading" else block.kind
        page = "" if block.page is None else f", page {block.page}"
        said = text[block.start : block.end].splitlines()
        lines += [f"| ({kind}{page}) {said[0]}", *(f"|   {line}" for line in said[1:])]
    for number, chunk in enumerate(found.chunks):
        pages = "" if chunk.page is None else f", page {chunk.page}"
        if chunk.page != chunk.page_end:
            pages += f"-{chunk.page_end}"
        path = "".join(f", {heading}" for heading in chunk.headings)
        lines.append(f"> chunk {number}: {chunk.num_tokens} tokens{pages}{path}")
        lines += [f">   {line}" for line in text[chunk.start : chunk.end].splitlines()]
    return "\n".join(lines)


def preview_command(args: argparse.Namespace) -> None:
    """`rag-ft preview`."""
    if args.documents is not None:
        config = config_of(args)
        say(preview_documents(config.ingest, config.encoder, args.documents, args.num))
        return
    config = checked_config_of(
        args, "ingest", "index", "generate", "train_retriever", "train_reranker"
    )
    say(preview(Session.of(config), args.num))
