"""Pairs as tasks of Label Studio with predictions, and its annotations as decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_ft.integrations.json_lists import read_items, text_of, write_list
from rag_ft.relevance import Span
from rag_ft.review.exchange import Returned, ReviewRow
from rag_ft.review.store import REASONS

CONFIG = f"""<View>
  <Header value="$question"/>
  <Labels name="evidence" toName="chunk">
    <Label value="evidence" hotkey="v"/>
  </Labels>
  <Text name="chunk" value="$chunk"/>
  <TextArea name="question" toName="chunk" editable="true" maxSubmissions="1"/>
  <TextArea name="answers" toName="chunk" editable="true"/>
  <Choices name="decision" toName="chunk" choice="single">
    <Choice value="accept" hotkey="a"/>
    <Choice value="reject" hotkey="r"/>
    <Choice value="unsure" hotkey="s"/>
  </Choices>
  <Choices name="reason" toName="chunk" choice="single" visibleWhen="choice-selected"
    whenTagName="decision" whenChoiceValue="reject">
{"".join(f'    <Choice value="{reason}"/>{chr(10)}' for reason in REASONS)}  </Choices>
</View>
"""


def write(rows: Iterable[ReviewRow], folder: Path) -> None:
    """tasks.json, to import into a project, and config.xml, its labelling configuration."""
    (folder / "config.xml").write_text(CONFIG, encoding="utf-8")
    write_list(folder / "tasks.json", map(task_of, rows))


def task_of(row: ReviewRow) -> dict[str, Any]:
    """A task; the pair, or what a reviewer made of it, is its prediction."""
    card = row.card
    result = [
        _result("question", "textarea", {"text": [row.question]}),
        _result("answers", "textarea", {"text": list(row.answers)}),
    ]
    if row.evidence:
        start, end = (utf16_length(row.text[:place]) for place in row.evidence)
        value = {"start": start, "end": end, "text": row.quote, "labels": ["evidence"]}
        result.append(_result("evidence", "labels", value))
    result.append(_result("decision", "choices", {"choices": [row.decision]}))
    if row.last and row.last.decision == "reject" and row.last.reason:
        result.append(_result("reason", "choices", {"choices": [row.last.reason]}))
    return {
        "data": {
            "key": card.key,
            "pair_id": card.pair.id,
            "question": row.question,
            "answers": "\n".join(row.answers),
            "chunk": row.text,
            "document_id": card.pair.document_id,
            "kind": card.pair.kind,
            "split": card.pair.split,
            "origin": card.pair.origin,
        },
        "predictions": [
            {
                "model_version": f"reviewed by {row.last.reviewer}" if row.last else "rag_ft",
                "score": row.confidence,
                "result": result,
            }
        ],
    }


def read(path: Path) -> Iterator[Returned]:
    """The annotations of an exported JSON file; those that were skipped are left out.

    Raises:
        DataError: the file is not a JSON export of Label Studio.
    """
    wanted = "a JSON export of Label Studio: it must be a list of tasks"
    return read_items(path, wanted, "task", _annotations)


def _annotations(item: str, task: dict[str, Any]) -> Iterator[Returned]:
    for annotation in task.get("annotations") or ():
        if not annotation.get("was_cancelled"):
            yield _returned(item, task.get("data") or {}, annotation)


def _returned(item: str, data: dict[str, Any], annotation: dict[str, Any]) -> Returned:
    values: dict[str, dict[str, Any]] = {}
    for part in annotation.get("result") or []:
        # Of several marked spans the first one counts.
        values.setdefault(str(part.get("from_name")), part.get("value") or {})
    question, answers = _texts(values, "question"), _texts(values, "answers")
    decision, reason = (_chosen(values, name) for name in ("decision", "reason"))
    evidence, text = values.get("evidence"), str(data.get("chunk") or "")
    span = _code_points(evidence, text) if evidence else None
    quote = text_of(evidence.get("text") or None) if evidence else ""
    return Returned(
        item,
        str(data.get("key")),
        decision,
        reason if decision == "reject" else None,
        question[0] if question else None,
        tuple(answer for answer in answers if answer.strip()),
        span,
        quote,
        _who(annotation.get("completed_by")),
        text_of(annotation.get("updated_at") or annotation.get("created_at")),
    )


def utf16_length(text: str) -> int:
    """Label Studio counts as browsers do: in UTF-16 units."""
    return len(text.encode("utf-16-le")) // 2


def _code_points(value: dict[str, Any], text: str) -> Span:
    units = text.encode("utf-16-le", "surrogatepass")
    start, end = (
        len(units[: 2 * int(value[name])].decode("utf-16-le", "ignore"))
        for name in ("start", "end")
    )
    return start, end


def _result(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": name, "to_name": "chunk", "type": kind, "value": value}


def _texts(values: dict[str, dict[str, Any]], name: str) -> list[str]:
    found = values.get(name, {}).get("text") or []
    return [str(text) for text in ([found] if isinstance(found, str) else found)]


def _chosen(values: dict[str, dict[str, Any]], name: str) -> str | None:
    found = values.get(name, {}).get("choices") or []
    return str(found[0]) if found else None


def _who(completed_by: Any) -> str | None:
    """The e-mail address of a user, else the number."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("id") or "") or None
    return f"label-studio {completed_by}" if completed_by is not None else None
