"""How much there is to do: chunks and pairs of a run, and what each stage computes on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rag_ft.config import (
    Config,
    GenerateConfig,
    IngestConfig,
    RetrievalConfig,
    TrainGeneratorConfig,
    TrainRerankerConfig,
    TrainRetrieverConfig,
)
from rag_ft.documents.source_files import find_files
from rag_ft.evaluation.systems import SYSTEMS
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl, read_rows
from rag_ft.training.dev_split import DEV_SHARE, ENOUGH_QUESTIONS
from rag_ft.training.model_shape import ModelShape

CHARACTERS_PER_TOKEN = 4.0
# A language model has another vocabulary than the encoder, in whose tokens chunks are measured.
LLM_TOKENS_PER_ENCODER_TOKEN = 1.3
PROMPT_OVERHEAD_TOKENS = 60
ANSWER_TOKENS = 16
QUESTION_TOKENS = 16
RERANKED_CHUNKS = 20
ACCEPTED_SHARE = 0.5  # of the pairs that are asked for


@dataclass(frozen=True)
class Corpus:
    """Counted where the run has the files (`counted`: the chunks are), else estimated from the size
    of the sources.

    `num_asked_chunks`: those that pairs are written about; `num_train_pairs`: those with an answer,
    which both components learn from.
    """

    num_chunks: int
    num_train_chunks: int
    num_asked_chunks: int
    num_test_questions: int
    num_train_pairs: int
    counted: bool


@dataclass(frozen=True)
class Work:
    """Of one stage: tokens that models read or write, optimiser steps (0: no training), and
    floating point operations."""

    tokens: float
    steps: int
    flops: float


def count_corpus(ingest: IngestConfig, generate: GenerateConfig, run_dir: RunDir) -> Corpus:
    """The chunks and pairs of the run, or what the size of the sources lets expect.

    Raises:
        DataError: nothing is ingested yet and a source does not exist.
    """
    counted = run_dir.chunks.exists()
    if counted:
        chunks = Counter(row["split"] for row in read_rows(run_dir.chunks))
    else:
        chunks = estimated_chunks(ingest)
    # Pairs are written about chunks of the chosen splits, up to the limit.
    asked = Counter({split: chunks[split] for split in generate.advanced.splits})
    num_asked = min(asked.total(), generate.advanced.max_chunks or asked.total())

    if run_dir.qa.exists():
        pairs = Counter((pair.split, pair.answerable) for pair in read_jsonl(run_dir.qa, QAPair))
        train, test = pairs["train", True], pairs["test", True] + pairs["test", False]
    else:
        accepted = ACCEPTED_SHARE * num_asked * generate.pairs_per_chunk / max(1, asked.total())
        # Imported questions have no known chunk yet: each chunk gets the same share of them.
        files = [path for path in generate.questions if path.is_file()]
        num_lines = sum(path.read_bytes().count(b"\n") for path in files)
        imported = num_lines / max(1, chunks.total())
        train = round(accepted * asked["train"] + imported * chunks["train"])
        test = round(accepted * asked["test"] + imported * chunks["test"])
    return Corpus(chunks.total(), chunks["train"], num_asked, test, train, counted)


def estimated_chunks(ingest: IngestConfig) -> Counter[str]:
    """Chunks by split from the size of the sources: a source with a split counts for that split,
    others by the shares of the splits."""
    shares = {"test": ingest.test_share, "dev": ingest.dev_share}
    shares["train"] = 1 - sum(shares.values())
    found = dict.fromkeys(shares, 0.0)
    step = max(1, ingest.chunk_tokens - ingest.advanced.chunk_overlap_tokens)
    for file in find_files(ingest.sources):
        size = file.path.stat().st_size if file.path.is_file() else 0
        for split, share in ({file.split: 1.0} if file.split else shares).items():
            found[split] += share * size / CHARACTERS_PER_TOKEN / step
    return Counter({split: round(number) for split, number in found.items()})


def llm_tokens(chunk_tokens: int) -> int:
    """Tokens of the language model in a chunk of `chunk_tokens` of the encoder."""
    return round(LLM_TOKENS_PER_ENCODER_TOKEN * chunk_tokens)


def example_tokens(
    settings: TrainGeneratorConfig, retrieval: RetrievalConfig, chunk_tokens: int
) -> int:
    """Tokens of a training example: its chunks, the prompt around them, the answer; at most
    max_tokens."""
    num_chunks = 1 if settings.advanced.layout == "radit" else retrieval.top_k
    longest = llm_tokens(chunk_tokens) * num_chunks + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS
    return min(longest, settings.advanced.max_tokens)


def stage_work(
    config: Config, shape: ModelShape, encoder: ModelShape, corpus: Corpus
) -> dict[str, Work]:
    """{stage: work} of the stages that a language model or an encoder makes costly, in pipeline
    order; stages that are switched off are left out."""
    prompt = llm_tokens(config.ingest.chunk_tokens) + 2 * PROMPT_OVERHEAD_TOKENS
    asked = corpus.num_asked_chunks * config.generate.pairs_per_chunk
    # A pair is written once and answered again in the round trip. An accepted one is then asked
    # with other names, of two or three chunks.
    prompts = 2 + 2.5 * ACCEPTED_SHARE * config.generate.advanced.swaps_per_pair
    written = asked * (prompts * prompt + config.generate.advanced.max_tokens / 2)
    work = {"generate": Work(written, 0, written * 2.0 * shape.parameters)}
    if config.train_retriever.enabled:
        work["train_retriever"] = retriever_work(
            config.train_retriever, config.ingest.chunk_tokens, shape, encoder, corpus
        )
    if config.train_reranker.enabled and config.reranker.model:
        # Its model is not opened for a plan: one like the encoder is assumed.
        work["train_reranker"] = reranker_work(
            config.train_reranker, config.ingest.chunk_tokens, shape, encoder, corpus
        )
    settings = config.train_generator
    tokens = example_tokens(settings, config.retrieval, config.ingest.chunk_tokens)
    if settings.enabled:
        work["train_generator"] = generator_work(settings, tokens, shape, corpus.num_train_pairs)
    if config.evaluate.answers:
        evaluated = corpus.num_test_questions * len(SYSTEMS) * tokens
        work["evaluate"] = Work(evaluated, 0, evaluated * 2.0 * shape.parameters)
    return work


def generator_work(
    settings: TrainGeneratorConfig, tokens: int, shape: ModelShape, num_pairs: int
) -> Work:
    """What training costs on examples of `tokens` tokens made of `num_pairs` pairs, with one more
    training for each fold."""
    advanced, full = settings.advanced, settings.method == "full"
    examples = num_pairs / (advanced.gold_share or 1) / (1 - advanced.replay_share)
    steps = advanced.max_steps or max(1, round(settings.epochs * examples / settings.batch_size))
    steps *= 1 + advanced.cross_validation_folds
    learned = steps * settings.batch_size * tokens
    adapter = 0 if full else shape.adapter_parameters(advanced.rank)
    flops_per_token = shape.training_flops(full, ANSWER_TOKENS / tokens, tokens, adapter)
    return Work(learned, steps, learned * flops_per_token)


def retriever_work(
    settings: TrainRetrieverConfig,
    chunk_tokens: int,
    shape: ModelShape,
    encoder: ModelShape,
    corpus: Corpus,
) -> Work:
    """What the phases cost: their rows are learned, all chunks are encoded once more, and where the
    language model scores chunks it reads them."""
    advanced, batch, pairs = settings.advanced, settings.batch_size, corpus.num_train_pairs
    # Where the question side alone is trained, the vectors of chunks are looked up.
    chunk = chunk_tokens if advanced.sides == "both" else 0
    scored = min(advanced.lsr_top_k, corpus.num_train_chunks)  # chunks of a question
    cloze_steps = corpus.num_train_chunks // batch if advanced.self_supervised else 0
    # The two encoders that are tuned on half of the pairs each take as long as one on all.
    few = pairs * DEV_SHARE < ENOUGH_QUESTIONS
    halves = {"auto": int(few), "always": 1, "never": 0}[advanced.crossfit]
    contrastive_steps = (advanced.rounds + halves) * int(settings.epochs * pairs / batch)
    lsr_steps = advanced.rounds * advanced.lsr_steps if pairs else 0
    phases = [  # (steps, chunks of a row)
        (cloze_steps, 1),
        (contrastive_steps, 1 + advanced.num_negatives),
        (lsr_steps, scored),
    ]
    learned = batch * sum(steps * (QUESTION_TOKENS + n * chunk) for steps, n in phases)
    encoded = (1 + 2 * halves) * corpus.num_chunks * chunk
    read = 0
    if advanced.lsr_steps:
        # Scores are kept: a later round only reads the chunks that it finds for the first time.
        prompt = llm_tokens(chunk_tokens) + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS
        read = pairs * scored * prompt
    weights = encoder.parameters - encoder.vocabulary * encoder.hidden  # without the embeddings
    factor = 6.0 if advanced.method == "full" else 4.0  # adapters need no gradient of the weights
    flops = weights * (factor * learned + 2.0 * encoded) + 2.0 * shape.parameters * read
    return Work(learned + encoded + read, sum(steps for steps, _ in phases), flops)


def reranker_work(
    settings: TrainRerankerConfig,
    chunk_tokens: int,
    shape: ModelShape,
    encoder: ModelShape,
    corpus: Corpus,
) -> Work:
    """What tuning costs: questions are learned with each of their chunks, dev questions are read
    with the chunks that are found, and where the language model labels chunks it reads them."""
    advanced, pairs = settings.advanced, corpus.num_train_pairs
    steps = int(advanced.epochs * pairs / advanced.batch_size)
    pair_tokens, num_chunks = QUESTION_TOKENS + chunk_tokens, 1 + advanced.num_negatives
    learned = steps * advanced.batch_size * num_chunks * pair_tokens
    # Twice: after the base retriever and after the tuned one.
    scored = 2 * DEV_SHARE * pairs * RERANKED_CHUNKS * pair_tokens
    read = 0
    if advanced.labels != "evidence":
        prompt = llm_tokens(chunk_tokens) + PROMPT_OVERHEAD_TOKENS + ANSWER_TOKENS
        read = pairs * num_chunks * prompt
    weights = encoder.parameters - encoder.vocabulary * encoder.hidden
    factor = 6.0 if advanced.method == "full" else 4.0
    flops = weights * (factor * learned + 2.0 * scored) + 2.0 * shape.parameters * read
    return Work(learned + scored + read, steps, flops)
