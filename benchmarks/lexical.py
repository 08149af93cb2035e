"""bm25s, the lexical index of rag_ft, against tantivy: ranking, build, memory and latency.

    python benchmarks/lexical.py ranking DATA [--work DIR]
    python benchmarks/lexical.py speed [--texts 130000] [--kinds bm25s,tantivy]

`ranking` measures BM25 alone over the sets of DATA (see ranking.py), without an encoder. `tantivy`
reads the words of rag_ft, joined by spaces, so that only the engine differs; `tantivy_default` and
`tantivy_en_stem` have its own tokenizers. Gains are over bm25s, with intervals by document.
`speed` takes made-up texts of about 480 characters, as scale.py does. Each step is a process of its
own, on one thread: CPU seconds of the work, without start and reading of texts; peak memory of the
process, whose start takes `start_mb`. After the build a hundredth of the texts is deleted and as
many are added: tantivy changes its index, bm25s has none that can be changed and makes it anew.

Needs the package tantivy (measured with 0.27.0), which rag_ft does not install.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from hardware import processor, write_result
from scale import made_up_texts, measured, per_question

from rag_ft.retrieval.fusion import Ranking, best_first
from rag_ft.retrieval.lexical import LexicalBuilder, LexicalIndex, words
from rag_ft.storage import batched

BLOCK, DEPTH = 4096, 100
CHARACTERS = 480
NUM_QUESTIONS = 200
SETS = {  # parts of each
    "covidqa": ("train", "dev"),
    "nq_oracle": ("train", "dev"),
    "xquad_en": ("train", "dev"),
    **{f"xquad_{language}": ("dev",) for language in ("de", "es", "zh", "ar")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=["ranking", "speed", "step"])
    parser.add_argument("data", type=Path, nargs="?", help="of ranking: folder of the sets")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-lexical"))
    parser.set_defaults(dtype="float32")
    parser.add_argument("--texts", type=int, default=130_000)
    parser.add_argument("--kinds", default="bm25s,tantivy")
    parser.add_argument("--step", nargs=3, metavar=("NAME", "KIND", "FOLDER"), help="of speed")
    args = parser.parse_args()
    if args.case == "step":
        name, kind, folder = args.step
        print(json.dumps(STEPS[name](KINDS[kind], Path(folder), args.texts)))
    elif args.case == "ranking":
        write_result("lexical-ranking", processor(), ranking(args))
    else:
        with tempfile.TemporaryDirectory() as place:
            found = speed(Path(place), args.texts, args.kinds.split(","))
        write_result(f"lexical-speed-{args.texts}", processor(), found)


# The engines.


class Engine(Protocol):
    def build(self, texts: Iterable[str]) -> None: ...

    def open(self) -> None: ...

    def search(self, question: str, allowed: np.ndarray | None = None) -> Ranking: ...


class Bm25s:
    """The index that rag_ft has."""

    def __init__(self, folder: Path) -> None:
        import bm25s  # noqa: F401 - so that its import counts as start

        self.folder = folder

    def build(self, texts: Iterable[str]) -> None:
        builder = LexicalBuilder()
        for block in batched(texts, BLOCK):
            builder.add(block)
        builder.save(self.folder)

    def open(self) -> None:
        self._index = LexicalIndex(self.folder)

    def search(self, question: str, allowed: np.ndarray | None = None) -> Ranking:
        return self._index.search([question], DEPTH, allowed)[0]


class Tantivy:
    """One field of words, and one of the text's row. `tokenizer` None: the words of rag_ft."""

    def __init__(self, folder: Path, tokenizer: str | None = None) -> None:
        import tantivy

        self._tantivy, self.folder = tantivy, folder
        self._own = tokenizer is None
        schema = tantivy.SchemaBuilder()
        name = tokenizer or "whitespace"
        schema.add_text_field("text", tokenizer_name=name, index_option="freq")
        schema.add_unsigned_field("row", indexed=True, fast=True)
        self._schema, self._analyzer = schema.build(), self._make_analyzer(name)

    def _make_analyzer(self, name: str) -> Any:
        """As tantivy's documentation defines "default" and "en_stem"; for questions."""
        kinds, filters = self._tantivy.Tokenizer, self._tantivy.Filter
        if name == "whitespace":
            return self._tantivy.TextAnalyzerBuilder(kinds.whitespace()).build()
        builder = self._tantivy.TextAnalyzerBuilder(kinds.simple())
        builder = builder.filter(filters.remove_long(40)).filter(filters.lowercase())
        if name == "en_stem":
            builder = builder.filter(filters.stemmer("english"))
        return builder.build()

    def build(self, texts: Iterable[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(enumerate(texts), [])

    def change(self, rows: Iterable[int], texts: Iterable[str]) -> None:
        """Replaces the texts of `rows`."""
        deleted = list(rows)
        self._write(zip(deleted, texts, strict=True), deleted)

    def _write(self, texts: Iterable[tuple[int, str]], deleted: Sequence[int]) -> None:
        writer = self._tantivy.Index(self._schema, str(self.folder)).writer(num_threads=1)
        for row in deleted:
            # By term, a number deletes nothing and says nothing (0.27.0).
            query = self._tantivy.Query.term_query(self._schema, "row", row)
            writer.delete_documents_by_query(query)
        for row, text in texts:
            document = self._tantivy.Document()
            document.add_text("text", " ".join(words(text)) if self._own else text)
            document.add_unsigned("row", row)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()

    def open(self) -> None:
        self._searcher = self._tantivy.Index.open(str(self.folder)).searcher()

    @property
    def num_texts(self) -> int:
        return int(self._searcher.num_docs)

    def search(self, question: str, allowed: np.ndarray | None = None) -> Ranking:
        """The words one by one, since the query parser reads quotes and colons as syntax."""
        query, should = self._tantivy.Query, self._tantivy.Occur.Should
        asked = words(question) if self._own else self._analyzer.analyze(question)
        terms = [(should, query.term_query(self._schema, "text", word, "freq")) for word in asked]
        wanted = query.boolean_query(terms)
        if allowed is not None:
            must, rows = self._tantivy.Occur.Must, np.flatnonzero(allowed).tolist()
            among = query.const_score_query(query.term_set_query(self._schema, "row", rows), 0.0)
            wanted = query.boolean_query([(must, wanted), (must, among)])
        hits = self._searcher.search(wanted, limit=DEPTH, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return best_first(np.array(rows, dtype=np.int64), np.array([score for score, _ in hits]))


KINDS: dict[str, Callable[[Path], Engine]] = {
    "bm25s": Bm25s,
    "tantivy": Tantivy,
    "tantivy_default": lambda folder: Tantivy(folder, "default"),
    "tantivy_en_stem": lambda folder: Tantivy(folder, "en_stem"),
}


# Ranking on real questions.


def ranking(args: argparse.Namespace) -> dict[str, Any]:
    """For each set each engine's metrics, and what it gains over bm25s."""
    found: dict[str, Any] = {}
    pooled: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    documents: list[str] = []
    for name, parts in SETS.items():
        scores, owners = rank_set(args, name, parts)
        found[name] = table(scores, owners)
        print(name, json.dumps(found[name]), flush=True)
        if name.startswith("xquad") and name != "xquad_en":
            documents += [f"{name}/{owner}" for owner in owners]
            for kind, values in scores.items():
                pooled[kind].append(values)
    merged = {kind: np.concatenate(values) for kind, values in pooled.items()}
    found["xquad_de_es_zh_ar"] = table(merged, documents)
    return found


def rank_set(
    args: argparse.Namespace, name: str, parts: Sequence[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """{kind: metrics and first row of each question (num_questions, 4)}, and their documents."""
    from ranking import SHOWN, prepare

    from rag_ft.evaluation.metrics.retrieval import score_ranking
    from rag_ft.generation.import_questions import import_questions
    from rag_ft.prompts.answer_prompt import chunk_text
    from rag_ft.relevance import gold_by_pair
    from rag_ft.schema import Document
    from rag_ft.storage import read_jsonl

    session = prepare(args, name, parts, stages=("ingest",))
    chunks, files = list(session.chunks), session.config.generate.questions
    imported = import_questions(files, read_jsonl(session.run_dir.documents, Document), chunks, "")
    gold = gold_by_pair(imported.pairs, chunks)
    asked = [pair for pair in imported.pairs if pair.answerable and gold[pair.id]]
    texts = [chunk_text(chunk, "title") for chunk in chunks]
    scores: dict[str, np.ndarray] = {}
    for kind, make in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            engine = make(Path(folder) / "index")
            engine.build(texts)
            engine.open()
            values = []
            for pair in asked:
                rows = engine.search(pair.question)[0][:10]
                shown = score_ranking([chunks[row].id for row in rows], gold[pair.id])
                values.append([*(shown[m] for m in SHOWN), rows[0] if len(rows) else -1])
        scores[kind] = np.array(values, dtype=float)
    return scores, [pair.document_id or pair.id for pair in asked]


def table(scores: dict[str, np.ndarray], documents: Sequence[str]) -> dict[str, Any]:
    from ranking import SHOWN

    from rag_ft.training.retriever.fusion_choice import gain_of

    rows: dict[str, Any] = {"questions": len(documents), "documents": len(set(documents))}
    before = scores["bm25s"]
    for kind, values in scores.items():
        rows[kind] = {m: round(float(values[:, i].mean()), 4) for i, m in enumerate(SHOWN)}
        if kind == "bm25s":
            continue
        rows[kind]["same_first"] = round(float((values[:, -1] == before[:, -1]).mean()), 4)
        for column, metric in enumerate(SHOWN):
            gain = gain_of(values[:, column] - before[:, column], documents)
            bounds = [round(bound, 4) for bound in gain.ci95 or ()]
            rows[kind][f"{metric} gain"] = [round(gain.value, 4), *bounds]
    return rows


# Cost.


def speed(folder: Path, number: int, kinds: Sequence[str]) -> dict[str, Any]:
    """What build, one per cent of change, and a question cost for each engine."""
    found: dict[str, Any] = {"texts": number}
    step("texts", "bm25s", folder, number)
    for kind in kinds:
        start = step("start", kind, folder, number)["peak_mb"]
        found[kind] = {"start_mb": start}
        for name in ("build", "search", "change", "search"):
            key = f"{name}_changed" if name in found[kind] else name
            if name == "change" and kind == "bm25s":
                break
            found[kind][key] = step(name, kind, folder, number)
            print(kind, key, json.dumps(found[kind][key]), flush=True)
    return found


def step(name: str, kind: str, folder: Path, number: int) -> dict[str, Any]:
    words = [sys.executable, str(Path(__file__)), "step", "--texts", str(number)]
    return measured([*words, "--step", name, kind, str(folder)], read=True)


def texts_step(make: Callable[[Path], Engine], folder: Path, number: int) -> dict[str, Any]:
    with (folder / "texts.txt").open("w", encoding="utf-8") as out:
        for text in made_up_texts(number, characters=CHARACTERS):
            out.write(text.replace("\n", " ") + "\n")
    return {}


def start_step(make: Callable[[Path], Engine], folder: Path, number: int) -> dict[str, Any]:
    make(folder / "none")
    return {}


def build_step(make: Callable[[Path], Engine], folder: Path, number: int) -> dict[str, Any]:
    engine = make(place_of(folder, make))
    begin = time.process_time()
    for _ in read_texts(folder):
        pass
    reading, begin = time.process_time() - begin, time.process_time()
    engine.build(read_texts(folder))
    size = sum(path.stat().st_size for path in place_of(folder, make).rglob("*"))
    taken = time.process_time() - begin - reading
    return {"work_cpu_s": round(taken, 2), "index_mb": round(size / 2**20)}


def change_step(make: Callable[[Path], Engine], folder: Path, number: int) -> dict[str, Any]:
    """Every hundredth text becomes another one. `same_as_new`: the share of questions for which the
    first ten texts are those of an index that was made of the changed texts."""
    engine, new = make(place_of(folder, make)), make(folder / "new")
    assert isinstance(engine, Tantivy)
    texts = list(made_up_texts(len(range(0, number, 100)), characters=CHARACTERS, seed=3))
    begin = time.process_time()
    engine.change(range(0, number, 100), texts)
    taken = time.process_time() - begin
    engine.open()
    assert engine.num_texts == number
    kept = enumerate(read_texts(folder))
    new.build(text if row % 100 else texts[row // 100] for row, text in kept)
    new.open()
    same = [
        engine.search(question)[0][:10].tolist() == new.search(question)[0][:10].tolist()
        for question in questions_like_texts()
    ]
    return {"work_cpu_s": round(taken, 2), "same_as_new": float(np.mean(same))}


def search_step(make: Callable[[Path], Engine], folder: Path, number: int) -> dict[str, Any]:
    """One question of ten words at a time for 100 texts; `filtered`: where every other text is
    allowed, which bm25s is told as a mask, tantivy as a set of rows, since it takes no mask.
    `anon_mb`: memory of its own after the questions, `file_mb`: pages of files."""
    engine = make(place_of(folder, make))
    begin = time.process_time()
    engine.open()
    opened = time.process_time() - begin
    questions = questions_like_texts()
    for question in questions[:10]:
        engine.search(question)
    found: dict[str, Any] = {"open_cpu_s": round(opened, 3)}
    found["question_ms"] = per_question(lambda n: engine.search(questions[n]))
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    for key, name in (("anon_mb", "RssAnon"), ("file_mb", "RssFile")):
        found[key] = round(int(status[name].split()[0]) / 1024)
    allowed = np.arange(number) % 2 == 0
    found["filtered_ms"] = per_question(lambda n: engine.search(questions[n], allowed), 20)
    return found


def questions_like_texts() -> list[str]:
    texts = made_up_texts(NUM_QUESTIONS, characters=60, seed=9)
    return [" ".join(text.split()[:10]) for text in texts]


def place_of(folder: Path, make: Callable[[Path], Engine]) -> Path:
    return folder / next(kind for kind, other in KINDS.items() if other is make)


def read_texts(folder: Path) -> Iterator[str]:
    with (folder / "texts.txt").open(encoding="utf-8") as lines:
        yield from lines


STEPS: dict[str, Callable[[Callable[[Path], Engine], Path, int], dict[str, Any]]] = {
    "texts": texts_step,
    "start": start_step,
    "build": build_step,
    "search": search_step,
    "change": change_step,
}


if __name__ == "__main__":
    main()
