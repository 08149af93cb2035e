"""Which settings the result of a stage depends on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_ft.done_files import read_head, read_plan
from rag_ft.errors import DataError
from rag_ft.run_dir import RunDir

if TYPE_CHECKING:
    from rag_ft.config import RerankerConfig

# Settings that change how fast or where a stage runs, never what it writes.
NEUTRAL = {
    "llm.base_url",
    "llm.advanced.batch_tokens",
    "llm.advanced.concurrency",
    "llm.advanced.timeout_seconds",
    "llm.advanced.retries",
    "llm.advanced.tensor_parallel",
    "llm.advanced.data_parallel",
    "llm.advanced.gpu_memory_share",
    "llm.advanced.vllm_python",
    "llm.advanced.vllm_args",
    "encoder.advanced.batch_tokens",
    "train_generator.advanced.device_batch_size",
    "train_generator.advanced.gradient_checkpointing",
    "train_generator.advanced.report_to",
    "ingest.advanced.min_kept_share",
    "generate.advanced.min_kept_share",
}
# The trainings, which can start from tuned weights.
STARTING = ("train_retriever", "train_reranker", "train_generator")
# Settings that name the user's files. The files' content counts, and the last part of the path:
# moving or copying a checkout makes no stage stale.
PATHS = {
    "ingest.sources",
    "ingest.advanced.splits",
    "generate.questions",
    "generate.advanced.examples",
    "llm.model",
    "llm.prompts",
    "encoder.model",
    "reranker.model",
    "evaluate.adapter",
    "evaluate.encoder",
    "evaluate.advanced.index",
    *(f"{section}.advanced.start" for section in STARTING),
}


def settings_of(
    name: str, sections: Set[str], settings: Mapping[str, Any], run_dir: RunDir
) -> dict[str, Any]:
    """Those of all `settings` ({"section.key": value}) that the result of the stage `name` depends
    on: in `sections` (sections or single settings).

    A setting that came with a later version than the one that ran the stage is left out while it
    has its default: a new version makes no finished stage stale.
    """
    chosen = {
        key: value
        for key, value in settings.items()
        if key not in {*NEUTRAL, "run.dir"}
        and any(f"{key}.".startswith(f"{part}.") for part in sections)
    }
    recorded = _recorded(name, run_dir)
    # A section without a recorded setting was not used, as that of the reranker without a model.
    used = {key.partition(".")[0] for key in recorded}
    later = {k for k in chosen.keys() - recorded.keys() if k.partition(".")[0] in used}
    defaults = _defaults() if later else {}
    return {k: v for k, v in chosen.items() if k not in later or v != defaults.get(k)}


def _recorded(name: str, run_dir: RunDir) -> Mapping[str, Any]:
    """The settings with which the stage ran; none where it did not, or its file is damaged."""
    with suppress(DataError):
        before = read_head(run_dir.done(name)) or read_plan(run_dir.started(name))
        return (before or {}).get("config", {})
    return {}


@functools.cache
def _defaults() -> dict[str, Any]:
    from rag_ft.config import Config
    from rag_ft.config_loader import flat

    return flat(Config())


def unused_sections(stage: str, reranker: RerankerConfig) -> set[str]:
    """The sections that a stage reads without an effect."""
    # The other trainings use a reranker as it is: not one that starts from the encoder.
    others = stage in ("train_retriever", "train_generator")
    unused = not reranker.model or (others and not reranker.untuned)
    return {"reranker"} if unused else set()


def portable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the last parts of paths alone: moving a checkout changes nothing."""
    return {k: _without_folder(v) if k in PATHS else v for k, v in settings.items()}


def _without_folder(value: Any) -> Any:
    """A path that exists, as its last part; a list of them alike. A model's name, and None,
    stay."""
    if isinstance(value, list):
        return [_without_folder(item) for item in value]
    if isinstance(value, dict):
        return {**value, "path": _without_folder(value["path"])}
    return Path(value).name if value and Path(value).expanduser().exists() else value
