"""What a server serves: runs as collections, each under three model ids, over language models that
are opened once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rag_ft.bundle.manifest import bundled, has_base, require_base
from rag_ft.config import Config, LLMConfig
from rag_ft.document_store import DocumentStore
from rag_ft.errors import ConfigError
from rag_ft.evaluation.components import in_order, named_set
from rag_ft.evaluation.external_models import with_external_models
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import LanguageModel
from rag_ft.model_hub import with_tuned
from rag_ft.rag import RagPipeline
from rag_ft.retrieval.retriever import Retriever
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.versions import first_version


@dataclass(frozen=True)
class Collection:
    """One run, or one bundle. `tuned` names the tuned components that it serves, `why` says where
    that comes from. `has_base`: the base components are there too; a bundle can be without.
    `reopen` opens the version of the run that is promoted by then."""

    name: str
    session: Session
    documents: DocumentStore
    tuned: frozenset[str]
    why: str
    has_base: bool = True
    reopen: Callable[[], Collection] | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model id. `pipeline` finds chunks and makes prompts; `closed_book`: it shows none.

    `llm` with the adapter `adapter` (None: without one) answers; `base_llm` writes what is not an
    answer, such as titles and rewritten questions.
    """

    id: str
    collection: Collection
    pipeline: RagPipeline
    retriever: Retriever
    llm: LanguageModel
    adapter: str | None
    base_llm: LanguageModel
    closed_book: bool = False


class _Wanted(NamedTuple):
    """A language model to open, with its adapters {name: folder}."""

    llm: LLMConfig
    seed: int
    adapters: dict[str, Path]


@contextmanager
def open_models(collections: Sequence[Collection]) -> Iterator[list[ServedModel]]:
    """The models of the runs, in order: what the verdict ships, base, closed book; the last two
    where base components are there.

    Language models are started on entering, and stopped on leaving.

    Raises:
        ConfigError: two runs have one name, or a model does not fit.
        DataError: a run has no finished index.
    """
    names = [collection.name for collection in collections]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"two run folders are named {twice.pop()}, and a model id is made of that name: rename "
            "one (run.dir)"
        )

    # Runs over the same base model share one, with all their adapters beside it.
    wanted: dict[str, _Wanted] = {}
    roles: list[tuple[str, str | None, str]] = []  # key of the model, its adapter, key of the base
    for collection in collections:
        config = collection.session.config
        folder = collection.session.tuned_generator if "generator" in collection.tuned else None
        llm, found = with_tuned(config.llm, folder)
        keys = []
        for one in (llm, config.llm):
            keys.append(json.dumps([one.model_dump(mode="json"), one.dtype]))
            wanted.setdefault(keys[-1], _Wanted(one, config.run.seed, {}))
        adapter = None
        for name, path in found.items():
            adapter = name if len(collections) == 1 else f"{name}-{collection.name}"
            wanted[keys[0]].adapters[adapter] = path
        roles.append((keys[0], adapter, keys[1]))

    with ExitStack() as stack:
        opened = {
            key: stack.enter_context(open_language_model(*one)) for key, one in wanted.items()
        }
        served = []
        for collection, (key, adapter, base) in zip(collections, roles, strict=True):
            served += models_of(collection, opened[key], adapter, opened[base])
        yield served


def open_collection(
    config: Config, base_only: bool, reload: Callable[[], Config] | None = None
) -> Collection:
    """The run of a configuration, with the tuned components that it serves.

    Those are the components that the verdict of its report ships; without a report, all that were
    tuned. `reload` gives the configuration of the version that is promoted by then.
    """
    run_dir = with_external_models(config.evaluate, RunDir(config.run_path))
    session = Session(config, run_dir)
    there = session.tuned_components
    tuned, why = there, "not evaluated: all tuned components" if there else "nothing is tuned"
    # The ids of its models stay the same when another version is promoted.
    name, bundle = first_version(config.run_path.resolve()).name, bundled(run_dir)
    if bundle:
        name, why = bundle["name"], "what the bundle holds"
    if base_only:
        require_base(run_dir)
        tuned, why = set(), "--base"
    elif there and not bundle and (ship := shipped(run_dir.metrics)) is not None:
        tuned, why = there & named_set(ship), f"the verdict of its report is {ship}"
    return Collection(
        name=name,
        session=session,
        documents=DocumentStore(run_dir.documents),
        tuned=frozenset(tuned),
        why=why,
        has_base=has_base(run_dir),
        reopen=reload and (lambda: open_collection(reload(), base_only, reload)),
    )


def language_models(models: Iterable[ServedModel]) -> list[LanguageModel]:
    """The language models of some models, each once."""
    found = {id(llm): llm for model in models for llm in (model.llm, model.base_llm)}
    return list(found.values())


def shipped(metrics: Path) -> str | None:
    """The `ship` of the verdict in metrics.json; None where there is no report."""
    try:
        return str(json.loads(metrics.read_text(encoding="utf-8"))["verdict"]["ship"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{metrics} is damaged: run `rag-ft report CONFIG --force`, or serve with --base"
        ) from error


def described(collection: Collection) -> str:
    """ "demo: tuned retriever (the verdict of its report is retriever)"."""
    tuned = in_order(collection.tuned)
    what = f"tuned {' and '.join(tuned)}" if tuned else "base"
    return f"{collection.name}: {what} ({collection.why})"


def models_of(
    collection: Collection, llm: LanguageModel, adapter: str | None, base_llm: LanguageModel
) -> list[ServedModel]:
    """What a run serves, in the order of `open_models`."""
    session, name = collection.session, collection.name
    found = session.retriever(collection.tuned)
    pipeline = pipeline_of(collection, found, llm, adapter)
    served = [ServedModel(name, collection, pipeline, found, llm, adapter, base_llm)]
    if collection.has_base:
        base = session.retriever()
        pipeline = pipeline_of(collection, base, base_llm, None)
        for suffix in ("base", "closed-book"):
            served.append(
                ServedModel(
                    f"{name}-{suffix}",
                    collection,
                    pipeline,
                    base,
                    base_llm,
                    None,
                    base_llm,
                    suffix == "closed-book",
                )
            )
    return served


def pipeline_of(
    collection: Collection, retriever: Retriever, llm: LanguageModel, adapter: str | None
) -> RagPipeline:
    """Answers from the chunks of a run by a language model that is open."""
    session, config = collection.session, collection.session.config
    return RagPipeline(
        retriever,
        session.chunks,
        session.answer_prompt,
        nullcontext(llm),
        config.retrieval.num_shown,
        config.evaluate.advanced.max_tokens,
        adapter,
    )
