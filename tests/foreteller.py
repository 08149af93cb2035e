"""A language model whose every reply can be foretold, and documents of facts that it can read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from rag_ft.config import Config
from rag_ft.engine import language_model
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Reject
from rag_ft.storage import read_jsonl

FACT = re.compile(r"The (\w+) of the (\w+ \w+) is ([^.\n]+)\.")
NAMES = ["Grey Heron", "Old Tower", "East Mill", "Salt House", "Long Bridge", "North Quay"]
THINGS = {
    "captain": "Ola Brand",
    "price": "40 euros",
    "colour": "dark green",
    "keeper": "Berit Moe",
}
SPLITS = ["train", "train", "dev", "test", "test", "test"]


class Foreteller:
    """A language model that reads facts of the form FACT, and asks and answers by rule.

    `spoil` may change a reply.
    """

    name, window = "foreteller", 1

    def __init__(
        self, spoil: Callable[[ChatRequest, str], str | None] = lambda request, text: text
    ) -> None:
        self.asked: list[ChatRequest] = []
        self._spoil = spoil

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        held: list[Reply] = []
        for request in requests:
            self.asked.append(request)
            text = self._spoil(request, self._reply(request.messages[0]["content"]))
            error = None if text is not None else "HTTP 500: no luck"
            held.append(
                Reply(request.id, text or "", "stop" if text else "error", 10, 5, 0.1, error)
            )
            if len(held) == 5:  # out of order, as a server's replies come
                yield from reversed(held)
                held = []
        yield from reversed(held)

    def _reply(self, prompt: str) -> str:
        if prompt.startswith("Write a question"):
            return self._write(prompt)
        thing, name = re.findall(r"What is the (\w+) of the (\w+ \w+)\?", prompt)[0]
        found = [value for t, n, value in FACT.findall(prompt) if (t, n) == (thing, name)]
        return found[0] if found else "I don't know."

    def _write(self, prompt: str) -> str:
        focus, kind = re.findall(r"Sentence: (.*)\nKind: (\w+)", prompt)[0]
        if (fact := FACT.search(focus)) is None:
            return json.dumps({"evidence": "", "question": "", "answer": ""})
        thing, name, value = fact.groups()
        if kind == "unanswerable":
            return json.dumps(
                {
                    "evidence": "",
                    "question": f"What is the weight of the {name}?",
                    "answer": "I don't know.",
                }
            )
        return json.dumps(
            {"evidence": focus, "question": f"What is the {thing} of the {name}?", "answer": value}
        )

    def __enter__(self) -> Foreteller:
        return self

    def __exit__(self, *_: object) -> None: ...


def documents() -> list[dict[str, Any]]:
    made = []
    for place, name in enumerate(NAMES):
        facts = [f"The {thing} of the {name} is {value}." for thing, value in THINGS.items()]
        text = f"Notes on the {name}\n\n" + " ".join(facts)
        made.append(
            {"id": f"d{place}", "title": f"Notes {place}", "text": text, "split": SPLITS[place]}
        )
    return made


@pytest.fixture
def prepared(
    make_run: Callable[..., tuple[Config, RunDir]],
) -> Callable[..., tuple[Config, RunDir]]:
    """A run with its index, ready to generate."""

    def prepare(more: list[dict[str, Any]] = [], **overrides: Any) -> tuple[Config, RunDir]:  # noqa: B006
        # the tiny encoder's vectors are random: only equal questions are alike
        overrides = {"generate__advanced__duplicate_similarity": 1.0} | overrides
        config, run_dir = make_run(documents() + more, ingest__chunk_tokens=500, **overrides)
        for stage in ("ingest", "index"):
            run_stage(stage, config)
        return config, run_dir

    return prepare


def use(monkeypatch: pytest.MonkeyPatch, model: Foreteller) -> Foreteller:
    monkeypatch.setattr(language_model, "open_language_model", lambda *_, **__: model)
    return model


def pairs_of(run_dir: RunDir) -> list[QAPair]:
    return list(read_jsonl(run_dir.qa, QAPair))


def rejects_of(run_dir: RunDir) -> list[Reject]:
    return list(read_jsonl(run_dir.rejects("generate"), Reject))
