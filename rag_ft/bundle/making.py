"""Makes a bundle of a run, and checks one against the answers of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rag_ft.bundle.cards import write_cards
from rag_ft.bundle.contents import Contents
from rag_ft.bundle.drift import CHECK, Drift, answer_rows, measure_drift, questions_to_check
from rag_ft.bundle.manifest import open_bundle, write_manifest
from rag_ft.rag import RagPipeline
from rag_ft.session import Session
from rag_ft.storage import read_rows, write_jsonl
from rag_ft.version import __version__

NUM_QUESTIONS = 100


def make_bundle(
    contents: Contents,
    folder: Path,
    name: str,
    versions: Mapping[str, str],
    num_questions: int = NUM_QUESTIONS,
) -> Drift:
    """Writes a bundle into the empty `folder`, and asks it what the run was asked.

    Args:
        contents: What of the run goes into it.
        folder: Where it is written.
        name: Its model id.
        versions: {package: version} of what it was made with.
        num_questions: At most this many questions are stored with the run's answers.

    Returns:
        What changed between the run's answers and those of the bundle.

    Raises:
        DataError: the run has no question, or no finished index.
        ConfigError: a model does not fit, or is not on this machine.
    """
    contents.write(folder)
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
    }
    # The bundle is opened as anybody opens it; then its card says what came out.
    contents.session.close_retrievers()
    write_manifest(folder, content)
    drift = check_bundle(folder)
    content["check"] = {"sentence": str(drift), **drift.numbers()}
    write_cards(folder, content)
    write_manifest(folder, content)
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
