"""Every file of a run: where it lies, and what one line of it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rag_ft.run_files import FILES, FileKind


@dataclass(frozen=True)
class RunDir:
    """The folder of one run. Names and formats are public: scripts may rely on them."""

    path: Path

    def writes(self, stage: str, *kinds: FileKind) -> list[Path]:
        """The files and folders that the stage writes, whether or not they are there; of all kinds
        where none is named."""
        return [
            self.path / name for name, kind in FILES[stage].items() if not kinds or kind in kinds
        ]

    @property
    def lock(self) -> Path:
        """Locked while a stage runs; holds {pid, host, stage} of the process that locked it
        last."""
        return self.path / ".lock"

    @property
    def config(self) -> Path:
        """Written first by every stage: the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def documents(self) -> Path:
        """ingest: a Document a line."""
        return self.path / "documents.jsonl"

    @property
    def documents_unsplit(self) -> Path:
        """ingest, while it runs: the documents before their split is decided."""
        return self.path / "documents.unsplit.jsonl"

    @property
    def signatures(self) -> Path:
        """ingest, for its next update: the MinHash signature of each document, uint32 (documents,
        128)."""
        return self.path / "signatures.npy"

    @property
    def findings(self) -> Path:
        """ingest, for its next update: {document_id, language, sensitive} a line, in the order of
        documents.jsonl; `sensitive` counts what is sensitive in the document, by kind."""
        return self.path / "findings.jsonl"

    @property
    def grams_unsplit(self) -> Path:
        """ingest, while it runs: hashes of their word sequences, one document after the other."""
        return self.path / "documents.unsplit.grams"

    @property
    def chunks(self) -> Path:
        """ingest: a Chunk a line, in document order."""
        return self.path / "chunks.jsonl"

    @property
    def vllm_log(self) -> Path:
        """Stages that start a vLLM server: the log of the last one."""
        return self.path / "vllm.log"

    def rejects(self, stage: str) -> Path:
        """Any stage: a Reject a line. generate also writes rejects/reviews.jsonl: reviews that it
        cannot apply."""
        return self.path / "rejects" / f"{stage}.jsonl"

    @property
    def index(self) -> Path:
        """index: folder with manifest.json, chunk_ids.json, rows.npy (the vector of each chunk),
        segments/ (vectors.npy, keys.npy, index.faiss, segment.json each) and lexical/; with one
        segment also vectors.npy, its vectors under another name, in the order of chunk_ids.json.
        Where asked for, sentences/ with the same of the sentences of chunks."""
        return self.path / "index"

    @property
    def qa(self) -> Path:
        """generate: an accepted QAPair a line, by document; reviews.jsonl is applied."""
        return self.path / "qa.jsonl"

    @property
    def generated_pairs(self) -> Path:
        """generate: as qa.jsonl, before reviews.jsonl is applied."""
        return self.path / "generated" / "pairs.jsonl"

    @property
    def generated_rejects(self) -> Path:
        """generate: a QAPair a line that a check rejected; its `checks` hold {rejected, detail}."""
        return self.path / "generated" / "rejected.jsonl"

    @property
    def generated_counts(self) -> Path:
        """generate: the counts of its passes; the done-file adds those of the reviews."""
        return self.path / "generated" / "counts.json"

    def replies(self, stage: str) -> Path:
        """generate, train_generator, evaluate: {key, text, ...} a line, append-only: every reply of
        a language model, so that a killed stage continues where it was. `--force` leaves it."""
        return self.path / "replies" / f"{stage}.jsonl"

    @property
    def lm_scores(self) -> Path:
        """train_retriever: {key, pair_id, chunk_id, mean_logprob, num_tokens} a line, append-only.
        `--force` leaves it."""
        return self.path / "lm_scores.jsonl"

    @property
    def retriever(self) -> Path:
        """train_retriever: the tuned encoder, loadable by SentenceTransformer; adapter/ beside
        it."""
        return self.path / "retriever"

    @property
    def retriever_index(self) -> Path:
        """train_retriever: as index/, made with the tuned encoder."""
        return self.path / "retriever_index"

    @property
    def fusion(self) -> Path:
        """train_retriever: {base, tuned}: the share of BM25 in the ranking that is served, chosen
        on dev questions, and whether the feature ranker is, with gains, intervals and reasons."""
        return self.path / "fusion.json"

    def ranker(self, name: str) -> Path:
        """train_retriever, where one is served: the feature ranker over the scores of the encoder
        `name` (base or tuned), a LightGBM model as text."""
        return self.path / "ranker" / f"{name}.txt"

    @property
    def reranker(self) -> Path:
        """train_reranker: the tuned reranker, loadable by CrossEncoder alone."""
        return self.path / "reranker"

    @property
    def reranking(self) -> Path:
        """train_reranker: {base, tuned}: for each encoder the number of chunks that the tuned
        reranker scores and the share of its score in their order, chosen on dev questions, with
        gains, intervals and reasons."""
        return self.path / "reranking.json"

    @property
    def reranker_lm_scores(self) -> Path:
        """train_reranker, with labels lm or both: as lm_scores.jsonl, which it begins with."""
        return self.path / "reranker_lm_scores.jsonl"

    @property
    def given_index(self) -> Path:
        """evaluate, where evaluate.encoder names an encoder: as index/, made with that encoder."""
        return self.path / "given_index"

    @property
    def generator(self) -> Path:
        """train_generator: a PEFT adapter with its tokenizer, loadable by PeftModel and by vLLM; a
        whole model where all weights were tuned."""
        return self.path / "generator"

    def training_log(self, stage: str) -> Path:
        """train_*: {step, loss, eval_loss, ...} a line, what the curves of the report are drawn
        from. Preference tuning adds {stage, known, gold_shown, prompts, ...} for each quadrant."""
        return self.path / "training" / f"{stage}.jsonl"

    @property
    def folds(self) -> Path:
        """train_generator: {fold, num_train, num_dev, dev_loss, f1_base, f1_tuned, delta} a line,
        one for each fold of the cross-validation: num_train examples to train on, num_dev questions
        about held-out documents."""
        return self.path / "training" / "folds.jsonl"

    @property
    def tensorboard(self) -> Path:
        """train_generator: TensorBoard's own files, where `report_to` asks for them."""
        return self.path / "training" / "tensorboard"

    def checkpoints(self, stage: str) -> Path:
        """All but index and report: checkpoints, the files of the passes, requests in buckets
        and what workers answered; removed when the stage is done."""
        return self.path / "checkpoints" / stage

    def pass_pairs(self, name: str) -> Path:
        """generate, while it runs: a QAPair a line, those left after one of its passes."""
        return self.checkpoints("generate") / f"{name}.jsonl"

    @property
    def generator_unfinished(self) -> Path:
        """train_generator, while it saves: becomes generator/ by one rename."""
        return self.path / "generator.tmp"

    def hits(self, system: str) -> Path:
        """evaluate: a Hit a line, for each retriever: base and tuned as they are served, where a
        reranker was tuned too tuned_retriever and tuned_reranker; lexical, dense_base and
        dense_tuned alone; where a feature ranker or a reranker is served mixture_base and
        mixture_tuned without it."""
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
        """report: systems, comparisons, verdict, leakage, funnel, cost; see docs/metrics.md."""
        return self.path / "metrics.json"

    @property
    def report_html(self) -> Path:
        """report: one self-contained page."""
        return self.path / "report.html"

    @property
    def report_md(self) -> Path:
        """report: the same in short, for a pull request."""
        return self.path / "report.md"

    @property
    def served(self) -> Path:
        """serve, with serve.log: an exchange a line {id, time, model, question, standalone,
        chunk_ids, citations, answer, abstained, fingerprints}, append-only."""
        return self.path / "served.jsonl"

    @property
    def feedback(self) -> Path:
        """serve: {id, time, rating, comment, answer, chunk_ids, exchange} a line, append-only: what
        people said of answers, each with the exchange it judges."""
        return self.path / "feedback.jsonl"

    @property
    def reviews(self) -> Path:
        """review, serve, import: a decision about a pair a line {pair_id, key, source, decision,
        reason, question, answers, document_id, evidence, reviewer, time}, append-only; corrections
        of answers are lines too. The last line of a reviewer about a `key` holds."""
        return self.path / "reviews.jsonl"

    @property
    def frozen(self) -> Path:
        """improve, in every version but the first: a QAPair a line: the test questions of the
        version that it continues, as far as their documents are unchanged. rejects/improve.jsonl
        has the others."""
        return self.path / "frozen.jsonl"

    @property
    def version(self) -> Path:
        """improve, in every version but the first: {parent, changes, decision}: the version that it
        continues, what is new, and why it is served or not."""
        return self.path / "version.json"

    @property
    def promoted(self) -> Path:
        """improve, rollback, in the first version: {version, before, time}: the name of the version
        that is served, and those that were served before it."""
        return self.path / "promoted.json"

    @property
    def copies(self) -> Path:
        """bundle, merge, export: {what, to, time} a line, append-only: what was written outside of
        the run, so that `forget` can name it."""
        return self.path / "copies.jsonl"

    @property
    def forgotten(self) -> Path:
        """forget, in the first version: {documents: [{texts, files, time, trained}]}: hashes of
        what no ingest takes again, and which components had learnt from it."""
        return self.path / "forgotten.json"

    @property
    def forgetting(self) -> Path:
        """forget, in the first version, while it works: {document, reviews: hashes of their files
        before}, so that the next call continues."""
        return self.path / "forgetting.json"

    def started(self, stage: str) -> Path:
        """Any stage, first: {fingerprint, config, inputs, sources, threads}. An interrupted stage
        is continued only with the same fingerprint."""
        return self.path / f"{stage}.started.json"

    def done(self, stage: str) -> Path:
        """Any stage, last: as started, and {outputs, result, counts, seconds, peak_memory_gb,
        versions}; with a GPU also peak_gpu_memory_gb. `sources` and `outputs` hold {file: [size,
        mtime_ns, sha256]}, and so does `documents`, the last part, of many source files; `result`
        is one hash over the files that later stages read."""
        return self.path / f"{stage}.done.json"
