"""Makes a bundle of a run, and checks one against the answers of its run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rag_ft.bundle.cards import write_cards
from rag_ft.bundle.contents import Contents
from rag_ft.bundle.drift import CHECK, Drift, answer_rows, measure_drift, questions_to_check
from rag_ft.bundle.gguf import LlamaCpp, convert, llama_server, ollama_prompt
from rag_ft.bundle.manifest import open_bundle, operator_settings, write_manifest
from rag_ft.bundle.quantise import Quantised, quantise, replace_weights
from rag_ft.config_loader import flat
from rag_ft.rag import RagPipeline
from rag_ft.session import Session
from rag_ft.storage import read_rows, write_jsonl
from rag_ft.version import __version__

NUM_QUESTIONS = 100
NUM_TEXTS = 2000  # chunks on which the tokens of a converted model are compared


@dataclass(frozen=True)
class Gguf:
    """A GGUF file that is wanted: its type, and what makes it."""

    type: str
    tools: LlamaCpp


def make_bundle(
    contents: Contents,
    folder: Path,
    name: str,
    versions: Mapping[str, str],
    num_questions: int = NUM_QUESTIONS,
    wanted: Gguf | Quantised | None = None,
) -> dict[str, Drift]:
    """Writes a bundle into the empty `folder`, and asks it what the run was asked.

    Args:
        contents: What of the run goes into it.
        folder: Where it is written.
        name: Its model id.
        versions: {package: version} of what it was made with.
        num_questions: At most this many questions are stored with the run's answers.
        wanted: A GGUF file that is made too, or weights that take the place of the generator's.

    Returns:
        {"bundle", and the type that is wanted: what changed between the run's answers and its}.

    Raises:
        DataError: the run has no question, or no finished index.
        ConfigError: a model does not fit, or is not on this machine.
    """
    contents.write(folder)
    examples = contents.training_examples(folder) if isinstance(wanted, Quantised) else []
    pairs = questions_to_check(contents.session.run_dir.qa, num_questions)
    with RagPipeline.from_session(contents.session, contents.tuned) as rag:
        write_jsonl(folder / CHECK, answer_rows(rag, pairs))
    content: dict[str, Any] = {
        "name": name,
        "rag_ft": __version__,
        "versions": dict(versions),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "tuned": sorted(contents.tuned),
        "base": contents.with_base or not contents.tuned,
        "models": contents.models(),
        "settings": contents.settings(),
        "gguf": None,
        "quantised": None,
    }
    # The bundle is opened as anybody opens it on this machine; then its card says what came out.
    contents.session.close_retrievers()
    write_manifest(folder, content)
    operator = operator_settings(flat(contents.session.config))
    drifts = {"bundle": check_bundle(folder, operator)}
    content["check"] = drifts["bundle"].numbers()
    if isinstance(wanted, Gguf):
        drifts[wanted.type] = add_gguf(folder, contents.answering(folder), content, wanted)
    elif wanted:
        model = contents.answering(folder)
        drifts[wanted.type] = add_quantised(folder, model, content, wanted, examples, operator)
    write_cards(folder, content)
    write_manifest(folder, content)
    return drifts


def add_gguf(folder: Path, model: Path, content: dict[str, Any], gguf: Gguf) -> Drift:
    """Adds the generator of a bundle as a GGUF file, and asks llama-server the stored questions."""
    name, file = content["name"], f"gguf/{content['name']}-{gguf.type}.gguf"
    chunks = islice(read_rows(folder / "chunks.jsonl"), NUM_TEXTS)
    texts = [row["question"] for row in read_rows(folder / CHECK)]
    convert(gguf.tools, model, gguf.type, folder / file, [*texts, *(c["text"] for c in chunks)])
    content["gguf"] = {"path": file, "type": gguf.type, **ollama_prompt(model)}
    write_manifest(folder, content)
    limit = content["settings"]["llm.max_model_tokens"]
    with llama_server(gguf.tools, folder / file, name, limit) as url:
        words = ("llm.backend=openai", f"llm.base_url={url}", f"llm.model={name}")
        drift = check_bundle(folder, words)
    content["gguf"] |= drift.numbers()
    return drift


def add_quantised(
    folder: Path,
    model: Path,
    content: dict[str, Any],
    wanted: Quantised,
    examples: Sequence[Sequence[int]],
    operator: Sequence[str],
) -> Drift:
    """Gives the generator of a bundle quantised weights, for vLLM. The engine of the run measures
    what rounding changes: no other difference counts, and vLLM need not be there."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        quantise(wanted, model, examples, Path(work))
        replace_weights(model, Path(work) / "rounded")
        write_manifest(folder, content)
        drift = check_bundle(folder, operator)
        replace_weights(model, Path(work) / "quantised")
    content["settings"]["llm.backend"] = "vllm"  # its kernels read such weights
    content["quantised"] = {"type": wanted.type, **drift.numbers()}
    return drift


def check_bundle(folder: Path, overrides: Sequence[str] = ()) -> Drift:
    """Asks a bundle the questions of its check.jsonl; `overrides` are settings, such as another
    server.

    Raises:
        DataError: the folder is no bundle, or a file of it has changed.
    """
    session = Session.of(open_bundle(folder, overrides))
    with RagPipeline.from_session(session, session.tuned_components) as rag:
        rows = list(read_rows(session.run_dir.path / CHECK))
        return measure_drift(rag, rows, session.config.run.seed)
