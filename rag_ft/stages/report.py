"""report: scores and done-files -> metrics.json, report.md, report.html."""

from __future__ import annotations

from rag_ft.errors import DataError
from rag_ft.evaluation.comparisons import make_table
from rag_ft.report.metrics_json import make_metrics
from rag_ft.report.page_data import page_data
from rag_ft.report.rendering import environment
from rag_ft.report.run_data import counts_of
from rag_ft.schema import Document, QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_json, write_text


def run(session: Session) -> dict[str, int | float]:
    """Writes metrics.json, report.md and report.html from the files of the other stages.

    Raises:
        DataError: the evaluation scored no question that qa.jsonl still holds.
    """
    config, run_dir = session.config, session.run_dir
    pairs = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "test"]
    table = make_table(pairs, read_jsonl(run_dir.scores, Score))
    # Nothing scored has two causes with different remedies.
    if not table.pairs:
        counts = counts_of(run_dir, "evaluate")
        if counts.get("located_questions") == 0 and "predictions" not in counts:
            raise DataError(
                f"{run_dir.scores} is empty: no test question has a known gold chunk, and answers "
                "were not evaluated; set evaluate.answers=true, or give the questions of "
                "generate.questions their document_id, with answers or evidence in the words of "
                "the document"
            )
        raise DataError(
            f"{run_dir.scores} scores no test question of {run_dir.qa}: run evaluate again with "
            "--force"
        )

    # Only documents with a scored question are kept in memory.
    asked = {pair.document_id for pair in table.pairs}
    documents = {d.id: d for d in read_jsonl(run_dir.documents, Document) if d.id in asked}

    # Results for programs first, then the same results for people.
    num_resamples, seed = config.evaluate.advanced.num_resamples, config.run.seed
    metrics = make_metrics(config.name, run_dir, table, documents, num_resamples, seed)
    write_json(run_dir.metrics, metrics, indent=1)

    page = page_data(config, run_dir, session.chunks, table, metrics, documents)
    templates = environment()
    write_text(run_dir.report_md, templates.get_template("report.md").render(page))
    html = templates.get_template("page.html").render(page)
    write_text(run_dir.report_html, html)
    return {"questions": len(table.pairs), "html_mb": round(len(html.encode()) / 1e6, 2)}
