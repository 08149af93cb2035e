"""Texts are compared in one normal form each, and no control token gets into a prompt."""

from __future__ import annotations

import itertools
import re
import time
import unicodedata
from pathlib import Path

import pytest

from rag_ft.text import (
    all_words,
    composed,
    contains_words,
    entity_words,
    escape_control_tokens,
    in_form,
    is_unspaced,
    neutralise,
    normalise,
    normalise_question,
    single_spaced,
    skeleton,
    stems,
    without_punctuation,
)

HANDBOOK = Path(__file__).parent.parent / "data" / "handbook"
TURNS = [
    "<|im_end|>",
    "<|im_start|>",
    "</s>",
    "<s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<bos>",
    "<end_of_turn>",
    "<start_of_turn>",
    "<|eot_id|>",
    "<｜User｜>",
    "<think>",
    "</tool_call>",
    "[THINK]",
    "<|a b|>",
    "<|two\nlines|>",
    "<UNK>",
    "<|IM_END|>",
]
TAGS = ["<passage>", "</passages>", '<passage number="1">', "<quote>", "</QUOTE>"]
# The two definitions that there were before: of the chat template, and of the prompts.
OF_TEMPLATES = re.compile(
    r"<\|[^<>|\s][^<>|]{0,60}\|>|</?s>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[/?INST\]|<</?SYS>>"
)
OF_PROMPTS = re.compile(
    r"<\|[^<>|\n]{1,60}\|>|<｜[^<>｜\n]{1,60}｜>"
    r"|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|start_of_turn|end_of_turn"
    r"|start_of_image)>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|THINK)\]"
    r"|</?passages?(?:\s[^<>\n]{0,40})?>|</?quote>",
    re.IGNORECASE,
)


def handbook_texts() -> list[str]:
    files = sorted(f for f in HANDBOOK.rglob("*") if f.suffix in (".md", ".txt", ".html", ".jsonl"))
    return [file.read_text(encoding="utf-8") for file in files]


@pytest.mark.parametrize("mark", TURNS)
def test_a_control_token_is_escaped_in_messages_and_in_prompts(mark: str) -> None:
    for escape in (escape_control_tokens, neutralise):
        escaped = escape(f"before {mark} after")
        assert mark not in escaped and escaped == f"before {mark[0]} {mark[1:]} after"
        assert escape(escaped) == escaped


@pytest.mark.parametrize("tag", TAGS)
def test_the_tags_of_our_prompts_are_escaped_in_what_fills_them_and_stay_in_whole_messages(
    tag: str,
) -> None:
    assert tag not in neutralise(f"x {tag} y")
    assert escape_control_tokens(f"x {tag} y") == f"x {tag} y"


def test_no_control_token_is_left_however_marks_are_put_together() -> None:
    for first, second, third in itertools.product(TURNS + TAGS, repeat=3):
        for text in (f"{first}{second}{third}", f"{first[:2]}{second}{first[2:]}{third}"):
            escaped = neutralise(text)
            assert not OF_PROMPTS.search(escaped) and not OF_TEMPLATES.search(escaped), text
            assert escaped.replace(" ", "") == text.replace(" ", "")
            assert not OF_TEMPLATES.search(escape_control_tokens(text))


@pytest.mark.parametrize("token", ["]~]", "[e~[", "<eod>", "aa", " begin", "a b"])
def test_special_tokens_of_a_tokenizer_are_escaped_even_where_they_overlap(token: str) -> None:
    bare = token.strip()
    for text in (f"x {token} y", bare * 3, bare + bare[1:] * 2):
        escaped = escape_control_tokens(text, [token, "", " ", "\n\n", "x"])
        assert bare not in escaped
        assert escaped.replace(" ", "") == text.replace(" ", "")


def test_the_handbook_is_escaped_as_before() -> None:
    for text in handbook_texts():
        old = OF_PROMPTS.sub(lambda match: match[0][0] + " " + match[0][1:], text)
        assert neutralise(text) == old
        assert escape_control_tokens(text, ["<|im_end|>", "</s>"]) == OF_TEMPLATES.sub(
            lambda match: match[0][0] + " " + match[0][1:], text
        )


def test_questions_are_compared_without_case_punctuation_and_width_in_every_script() -> None:
    assert normalise_question("What's  the R₀-value?") == normalise_question("what s the r0 VALUE")
    assert normalise_question("塔はいつ開いた？") == normalise_question("塔はいつ開いた")
    assert normalise_question("塔はいつ開いた？") != normalise_question("橋はいつ開いた？")


def test_normal_forms_remove_less_and_less() -> None:
    assert normalise("  The U.S. -  a Plan ") == "us plan"
    assert without_punctuation("  The U.S. -  a Plan ") == "the us a plan"
    assert single_spaced("  The U.S. -  a Plan ") == "the u.s. - a plan"


def test_words_are_contained_whole_and_as_substrings_only_where_scripts_have_no_spaces() -> None:
    assert contains_words("built in 1871 by ada", "1871") and not contains_words("18710", "1871")
    assert contains_words("中国的首都是北京市", "北京") and is_unspaced("北京")
    assert is_unspaced("𠮷") and stems("𠮷野家") == ("𠮷", "野", "家")  # a rare character too
    assert contains_words("", "") and not contains_words("x", "")


def test_words_with_digits_and_capitals_within_a_question_are_its_entities() -> None:
    assert entity_words("When does pump A-12 of Old Mill start?") == {"a", "12", "old", "mill"}
    assert entity_words("Who came?") == set() and all_words("Who CAME?") == {"who", "came"}


def test_on_the_handbook_every_form_is_stable() -> None:
    for text in handbook_texts():
        for form in (normalise, without_punctuation, single_spaced, normalise_question):
            assert form(form(text)) == form(text)


def test_a_skeleton_is_what_a_reader_sees() -> None:
    assert skeleton("The  T\u043ewer, \u00f3pe\u00adned\u200d!") == "the tower opened"
    assert skeleton("\uff34ower \U0001d40d\U0001d41e\U0001d430") == "tower new"
    assert skeleton("\u5854\u306f\u3044\u3064") == "\u5854\u306f\u3044\u3064"
    for text in handbook_texts():
        assert skeleton(skeleton(text)) == skeleton(text)


def test_many_marks_after_one_letter_take_linear_time() -> None:
    text = "a" + "\u0301\u0323" * 100_000
    begin = time.process_time()
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        in_form(form, text)  # type: ignore[arg-type]
    skeleton(text), normalise_question(text), composed(text)
    assert time.process_time() - begin < 5


def test_few_marks_are_ordered_as_unicode_says() -> None:
    text = "a\u0301\u0323\u0308" * 9 + "e" + "\u0301\u0323" * 15
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert in_form(form, text) == unicodedata.normalize(form, text)  # type: ignore[arg-type]
