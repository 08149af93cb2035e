"""One question to the served system: retrieved chunks, an answer, and where it comes from."""

from __future__ import annotations

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.evaluation.answering import tuned_generator
from rag_ft.evaluation.given import with_given
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest
from rag_ft.model_hub import with_tuned
from rag_ft.paths import RunDir
from rag_ft.qa.prompts import load_prompts, parse_answer
from rag_ft.records import Chunk
from rag_ft.retrieval.search import chunk_text, load_chunks, open_retriever, served_tuned


def ask(config: Config, question: str, tuned: bool = True) -> str:
    """The answer and its numbered chunks as text for a terminal; cited chunks carry a star.

    `tuned` uses what the run tuned and shipped, where it did.
    Raises DataError for an empty question, or where the model gave no answer (too long a prompt, a lost server).
    """
    if not question.strip():
        raise DataError('the question is empty: rag-ft ask CONFIG "Who ...?"')
    run_dir = with_given(config, RunDir(config.run_path))
    retriever = open_retriever(config, run_dir, tuned=tuned and served_tuned(run_dir))
    hits = retriever.search([question], config.retrieval.top_k)[0]
    found = load_chunks(run_dir, {chunk_id for chunk_id, _ in hits})
    chunks = [found[chunk_id] for chunk_id, _ in hits]
    text = _answer(config, run_dir, question, chunks, tuned)
    answer, cited = parse_answer(text, len(chunks))
    return "\n".join(
        [answer, "", *(_source_line(n, chunk, n in cited) for n, chunk in enumerate(chunks, 1))]
    )


def _answer(
    config: Config, run_dir: RunDir, question: str, chunks: list[Chunk], tuned: bool
) -> str:
    llm, adapters = with_tuned(config.llm, tuned_generator(run_dir) if tuned else None)
    prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
    messages = prompts.answer(
        question, [chunk_text(chunk, config.retrieval.advanced.with_title) for chunk in chunks]
    )
    request = ChatRequest(
        "ask", messages, config.evaluate.advanced.max_tokens, adapter=next(iter(adapters), None)
    )
    with open_language_model(llm, config.run.seed, adapters) as model:
        reply = next(iter(model.chat([request])))
    if reply.error:
        raise DataError(f"the model gave no answer: {reply.error}")
    return reply.text


def _source_line(number: int, chunk: Chunk, cited: bool) -> str:
    excerpt = " ".join(chunk.text.split())
    shown = excerpt if len(excerpt) <= 160 else excerpt[:157] + "..."
    return f"{'*' if cited else ' '}[{number}] {chunk.id}  {shown}"
