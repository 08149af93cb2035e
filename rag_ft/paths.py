"""Where everything of a run lies. One property per file: who writes it, and what one line is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDir:
    """The folder of one run. Names and formats are public: scripts may rely on them."""

    path: Path

    @property
    def config(self) -> Path:
        """Written first by every stage: the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def documents(self) -> Path:
        """ingest: a Document a line."""
        return self.path / "documents.jsonl"

    @property
    def chunks(self) -> Path:
        """ingest: a Chunk a line, in document order."""
        return self.path / "chunks.jsonl"

    @property
    def vllm_log(self) -> Path:
        """Stages that start a vLLM server: what the last one said."""
        return self.path / "vllm.log"

    def rejects(self, stage: str) -> Path:
        """Any stage: a Reject a line."""
        return self.path / "rejects" / f"{stage}.jsonl"

    @property
    def index(self) -> Path:
        """index: folder with vectors.npy, chunk_ids.json, index.faiss, lexical/, manifest.json."""
        return self.path / "index"

    @property
    def qa(self) -> Path:
        """generate: an accepted QAPair a line, by document."""
        return self.path / "qa.jsonl"

    def replies(self, stage: str) -> Path:
        """generate, evaluate: {key, text, ...} a line, every reply of a language model, append-only: what makes a
        killed stage continue where it was."""
        return self.path / "replies" / f"{stage}.jsonl"

    @property
    def lm_scores(self) -> Path:
        """train_retriever: {key, pair_id, chunk_id, mean_logprob, num_tokens} a line, append-only."""
        return self.path / "lm_scores.jsonl"

    @property
    def retriever(self) -> Path:
        """train_retriever: the tuned encoder, loadable by SentenceTransformer; adapter/ beside it."""
        return self.path / "retriever"

    @property
    def retriever_index(self) -> Path:
        """train_retriever: as index/, made with the tuned encoder."""
        return self.path / "retriever_index"

    @property
    def given_index(self) -> Path:
        """evaluate, where its encoder is given by path: as index/, made with that encoder."""
        return self.path / "given_index"

    @property
    def generator(self) -> Path:
        """train_generator: a PEFT adapter with its tokenizer, loadable by PeftModel and by vLLM; where all weights were
        tuned, a whole model."""
        return self.path / "generator"

    def training_log(self, stage: str) -> Path:
        """train_*: {step, loss, eval_loss, ...} a line, what the curves of the report are drawn from."""
        return self.path / "training" / f"{stage}.jsonl"

    @property
    def folds(self) -> Path:
        """train_generator: {fold, num_train, num_dev, dev_loss, f1_base, f1_tuned, delta} a line, a fold of the
        cross-validation: num_train examples trained on, num_dev questions about held-out documents."""
        return self.path / "training" / "folds.jsonl"

    @property
    def tensorboard(self) -> Path:
        """train_generator: TensorBoard's own files, where `report_to` asks for them."""
        return self.path / "training" / "tensorboard"

    def checkpoints(self, stage: str) -> Path:
        """train_*: trainer checkpoints, removed when the stage is done."""
        return self.path / "checkpoints" / stage

    def hits(self, system: str) -> Path:
        """evaluate: a Hit a line, for the retrievers base, tuned and the single sides."""
        return self.path / "hits" / f"{system}.jsonl"

    def predictions(self, system: str) -> Path:
        """evaluate: a Prediction a line."""
        return self.path / "predictions" / f"{system}.jsonl"

    @property
    def scores(self) -> Path:
        """evaluate: a Score a line."""
        return self.path / "scores.jsonl"

    @property
    def metrics(self) -> Path:
        """report: systems, comparisons, verdict, leakage, funnel, cost (docs in README)."""
        return self.path / "metrics.json"

    @property
    def report_html(self) -> Path:
        """report: one self-contained page."""
        return self.path / "report.html"

    @property
    def report_md(self) -> Path:
        """report: the same in short, for a pull request."""
        return self.path / "report.md"

    def started(self, stage: str) -> Path:
        """Any stage, first: {fingerprint, config, inputs}; tells half-finished work of other settings apart."""
        return self.path / f"{stage}.started.json"

    def done(self, stage: str) -> Path:
        """Any stage, last and by rename: {fingerprint, config, inputs, counts, seconds, peak_memory_gb, versions};
        with a GPU also peak_gpu_memory_gb."""
        return self.path / f"{stage}.done.json"
