"""Prompt sets: folders of text files, from which every prompt to a language model is rendered.

The same code renders the prompts for generation, training, evaluation and serving, so that they
stay equal. A prompt is one user message. There is no system message, because several chat templates
reject or ignore it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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

# The form of the reply to a `generate` prompt. The order of the keys makes the model quote the
# evidence before it asks.
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

_SLOT = re.compile(rf"\{{({'|'.join(sorted(OPTIONAL_SLOTS.union(*SLOTS.values())))})\}}")
# No passage contains these tags: `neutralise` escapes them.
_QUOTE = re.compile(r".*</quote>|\s*<quote>.*", re.DOTALL)
_CITATION = re.compile(r"\s*\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")


@dataclass(frozen=True)
class Prompts:
    """One prompt set.

    `texts` are the templates by file name; `kinds` maps each kind that the set can write to the
    words that fill the `{kind}` slot; `examples` is the few-shot part of `generate`, "" for none.
    """

    name: str
    texts: dict[str, str]
    kinds: dict[str, str]
    abstain: str
    examples: str = ""

    @cached_property
    def hash(self) -> str:
        """Changes with every byte of the set."""
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
        """Asks for one pair of `kind` about the sentence `focus` of `passage`.

        REPLY_SCHEMA is the form of the reply. Only multi_hop uses `second_passage`.

        Raises:
            ConfigError: the prompt set has no words for this kind.
        """
        if kind not in self.kinds:
            raise ConfigError(
                f"the prompt set '{self.name}' cannot write {kind} questions: it writes "
                f"{', '.join(self.kinds)}; set the others to 0 in generate.kinds or choose another "
                "llm.prompts"
            )
        # A heading or table cell may have line breaks; the focus is one line of the prompt.
        one_line = " ".join(neutralise(focus).split())
        values = {"passage": neutralise(passage), "focus": one_line, "kind": self.kinds[kind]}
        if kind == "multi_hop":
            return self._render(
                "generate_multi_hop.txt", **values, second_passage=neutralise(second_passage or "")
            )
        return self._render("generate.txt", **values)

    def _render(self, file: str, **values: str) -> Messages:
        values |= {"abstain": self.abstain, "examples": self.examples}
        return ({"role": "user", "content": _fill(self.texts[file], values)},)


def load_prompts(name_or_folder: str | Path, abstain: str, examples: Path | None = None) -> Prompts:
    """Reads a built-in prompt set (full, compact), or a folder with the same files.

    Args:
        name_or_folder: `llm.prompts`.
        abstain: the sentence that says that the documents contain no answer.
        examples: a jsonl file of few-shot pairs {passage, kind, evidence, question, answer} for
            `generate`.

    Raises:
        ConfigError: no such set, a file or slot is missing, or the set has no slot for examples.
        DataError: the examples file is unreadable or a line of it lacks a key.
    """
    folder = BUILT_IN / str(name_or_folder)
    if not folder.is_dir():
        folder = Path(name_or_folder)
    if not folder.is_dir():
        known = ", ".join(sorted(path.parent.name for path in BUILT_IN.glob("*/kinds.txt")))
        raise ConfigError(
            f"no prompt set or folder '{name_or_folder}': set llm.prompts to one of {known}, or to "
            "a folder"
        )
    # kinds.txt has one `kind: words for the {kind} slot` per line.
    kinds: dict[str, str] = {}
    for line in _read_text(folder / "kinds.txt", frozenset()).splitlines():
        kind, colon, words = line.partition(":")
        if not colon or kind not in KINDS:
            raise ConfigError(
                f"{folder / 'kinds.txt'}: '{line[:40]}' is not 'kind: words' with one of the kinds "
                f"{', '.join(KINDS)}"
            )
        kinds[kind] = _fill(words.strip(), {"abstain": abstain})
    texts = {}
    for file, slots in SLOTS.items():
        # Only a set that writes multi_hop questions needs their prompt.
        if file != "generate_multi_hop.txt" or "multi_hop" in kinds:
            texts[file] = _read_text(folder / file, slots)
    prompts = Prompts(str(name_or_folder), texts, kinds, abstain)
    if examples is None:
        return prompts
    if "{examples}" not in texts["generate.txt"]:
        raise ConfigError(
            f"the prompt set '{name_or_folder}' has no place for examples: remove "
            "generate.advanced.examples"
        )
    return replace(prompts, examples=_read_examples(examples))


def quoting(quote: str, answer: str) -> str:
    """A reply that quotes a passage before the answer; `parse_answer` removes the quote."""
    return f"<quote>{' '.join(neutralise(quote).split())}</quote> {answer}"


def parse_answer(text: str, num_passages: int) -> tuple[str, tuple[int, ...]]:
    """(answer, cited passage numbers) of a reply such as "Ola Brand [2]".

    The answer is the reply without its citations and without a quote at its beginning (see
    `quoting`). If the reply was cut off inside its quote, the answer is "".

    Args:
        text: the reply.
        num_passages: how many passages the prompt shows. Their numbers count from 1; a mark such as
            [1998] that is no such number stays in the answer.

    Returns:
        Each cited number once, in the order of the reply.
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
    """Whether a reply is or begins with the abstain sentence; case and punctuation are ignored."""
    said, sentence = _plain(text), _plain(abstain)
    return said == sentence or said.startswith(sentence + " ")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", "", text.replace("’", "'")).casefold().split())


def _fill(template: str, values: dict[str, str]) -> str:
    """Fills the slots in a single pass, so that a `{question}` inside a passage stays text."""
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


def _read_examples(path: Path) -> str:
    """The few-shot part of the prompt. It precedes the passage, so that all requests share it as a
    prefix."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the examples {path}: {error.strerror or error}") from error
    blocks = []
    for number, line in enumerate(lines, 1):
        # A person's editor may leave a byte-order mark and empty lines.
        try:
            text = line.decode("utf-8-sig").strip()
            row = encodable(json.loads(text)) if text else None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} line {number} is not UTF-8: save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} line {number} is not JSON: {error}") from error
        if not text:
            continue
        if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in EXAMPLE_KEYS):
            raise DataError(f"{path} line {number} must hold the strings {', '.join(EXAMPLE_KEYS)}")
        reply = json.dumps({key: row[key] for key in EXAMPLE_KEYS[2:]}, ensure_ascii=False)
        passage = f"<passage>\n{neutralise(row['passage'])}\n</passage>"
        blocks.append(f"Example ({row['kind']}):\n{passage}\n{reply}\n")
    return "\n" + "\n".join(blocks)
