"""The texts put to a language model: one folder of plain text files a prompt set, one user message a prompt.

The same code renders prompts for generation, training, evaluation and serving, so that they cannot drift apart.
There is no system message: several chat templates refuse one, or drop it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, DataError
from rag_ft.llm.interface import Messages
from rag_ft.schema import KINDS, Kind
from rag_ft.storage import content_hash, encodable
from rag_ft.text import neutralise

BUILT_IN = Path(__file__).parent
SLOTS: dict[str, frozenset[str]] = {
    "answer.txt": frozenset({"question", "context"}),
    "closed_book.txt": frozenset({"question"}),
    "generate.txt": frozenset({"passage", "focus", "kind"}),
    "generate_multi_hop.txt": frozenset({"passage", "second_passage", "focus", "kind"}),
}
OPTIONAL_SLOTS = frozenset({"abstain", "examples"})
EXAMPLE_KEYS = ("passage", "kind", "evidence", "question", "answer")

# What the reply to a `generate` prompt must be. The order of keys makes the model quote before it asks.
REPLY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "evidence": {"type": "string", "maxLength": 1000},
        "question": {"type": "string", "maxLength": 400},
        "answer": {"type": "string", "maxLength": 800},
    },
    "required": ["evidence", "question", "answer"],
    "additionalProperties": False,
}

_SLOT = re.compile(
    r"\{("
    + "|".join(sorted({s for names in SLOTS.values() for s in names} | OPTIONAL_SLOTS))
    + r")\}"
)
_QUOTE = re.compile(
    r".*</quote>|\s*<quote>.*", re.DOTALL
)  # no passage holds these tags: they are PROMPT_TAGS
_CITATION = re.compile(r"\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


@dataclass(frozen=True)
class Prompts:
    """One prompt set. `kinds` maps each kind it can write to the words that fill the `{kind}` slot; `hash` changes
    with any byte of what it renders."""

    name: str
    texts: dict[str, str]
    kinds: dict[str, str]
    abstain: str
    examples: str = ""

    @cached_property
    def hash(self) -> str:
        return content_hash(self.texts, self.kinds, self.abstain, self.examples)

    def answer(self, question: str, passages: Sequence[str]) -> Messages:
        """Asks `question` over `passages` in context order, numbered from [1]."""
        context = "\n".join(f"[{n}] {neutralise(passage)}" for n, passage in enumerate(passages, 1))
        return self._render("answer.txt", context=context, question=neutralise(question))

    def closed_book(self, question: str) -> Messages:
        """Asks `question` with no passage at all."""
        return self._render("closed_book.txt", question=neutralise(question))

    def generate(
        self, passage: str, focus: str, kind: Kind, second_passage: str | None = None
    ) -> Messages:
        """Asks for one pair of `kind` about the sentence `focus` of `passage` (REPLY_SCHEMA says the reply's form).

        Raises:
            ConfigError: the prompt set has no words for this kind.
        """
        if kind not in self.kinds:
            raise ConfigError(
                f"the prompt set '{self.name}' cannot write {kind} questions: {self._can_write()}"
            )
        one_line = " ".join(neutralise(focus).split())
        values = {"passage": neutralise(passage), "focus": one_line, "kind": self.kinds[kind]}
        if kind == "multi_hop":
            return self._render(
                "generate_multi_hop.txt", **values, second_passage=neutralise(second_passage or "")
            )
        return self._render("generate.txt", **values)

    def _can_write(self) -> str:
        return f"it writes {', '.join(self.kinds)}; set the others to 0 in generate.kinds or choose another llm.prompts"

    def _render(self, file: str, **values: str) -> Messages:
        values |= {"abstain": self.abstain, "examples": self.examples}
        return ({"role": "user", "content": _fill(self.texts[file], values)},)


def load_prompts(name_or_folder: str | Path, abstain: str, examples: Path | None = None) -> Prompts:
    """A built-in prompt set by name (full, compact), or a folder with the same files.

    `examples` is a jsonl file of few-shot pairs {passage, kind, evidence, question, answer} for `generate`.

    Raises:
        ConfigError: no such set, a file or slot is missing, or the set has no place for examples.
        DataError: the examples file is unreadable or a line of it lacks a key.
    """
    folder = BUILT_IN / str(name_or_folder)
    if not folder.is_dir():
        folder = Path(name_or_folder)
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in BUILT_IN.iterdir() if path.is_dir()))
        raise ConfigError(
            f"no prompt set or folder '{name_or_folder}': set llm.prompts to one of {known}, or a folder"
        )
    kinds = _read_kinds(folder / "kinds.txt", abstain)
    optional = {"generate_multi_hop.txt"} if "multi_hop" not in kinds else set()
    texts = {
        file: _read_text(folder / file, slots)
        for file, slots in SLOTS.items()
        if file not in optional
    }
    prompts = Prompts(str(name_or_folder), texts, kinds, abstain)
    if examples is None:
        return prompts
    if "{examples}" not in texts["generate.txt"]:
        raise ConfigError(
            f"the prompt set '{name_or_folder}' has no place for examples: remove generate.advanced.examples"
        )
    return replace(prompts, examples=_read_examples(examples))


def quoting(quote: str, answer: str) -> str:
    """A reply that quotes a passage before it answers; `parse_answer` takes the quote away."""
    return f"<quote>{' '.join(neutralise(quote).split())}</quote> {answer}"


def parse_answer(text: str, num_passages: int) -> tuple[str, tuple[int, ...]]:
    """(answer, cited passage numbers) of a reply such as "Ola Brand [2]": marks that name a shown passage go, and a
    quote at the beginning (see `quoting`). A reply that was cut off in its quote is no answer: "".

    Numbers are from 1, each once, in order of appearance; a mark such as [1998] that names no passage stays text.
    """
    cited: list[int] = []

    def take(match: re.Match[str]) -> str:
        numbers = [int(n) for n in match[1].split(",")]
        if not all(1 <= n <= num_passages for n in numbers):
            return match[0]
        cited.extend(n for n in numbers if n not in cited)
        return ""

    if quote := _QUOTE.match(text):
        text = text[quote.end() :]
    return _CITATION.sub(take, text).strip(), tuple(dict.fromkeys(cited))


def is_abstention(text: str, abstain: str) -> bool:
    """Whether a reply is the abstain sentence, whatever its case, quotes and punctuation, or begins with it."""
    said, sentence = _plain(text), _plain(abstain)
    return said == sentence or said.startswith(sentence + " ")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", text.replace("’", "'")).casefold().split())


def _fill(template: str, values: dict[str, str]) -> str:
    """One pass over the template, so that a `{question}` inside a passage is never filled."""
    return _SLOT.sub(lambda match: values.get(match[1], match[0]), template)


def _read_text(path: Path, slots: frozenset[str]) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the prompt {path}: {error}") from error
    missing = sorted(slots - set(_SLOT.findall(text)))
    if missing:
        raise ConfigError(f"the prompt {path} lacks the slot {{{missing[0]}}}: add it")
    return text


def _read_kinds(path: Path, abstain: str) -> dict[str, str]:
    """kinds.txt: `kind: words for the {kind} slot`, a line each."""
    kinds: dict[str, str] = {}
    for line in _read_text(path, frozenset()).splitlines():
        kind, colon, words = line.partition(":")
        if not colon or kind not in KINDS:
            raise ConfigError(
                f"{path}: '{line[:40]}' is not 'kind: words' with one of the kinds {', '.join(KINDS)}"
            )
        kinds[kind] = _fill(words.strip(), {"abstain": abstain})
    return kinds


def _user_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, JSON value) of a file that a person wrote: a byte-order mark, empty lines and a last line without
    its newline are no matter. Raises DataError where a line cannot be read."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the examples {path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        try:
            if text := line.decode("utf-8-sig").strip():
                yield number, encodable(json.loads(text))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} line {number} is not UTF-8: save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from error


def _read_examples(path: Path) -> str:
    """The few-shot part of the prompt: it stands before the passage, so that all requests share it as a prefix."""
    blocks = []
    for number, row in _user_rows(path):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), str) for key in EXAMPLE_KEYS
        ):
            raise DataError(f"{path} line {number} must hold the strings {', '.join(EXAMPLE_KEYS)}")
        reply = json.dumps({key: row[key] for key in EXAMPLE_KEYS[2:]}, ensure_ascii=False)
        blocks.append(
            f"Example ({row['kind']}):\n<passage>\n{neutralise(row['passage'])}\n</passage>\n{reply}\n"
        )
    return "\n" + "\n".join(blocks)
