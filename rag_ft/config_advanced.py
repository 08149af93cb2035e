"""The settings of each section's `advanced` part: good defaults, rarely changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from rag_ft.config_section import Section
from rag_ft.schema import Split

Check = Literal[
    "evidence", "form", "stands_alone", "subject", "duplicate", "round_trip", "closed_book"
]


class IngestAdvanced(Section):
    chunk_overlap_tokens: int = Field(
        20,
        ge=0,
        le=32_768,
        description="A chunk repeats the last sentences of the chunk before it, up to this many "
        "tokens.",
    )
    folds: int = Field(
        0,
        ge=0,
        le=1000,
        description="Number of equal parts of the documents, of which part `fold` is the test "
        "split. 0: `test_share` decides.",
    )
    fold: int = Field(
        0, ge=0, le=999, description="Which of the `folds` parts is the test split, from 0."
    )
    splits: Path | None = Field(
        None,
        description="A file that names splits: {id, split, and text or text_sha256} lines, such "
        "as documents.jsonl of an earlier run. A document with such a text, else with such an id, "
        "takes that split. None: by share.",
    )
    near_duplicate_similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Documents with at least this Jaccard similarity (0-1) of their word 5-grams "
        "are kept in the same split.",
    )
    follow_links: bool = Field(
        False,
        description="true: also reads links that lead out of their source folder. false: they are "
        "rejected, since such a file would be sent to the language model.",
    )
    max_document_mb: float = Field(
        20, gt=0, le=100_000, description="Larger files (MB) are rejected."
    )
    max_file_seconds: float = Field(
        120,
        gt=0,
        le=86_400,
        description="A file that takes longer to read (seconds) is rejected; reading goes on.",
    )
    max_file_memory_mb: float = Field(
        4096,
        ge=256,
        le=10_000_000,
        description="A file that needs more memory to read (MB) is rejected; reading goes on.",
    )
    workers: int = Field(
        0, ge=0, le=10_000, description="Processes that read files. 0: one for each processor."
    )
    ocr: Literal["auto", "off"] = Field(
        "auto",
        description="auto: the text of scanned PDF pages is recognised where the program tesseract "
        "is installed, in all its languages. off: such pages are noted.",
    )
    parser_command: list[str] = Field(
        default_factory=list,
        description="A program that reads the files of parser_suffixes instead: "
        "its arguments, {file} for the file. It writes Markdown to its standard output.",
    )
    parser_suffixes: list[str] = Field(
        default_factory=lambda: ["pdf"],
        description="The types of file that parser_command reads.",
    )
    phone_regions: list[str] = Field(
        default_factory=lambda: ["US"],
        description="Countries (two letters) whose telephone numbers `sensitive` also knows "
        "without `+` and without a word such as `tel.` before them.",
    )
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="Ingestion fails when a smaller share (0-1) was readable."
    )


class EncoderAdvanced(Section):
    query_prefix: str | None = Field(
        None,
        description="Text put before every question (e5 wants 'query: '). None: as the model's "
        "files say.",
    )
    chunk_prefix: str | None = Field(
        None,
        description="Text put before every chunk (e5 wants 'passage: '). None: as the model's "
        "files say.",
    )
    pooling: Literal["mean", "cls", "lasttoken"] | None = Field(
        None, description="How token vectors become one. None: as the model's files say."
    )
    max_tokens: int | None = Field(
        None,
        ge=16,
        le=1_000_000,
        description="Longer texts (tokens) are cut. None: the model's own limit.",
    )
    batch_tokens: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="Tokens of one batch, padding included. 0: 2,048 on a CPU, 65,536 on a GPU.",
    )
    trust_remote_code: bool = Field(
        False,
        description="true: Python code in the model's folder may run (models with auto_map). Read "
        "it first.",
    )


class RetrievalAdvanced(Section):
    lexical_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of BM25 (0-1) in the score of mode hybrid. None: train_retriever "
        "chooses it on dev questions, for base and tuned encoder; 0.5 until then.",
    )
    candidates: int = Field(
        100,
        ge=1,
        le=100_000,
        description="Chunks taken from each index before their scores are mixed.",
    )
    expand: Literal["none", "neighbours"] = Field(
        "none",
        description="What the generator is shown of a found chunk: the chunk alone, or with the "
        "chunks before and after it, then a third of top_k, so that prompts stay as long.",
    )
    sentences: bool = Field(
        False,
        description="The index also holds the vector of each sentence: a chunk counts as close as "
        "it is on average with its closest sentence. Better where a chunk has several sentences; "
        "encoding takes two to three times as long, vectors about four times the space.",
    )
    faiss: Literal["auto", "flat", "ivf", "ivf_sq8", "ivf_pq"] = Field(
        "auto",
        description="Kind of vector index. auto: flat up to 30,000 chunks, ivf up to 2 million, "
        "ivf_sq8 (a byte a number in memory) up to 20 million, then ivf_pq (a byte for four). All "
        "find 99 % of the exact ten best, measured at the build; a kind that does not is replaced.",
    )


class RerankerAdvanced(Section):
    depth: int = Field(
        20,
        ge=2,
        le=1000,
        description="Most chunks that the reranker scores for each question, the first ones. Dev "
        "questions choose how many of them it takes: its time grows with them.",
    )
    max_tokens: int = Field(
        512,
        ge=16,
        le=1_000_000,
        description="Longest question plus chunk (tokens); longer ones are cut.",
    )


class LLMAdvanced(Section):
    abstain: str = Field(
        "I don't know.",
        description="The answer where the chunks shown do not contain one.",
    )
    batch_tokens: int = Field(
        16384,
        ge=256,
        le=100_000_000,
        description="transformers: tokens of one batch, padding included.",
    )
    concurrency: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Requests in flight to a server. 0: as many as it can take.",
    )
    timeout_seconds: float = Field(
        120,
        gt=0,
        le=86_400,
        description="Seconds after which a request is given up and tried again.",
    )
    retries: int = Field(
        5,
        ge=0,
        le=1000,
        description="New tries after status 429 or 5xx, a time-out, a lost connection.",
    )
    tensor_parallel: int = Field(
        1, ge=1, le=1024, description="vllm: GPUs one model copy is spread over."
    )
    data_parallel: int = Field(1, ge=1, le=1024, description="vllm: number of model copies.")
    gpu_memory_share: float = Field(
        0.9, gt=0, le=1, description="vllm: share (0-1) of each GPU's memory it may take."
    )
    quantization: str | None = Field(None, description="vllm: value of its --quantization.")
    trust_remote_code: bool = Field(
        False,
        description="true: Python code in the model's folder may run (models with auto_map). Read "
        "it first.",
    )
    vllm_python: str | None = Field(
        None,
        description="Python that has vLLM. None: that of .venv-vllm in rag-ft's own checkout, "
        "then ours.",
    )
    vllm_args: list[str] = Field(
        default_factory=list, description="vllm: further arguments of its server."
    )


class GenerateAdvanced(Section):
    splits: list[Split] = Field(
        ["train", "dev", "test"], description="Splits whose documents get generated pairs."
    )
    max_chunks: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Asks only this many chunks, spread over the documents. 0: all.",
    )
    swaps_per_pair: int = Field(
        0,
        ge=0,
        le=100,
        description="Unanswerable questions tried for each accepted single-fact pair: the same "
        "question about another name of the document. Kept where the LLM finds no answer.",
    )
    examples: Path | None = Field(
        None,
        description="Few-shot pairs for prompt set full: jsonl of passage, kind, evidence, "
        "question, answer.",
    )
    checks: list[Check] = Field(
        ["evidence", "form", "stands_alone", "subject", "duplicate", "round_trip", "closed_book"],
        description="Checks that a generated pair must pass, cheapest first. evidence: the quote "
        "is in the chunk. form: question and answer are well formed. stands_alone: the question "
        "makes sense without the passage. subject: the evidence, the sentence before it or the "
        "headings over it name what is asked about. duplicate: it was not asked before. "
        "round_trip: its chunk is found and gives the same answer. closed_book: a test question "
        "is not answered without the chunk.",
    )
    round_trip_k: int = Field(
        10, ge=1, le=1000, description="The pair's chunk must be among this many retrieved chunks."
    )
    round_trip_f1: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least F1 (0-1) of the LLM's answer from the chunk against the pair's answer. "
        "Below 1 an answer that contains the other passes too.",
    )
    duplicate_similarity: float = Field(
        0.95, gt=0, le=1, description="Cosine (0-1) from which two questions count as the same."
    )
    paraphrase_similarity: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Cosine (0-1), by the base encoder, from which a question of people about a "
        "train document is a test question in other words and is left out, if both name the same "
        "things. Chosen with MiniLM. 0: not checked.",
    )
    evidence_similarity: float = Field(
        0,
        ge=0,
        le=1,
        description="Least cosine (0-1) of a single-fact question and its evidence, by the base "
        "encoder; for small LLMs that misread sentences. People's questions have 0.6 in the "
        "median with MiniLM. 0: not checked.",
    )
    temperature: float = Field(
        0.7, ge=0, le=10, description="Sampling temperature of question writing."
    )
    max_tokens: int = Field(256, ge=16, le=1_000_000, description="Longest reply, in tokens.")
    min_kept_share: float = Field(
        0.05, ge=0, le=1, description="Generation fails when a smaller share (0-1) of pairs passes."
    )


class EvaluateAdvanced(Section):
    max_questions: int = Field(
        0,
        ge=0,
        le=100_000_000,
        description="Asks only this many questions, spread over the documents. 0: all.",
    )
    max_tokens: int = Field(64, ge=1, le=1_000_000, description="Longest answer, in tokens.")
    num_resamples: int = Field(
        10_000, ge=100, le=100_000, description="Bootstrap resamples behind each interval."
    )
    robustness: bool = Field(
        False, description="Also measures noise in the context, its order, and swapped answers."
    )
    ensemble: bool = Field(
        False, description="Also decodes as RA-DIT does: each chunk alone, answers weighted."
    )
    similarity: bool = Field(
        False, description="Also measures the base encoder's cosine of answer and accepted answer."
    )
    judge: str | None = Field(
        None,
        description="A model (folder, hub id or served name), run by llm.backend, that says "
        "whether the chunks shown support each answer. None: only the lexical measure.",
    )
    index: Path | None = Field(
        None,
        description="The index of evaluate.encoder over the same chunks. None: built in the run "
        "folder.",
    )


class ServeAdvanced(Section):
    public_url: str | None = Field(
        None,
        description="Address under which people reach the server, for the links of citations. "
        "None: the address of the request.",
    )
    max_concurrent: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Requests at a time; more wait a second, then get status 429.",
    )
    cors: list[str] = Field(
        default_factory=list,
        description="Origins, such as https://intranet.example, whose pages may call the server.",
    )
    timeout_seconds: float = Field(
        300, gt=0, le=86_400, description="Seconds after which a request is ended."
    )
    max_body_mb: float = Field(4, gt=0, le=1024, description="Larger requests (MB) get status 413.")
