"""A run -> the files of a bundle: a run folder with what answers questions, and with its models."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rag_ft.bundle.licences import licence_of
from rag_ft.bundle.manifest import served_settings
from rag_ft.config import AUTO
from rag_ft.config_loader import flat
from rag_ft.errors import ConfigError
from rag_ft.model_files import ModelKind, read_json
from rag_ft.model_hub import FILES, fingerprint, resolve
from rag_ft.prompts.prompt_set import BUILT_IN
from rag_ft.retrieval.index_files import copy_index
from rag_ft.retrieval.reranker import TUNED as TUNED_RERANKER
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.storage import write_json
from rag_ft.training.generator.merging import merge_generator

NUM_EXAMPLES = 256  # on which quantised weights are calibrated
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "README.md")


@dataclass(frozen=True)
class BaseModel:
    """A model that a bundle is made of: the setting that names it, and its folder here."""

    setting: ModelKind
    name: str
    folder: Path
    is_held: bool

    @property
    def place(self) -> str:
        """Its folder in the bundle, where it is held."""
        return f"models/{self.setting}/{self.name}"


@dataclass(frozen=True)
class Contents:
    """What a bundle of a run holds.

    `tuned` names the tuned components in it. `merge`: adapter and base model become one.
    `with_base`: the base components are in it too.
    """

    session: Session
    tuned: frozenset[str]
    merge: bool = False
    with_base: bool = False

    @cached_property
    def has_whole_generator(self) -> bool:
        """Whether its tuned generator is a whole model, which needs no base."""
        folder = self.session.tuned_generator if "generator" in self.tuned else None
        return folder is not None and (self.merge or not (folder / "adapter_config.json").exists())

    @cached_property
    def base_models(self) -> list[BaseModel]:
        """The base models of encoder, language model and, where one is served, reranker.

        Raises:
            ConfigError: the language model stands behind a server's name.
        """
        config = self.session.config
        if config.llm.backend == "openai":
            raise ConfigError(
                "a bundle needs the files of the language model, and llm.backend=openai names a "
                "server: set llm.backend and llm.model to what the server runs"
            )
        tuned_encoder = "retriever" in self.tuned
        rows: list[tuple[ModelKind, str, bool]] = [
            ("encoder", config.encoder.model, self.with_base or not tuned_encoder),
            ("llm", config.llm.required_model, self.with_base or not self.has_whole_generator),
        ]
        served = [self.session.retriever(self.tuned)]
        served += [self.session.retriever()] if self.with_base else []
        names = {retriever.reranker.name for retriever in served if retriever.reranker}
        rows += [("reranker", name, True) for name in names - {TUNED_RERANKER}]
        return [
            BaseModel(kind, Path(model).expanduser().resolve().name, resolve(model, kind), is_held)
            for kind, model, is_held in rows
        ]

    def settings(self) -> dict[str, Any]:
        """The settings that serve the bundle; paths are relative to it."""
        values = served_settings(flat(self.session.config)) | {"llm.prompts": "prompts"}
        # A whole generator is the language model; so is a tuned encoder the encoder.
        own = {"encoder": "retriever", "llm": "generator"}
        places = {m.setting: m.place if m.is_held else own[m.setting] for m in self.base_models}
        if "reranker" in self.tuned:
            places.setdefault("reranker", AUTO)
        return values | {
            f"{kind}.model": places.get(kind) for kind in ("encoder", "llm", "reranker")
        }

    def models(self) -> dict[str, dict[str, str]]:
        """{setting: name, licence and fingerprint} of the base models."""
        return {
            model.setting: {
                "name": model.name,
                "licence": licence_of(model.folder),
                "fingerprint": fingerprint(model.folder),
            }
            for model in self.base_models
        }

    def answering(self, folder: Path) -> Path:
        """The whole model that answers in the bundle `folder`: tuned, else the base model."""
        whole = RunDir(folder).generator if self.has_whole_generator else None
        return whole or folder / self.settings()["llm.model"]

    def training_examples(self, folder: Path) -> list[list[int]]:
        """Tokens of the run's training examples, as the model of the bundle `folder` reads them; at
        most NUM_EXAMPLES.

        Raises:
            ConfigError: there is none.
        """
        from rag_ft.training.generator.dataset import sample_examples
        from rag_ft.training.generator.tokenization import load_chat_tokens

        trust_code = self.session.config.llm.advanced.trust_remote_code
        tokens = load_chat_tokens(str(self.answering(folder)), trust_code)
        examples, _ = sample_examples(self.session, tokens.encode, NUM_EXAMPLES)
        if not examples:
            raise ConfigError("the run has no training example on which weights can be calibrated")
        return [list(example.encoded.input_ids) for example in examples[:NUM_EXAMPLES]]

    def write(self, folder: Path) -> None:
        """Writes the files into the empty `folder`, without cards and bundle.json."""
        source, target = self.session.run_dir, RunDir(folder)
        for name in ("documents", "chunks", "fusion", "metrics"):
            if (path := getattr(source, name)).exists():
                shutil.copyfile(path, getattr(target, name))
        prompts = self.session.config.llm.prompts
        built_in = BUILT_IN / prompts
        copy_files(built_in if built_in.is_dir() else Path(prompts), folder / "prompts", ("*.txt",))

        # The retriever: encoder, index, feature ranker and reranker.
        if self.with_base or "retriever" not in self.tuned:
            copy_index(source.index, target.index)
        if "retriever" in self.tuned:
            copy_model(source.retriever, target.retriever)
            copy_index(source.retriever_index, target.retriever_index)
        for name in ("base", "tuned"):
            if (ranker := source.ranker(name)).exists():
                target.ranker(name).parent.mkdir(exist_ok=True)
                shutil.copyfile(ranker, target.ranker(name))

        if "reranker" in self.tuned:
            copy_model(source.reranker, target.reranker)
            shutil.copyfile(source.reranking, target.reranking)

        # The generator, and the base models.
        tuned = self.session.tuned_generator if "generator" in self.tuned else None
        if tuned and self.has_whole_generator:
            merge_generator(self.session.config.llm, tuned, target.generator)
        elif tuned:
            copy_model(tuned, target.generator)
            # The path says something of this machine alone.
            [base] = [model.name for model in self.base_models if model.setting == "llm"]
            adapter = target.generator / "adapter_config.json"
            named = read_json(adapter) | {"base_model_name_or_path": base}
            write_json(adapter, named, indent=2)
        for model in self.base_models:
            if model.is_held:
                copy_model(model.folder, folder / model.place)


def copy_model(source: Path, target: Path) -> None:
    """Copies the files of a model that decide its results, with its licence and card."""
    copy_files(source, target, (*FILES, *LICENCE_FILES))


def copy_files(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copies the files of a folder that match a pattern, but no adapter/ beside merged weights.
    Links become files: a hub's cache consists of links."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        wanted = inside.parts[0] != "adapter" and any(path.match(p) for p in patterns)
        if wanted and path.is_file():
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / inside)
