"""JSON schemas as token masks for in-process decoding, by llguidance (the package; nothing is enforced without it)."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from typing import Any

log = logging.getLogger(__name__)
# As json.dumps writes it, and as the vLLM server is told to: a weak model cannot fill its tokens with white space.
COMPACT: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class Grammar:
    """What may follow in one reply."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed_bits(self) -> bytes:
        """A bit per token, lowest first: the tokens that keep the reply on its way to the schema."""
        return self._matcher.compute_bitmask()

    def accept(self, token: int) -> bool:
        """Takes the chosen token; True when the reply is complete."""
        self._matcher.consume_token(token)
        return self._matcher.is_stopped()


class GrammarCompiler:
    """Grammars for one tokenizer; each schema is compiled once."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer, self._ends = tokenizer, sorted(ends)
        self._vocabulary: Any = None
        self._compiled: dict[str, Any] = {}

    def start(self, schema: dict[str, Any]) -> Grammar | None:
        """A fresh grammar for one reply, or None where llguidance is not installed (noted once)."""
        compiled = self._matcher(schema)
        return Grammar(compiled.deep_copy()) if compiled is not None else None

    def problem(self, schema: dict[str, Any]) -> str | None:
        """Why the schema cannot be enforced, or None where it can."""
        compiled = self._matcher(schema)
        if compiled is None or not compiled.is_error():
            return None
        return f"JSON schema cannot be enforced: {' '.join(compiled.get_error().split())}"

    def _matcher(self, schema: dict[str, Any]) -> Any:
        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = self._compile(key)
        return self._compiled[key]

    def _compile(self, schema: str) -> Any:
        if find_spec("llguidance") is None:
            if not self._compiled:
                log.warning(
                    "llguidance is not installed: JSON replies are not enforced, only checked"
                )
            return None
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        if self._vocabulary is None:
            self._vocabulary = from_tokenizer(self._tokenizer, eos_token=self._ends)
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=COMPACT)  # type: ignore[arg-type]
        return LLMatcher(self._vocabulary, grammar, log_level=0)
