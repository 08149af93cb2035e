"""A question that is understood alone, from a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rag_ft.llm.interface import Messages
from rag_ft.text import content_words, neutralise

MAX_TURNS = 6
MAX_TURN_CHARACTERS = 600
MAX_TOKENS = 96
# A reply that is much longer than a question is an answer, or noise.
MAX_CHARACTERS = 500

PROMPT = """\
Below are a conversation and its last question. Rewrite the last question so that it can be \
understood without the conversation: put what "it", "they", "that one" and the like stand for in \
their place. Keep its meaning and its language, and do not answer it. Reply with the rewritten \
question and nothing else.

<conversation>
{conversation}
</conversation>

Last question: {question}"""


class Turn(NamedTuple):
    """One message of a chat; `role` is user or assistant."""

    role: str
    text: str


def rewrite_prompt(history: Sequence[Turn], question: str) -> Messages:
    """The messages that ask for `question` without its need of `history` (the turns before it)."""
    lines = [
        f"{turn.role}: {' '.join(neutralise(turn.text).split())[:MAX_TURN_CHARACTERS]}"
        for turn in history[-MAX_TURNS:]
    ]
    content = PROMPT.format(conversation="\n".join(lines), question=neutralise(question))
    return ({"role": "user", "content": content},)


def rewritten(reply: str, history: Sequence[Turn], question: str, abstained: bool) -> str:
    """The question in a reply to `rewrite_prompt`; `question` where the reply is of no use: it is
    empty, an abstention, too long, or brings up a subject that the conversation does not have."""
    line = next((line.strip() for line in reply.splitlines() if line.strip()), "").strip('"')
    if not line or abstained or len(line) > MAX_CHARACTERS:
        return question
    said = content_words(" ".join([question, *(turn.text for turn in history)]))
    new = content_words(line)
    # Mostly words of the conversation: else the model made a question, or an answer, of its own.
    return line if len(new & said) * 2 >= len(new) else question
