"""Teaches a small instruction-tuned model to write questions about a passage and to answer them, on
human questions.

    python benchmarks/question_writer.py MODEL DATA --to FOLDER
        [--sets xquad_en_train,nq_oracle_train] [--train-of CONFIG] [--work FOLDER] [--threads 2]
        [section.key=value ...]

Models of a few 100 million parameters do not follow the instructions of `llm.prompts=full`, and no
larger one runs on two CPU cores. So that the stages can be measured with a language model that
reads ordinary English, MODEL (a folder, such as SmolLM2-135M-Instruct's) is tuned on two tasks over
DATA/<set>/ (layout of docs/how-to): the passage and the sentence with the answer -> the pair as
JSON; a question with the passage that answers it, or one that does not -> the answer, or to
abstain. FOLDER then serves as `llm.model` with `llm.prompts=compact`. What is measured on
afterwards must not be taught: --train-of takes only the documents that CONFIG puts in its train
split. A question without a question mark is taught to be written with one, since generated pairs
must have it. `train_generator.advanced.max_steps` bounds the time. Killed, it goes on from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rag_ft.chunk_store import ChunkStore
from rag_ft.commands.merge import merge
from rag_ft.config import Config, IngestConfig
from rag_ft.config_loader import apply_override, load_config, make_config
from rag_ft.documents.sentences import split_sentences
from rag_ft.documents.splits import read_splits, split_of
from rag_ft.generation.question_patterns import asks
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.relevance import evidence_sentence
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair
from rag_ft.session import Session
from rag_ft.stages import generate, index, ingest
from rag_ft.storage import read_jsonl, read_rows, write_jsonl
from rag_ft.training.distributed import join_processes
from rag_ft.training.generator.context_layouts import Example
from rag_ft.training.generator.dataset import (
    layout_settings,
    make_examples,
    retrieve,
    select_pairs,
)
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.generator.trainer import save_generator, train

WRITE_EVERY = 2  # writing is learned from fewer questions than reading
TEACHING: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 7e-4,
    "advanced": {
        "layout": "radit",  # one passage, as the round trip and the LM scores show it
        "gold_share": 0.7,
        "replay_share": 0,
        "rank": 16,
        "evaluations": 12,  # checkpoints: there is nothing to evaluate
        "max_tokens": 768,
    },
}


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    config = _config(args)
    run_dir = RunDir(config.run_path)
    if not run_dir.qa.exists():
        for stage in (ingest, index, generate):
            stage.run(Session(config, run_dir))
    tokens = load_chat_tokens(config.llm.model)
    split = select_pairs(
        run_dir, ChunkStore(run_dir.chunks), config.ingest.advanced.near_duplicate_similarity
    )
    # One pass over examples that are all new: the last weights are taken, none are chosen on dev.
    pairs = [*split.train, *split.dev]
    rows = _examples(config, run_dir, pairs, tokens)
    random.Random(config.run.seed).shuffle(rows)
    print(f"{len(rows)} examples over {len(pairs)} questions")
    processes = join_processes()
    folder = run_dir.checkpoints("question_writer")
    trained = train(
        config,
        tokens.tokenizer,
        rows,
        (),
        folder,
        processes,
        load_base(config.llm, config.train_generator),
    )
    print(
        json.dumps(trained.history[-12:]),
        f"{trained.num_tokens / trained.seconds:.0f} tokens a second",
    )
    save_generator(
        trained, config.train_generator, config.llm.required_model, run_dir.generator, processes
    )
    print(f"written to {merge(config, args.to)}")


def _examples(config: Config, run_dir: RunDir, pairs: list[QAPair], tokens: Any) -> list[Example]:
    session = Session(config, run_dir)
    context = config.llm.max_model_tokens
    layout = layout_settings(
        config.train_generator, config.retrieval.top_k, config.run.seed, context
    )
    found = retrieve(session, pairs)
    answering, _ = make_examples(session.answer_prompt, found, pairs, tokens.encode, layout)
    return [*answering, *_writing(config, run_dir, pairs[::WRITE_EVERY], tokens)]


def _writing(
    config: Config, run_dir: RunDir, pairs: list[QAPair], tokens: Any
) -> Iterator[Example]:
    prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
    chunks = {chunk.id: chunk for chunk in read_jsonl(run_dir.chunks, Chunk)}
    for pair in pairs:
        chunk = chunks.get(pair.chunk_id or "")
        evidence = evidence_sentence(pair, chunk, split_sentences(chunk.text)) if chunk else ""
        if not chunk or not evidence or "\n" in evidence:
            continue
        messages = prompts.generate(chunk.text, evidence, "factoid")
        question = pair.question
        if not asks(question):
            question = f"{question[0].upper()}{question[1:].rstrip(' .')}?"
        told = {"evidence": evidence, "question": question, "answer": pair.answer}
        reply = json.dumps(told, ensure_ascii=False)
        encoded = tokens.encode(messages, reply)
        if len(encoded.input_ids) <= config.train_generator.advanced.max_tokens:
            yield Example(
                f"{pair.id}/write",
                "answer",
                messages,
                reply,
                (chunk.id,),
                encoded,
                pair.document_id,
            )


def _config(args: argparse.Namespace) -> Config:
    folders = [args.data / name for name in args.sets.split(",")]
    if args.train_of:
        split = load_config(args.train_of).ingest
        folders = [_train_part(folder, split, args.work / "sources") for folder in folders]
    values: dict[str, Any] = {
        "name": "question_writer",
        "run": {"dir": args.work},
        "ingest": {
            "sources": [folder / "documents.jsonl" for folder in folders],
            "test_share": 0,
        },
        "generate": {
            "questions": [folder / "questions.jsonl" for folder in folders],
            "pairs_per_chunk": 0,
        },
        "llm": {"model": args.model, "prompts": "compact"},
        "train_generator": copy.deepcopy(TEACHING),
    }
    for override in args.overrides:
        apply_override(values, override)
    return make_config(values)


def _train_part(folder: Path, settings: IngestConfig, to: Path) -> Path:
    """A copy of a set with its train documents alone, and the questions about them."""
    named = read_splits(settings.advanced.splits).by_id
    for file, key in (("documents", "id"), ("questions", "document_id")):
        rows = read_rows(folder / f"{file}.jsonl")
        splits = ((row, named.get(row[key]) or split_of(row[key], settings)) for row in rows)
        kept = (row for row, split in splits if split == "train")
        write_jsonl(to / folder.name / f"{file}.jsonl", kept)
    return to / folder.name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Teaches a small model to write and to answer questions"
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--sets", default="xquad_en_train,nq_oracle_train")
    parser.add_argument("--train-of", type=Path, help="a config: only its train documents")
    parser.add_argument("--work", type=Path, default=Path("runs/question_writer"))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
