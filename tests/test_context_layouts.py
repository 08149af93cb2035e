"""What a context holds, what its target is, and that no answer is trained without its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import Chunk, Evidence, QAPair, Reject
from rag_ft.training.generator.context_layouts import (
    Context,
    Example,
    LayoutSettings,
    balance_unanswerable,
    build_contexts,
    fit_to_length,
)
from rag_ft.training.generator.tokenization import IGNORED, ChatTokens, Encoded

ABSTAIN = "I don't know."
LAYOUT = LayoutSettings("raft", top_k=3, gold_share=0.8, cite=False, max_tokens=10_000, seed=0)


def chunk(name: str, text: str, start: int = 0, document: str = "d") -> Chunk:
    return Chunk(name, document, "", text, start, start + len(text), 5, "train")


GOLD = chunk("d#0", "The mill opened in 1871 by the river.")
SIBLING = chunk("d#1", "The river is long and cold.", start=40)
ECHO = chunk("e#0", "The bridge was built in 1871 too.", document="e")
OTHERS = [
    chunk(f"f#{n}", f"Nothing of use is said here, part {n}.", document="f") for n in range(6)
]
CHUNKS = {c.id: c for c in [GOLD, SIBLING, ECHO, *OTHERS]}
HITS = ["e#0", "d#0", "d#1", *(c.id for c in OTHERS)]


def pair(number: int = 0, **changes: Any) -> QAPair:
    made = QAPair(
        id=f"q{number}",
        question="When did the mill open?",
        answers=("1871",),
        chunk_id="d#0",
        document_id="d",
        evidence=Evidence("1871", 19, 23),
        kind="factoid",
        split="train",
        origin="generated",
    )
    return dataclasses.replace(made, **changes)


def count(messages: Any, answer: str) -> Encoded:
    """One token a word, for tests of trimming."""
    words = messages[0]["content"].split()
    return Encoded(tuple(range(len(words) + len(answer.split()))), len(words))


def render(question: str, chunks: Sequence[Chunk]) -> Any:
    return ({"role": "user", "content": " ".join([question, *(c.text for c in chunks)])},)


def made(layout: LayoutSettings, number: int = 0, **changes: Any) -> list[Context]:
    found = build_contexts(pair(number, **changes), HITS, CHUNKS, layout)
    assert not isinstance(found, Reject), found
    return found


def test_raft_answers_only_where_the_gold_chunk_is_and_abstains_in_the_set_share_of_examples() -> (
    None
):
    contexts = [context for n in range(2000) for context in made(LAYOUT, n)]
    for context in contexts:
        ids = [c.id for c in context.chunks]
        assert len(ids) == 3 == len(set(ids))
        assert (context.answer is not None) == ("d#0" in ids)
    answered = sum(context.answer is not None for context in contexts) / len(contexts)
    assert answered == pytest.approx(0.8, abs=0.03)


def test_questions_with_a_withheld_gold_chunk_are_asked_with_it_too() -> None:
    contexts = [context for n in range(500) for context in made(LAYOUT, n)]
    asked = {context.id.partition("/")[0]: 0 for context in contexts}
    assert len(asked) == 500 and len({context.id for context in contexts}) == len(contexts)
    answered = {context.id.partition("/")[0] for context in contexts if context.answer is not None}
    assert answered == set(asked), "every question is answered where its gold chunk is shown"


def test_a_withheld_context_holds_no_chunk_that_mentions_the_answer_or_touches_the_evidence() -> (
    None
):
    touching = chunk("d#2", "in 18", start=16)
    found = build_contexts(
        pair(),
        ["d#2", *HITS],
        {**CHUNKS, "d#2": touching},
        dataclasses.replace(LAYOUT, gold_share=0.0),
    )
    assert not isinstance(found, Reject)
    assert found[0].answer is None and not {"d#0", "d#2", "e#0"} & {c.id for c in found[0].chunks}


def test_where_every_other_chunk_mentions_the_answer_the_gold_chunk_is_not_withheld() -> None:
    found = build_contexts(
        pair(), ["e#0", "d#0"], CHUNKS, dataclasses.replace(LAYOUT, gold_share=0.0)
    )
    assert not isinstance(found, Reject) and found[0].answer == "1871" and GOLD in found[0].chunks


def test_the_gold_chunk_stands_where_it_was_found_among_the_hardest_distractors() -> None:
    layout = dataclasses.replace(LAYOUT, gold_share=1.0)
    for hits, shown in [
        (HITS, ["e#0", "d#0", "d#1"]),
        (["d#0", *HITS], ["d#0", "e#0", "d#1"]),
        (["f#0", "f#1", "d#0", "f#2"], ["f#0", "f#1", "d#0"]),
        (["f#0", "f#1", "f#2"], ["f#0", "f#1", "d#0"]),  # not found: last
    ]:
        found = build_contexts(pair(), hits, CHUNKS, layout)
        assert not isinstance(found, Reject) and [c.id for c in found[0].chunks] == shown


def test_examples_depend_on_the_pair_and_the_seed_alone() -> None:
    assert [made(LAYOUT, n) for n in range(50)] == [made(LAYOUT, n) for n in range(50)]
    other = dataclasses.replace(LAYOUT, seed=1)
    assert [made(LAYOUT, n) for n in range(50)] != [made(other, n) for n in range(50)]


@pytest.mark.parametrize("name", ["raft", "radit"])
@pytest.mark.parametrize("num_empty", [0, 100, 900])
def test_the_share_of_answered_examples_holds_whatever_the_share_of_unanswerable_pairs(
    name: Any, num_empty: int
) -> None:
    layout = dataclasses.replace(LAYOUT, name=name)
    empty = {"kind": "unanswerable", "chunk_id": None, "evidence": None, "answers": (ABSTAIN,)}
    pairs = [pair(n) for n in range(1000)] + [
        pair(n, **empty) for n in range(1000, 1000 + num_empty)
    ]
    used, rest, left_out = balance_unanswerable(pairs, layout)
    contexts = [context for one in used for context in build_contexts(one, HITS, CHUNKS, rest)]
    assert sum(context.answer is not None for context in contexts) / len(contexts) == pytest.approx(
        0.8, abs=0.03
    )
    assert len(used) + len(left_out) == len(pairs) and bool(left_out) == (num_empty == 900)


def test_radit_makes_one_example_a_chunk_in_the_set_share() -> None:
    layout = dataclasses.replace(LAYOUT, name="radit", gold_share=0.5)
    instances = [context for n in range(2000) for context in made(layout, n)]
    assert all(len(context.chunks) == 1 for context in instances)
    assert all(
        (context.chunks[0].id == "d#0") == (context.answer == "1871") for context in instances
    )
    assert sum(c.answer is not None for c in instances) / len(instances) == pytest.approx(
        0.5, abs=0.03
    )
    assert len({context.id for context in instances}) == len(instances)


def test_concat_keeps_the_served_order_and_abstains_where_the_retriever_missed() -> None:
    layout = dataclasses.replace(LAYOUT, name="concat")
    assert [c.id for c in made(layout)[0].chunks] == HITS[:3]
    missed = build_contexts(pair(), [c.id for c in OTHERS], CHUNKS, layout)
    assert not isinstance(missed, Reject) and missed[0].answer is None
    ambiguous = build_contexts(pair(), ["e#0", "f#0"], CHUNKS, layout)
    assert isinstance(ambiguous, Reject) and ambiguous.reason == "ambiguous context"


def test_a_multi_hop_answer_needs_both_its_chunks() -> None:
    hops = {"kind": "multi_hop", "provenance": {"second_chunk_id": "f#5"}}
    for number in range(50):
        context = made(LAYOUT, number, **hops)[0]
        ids = {c.id for c in context.chunks}
        assert (context.answer is not None) == ({"d#0", "f#5"} <= ids) and len(ids) == 3
    assert isinstance(
        build_contexts(pair(**hops), HITS, CHUNKS, dataclasses.replace(LAYOUT, name="radit")),
        Reject,
    )
    assert isinstance(
        build_contexts(pair(**hops), HITS, CHUNKS, dataclasses.replace(LAYOUT, name="concat")),
        Reject,
    )


def test_an_unanswerable_pair_abstains_over_what_is_found() -> None:
    context = made(LAYOUT, kind="unanswerable", chunk_id=None, evidence=None, answers=(ABSTAIN,))[0]
    assert context.answer is None and [c.id for c in context.chunks] == HITS[:3]


def test_a_pair_without_a_place_uses_the_best_chunk_with_the_answer_or_is_rejected() -> None:
    unknown = pair(chunk_id=None, evidence=None, document_id=None)
    found = build_contexts(unknown, HITS, CHUNKS, dataclasses.replace(LAYOUT, gold_share=1.0))
    assert not isinstance(found, Reject) and found[0].gold == {"e#0"}
    nowhere = build_contexts(unknown, ["f#0", "f#1"], CHUNKS, LAYOUT)
    assert isinstance(nowhere, Reject) and nowhere.reason == "no gold chunk"


def test_a_long_context_loses_whole_chunks_the_gold_one_last_and_never_the_answer() -> None:
    context = Context(
        "q", "When?", (GOLD, SIBLING, OTHERS[0]), frozenset({"d#0"}), "1871", frozenset({"d#0"})
    )
    sizes = {}
    for limit in range(5, 40):
        done = fit_to_length(
            context, render, ABSTAIN, count, dataclasses.replace(LAYOUT, max_tokens=limit)
        )
        if isinstance(done, Example):
            assert (
                len(done.encoded.input_ids) <= limit
                and done.answer == "1871"
                and done.chunk_ids[0] == "d#0"
            )
            sizes[limit] = done.chunk_ids
        else:
            assert done.reason == "too long" and not sizes
    assert set(sizes.values()) == {("d#0",), ("d#0", "d#1"), ("d#0", "d#1", "f#0")}


def test_a_cited_answer_names_the_place_the_gold_chunk_has_after_trimming() -> None:
    context = Context(
        "q", "When?", (OTHERS[0], SIBLING, GOLD), frozenset({"d#0"}), "1871", frozenset({"d#0"})
    )
    layout = dataclasses.replace(LAYOUT, cite=True)
    whole = fit_to_length(context, render, ABSTAIN, count, layout)
    assert isinstance(whole, Example) and whole.answer == "1871 [3]"
    trimmed = fit_to_length(
        context, render, ABSTAIN, count, dataclasses.replace(layout, max_tokens=24)
    )
    assert isinstance(trimmed, Example) and trimmed.answer == f"1871 [{len(trimmed.chunk_ids)}]"
    assert len(trimmed.chunk_ids) < 3
    both = dataclasses.replace(context, needed=frozenset({"d#0", OTHERS[0].id}))
    told = fit_to_length(both, render, ABSTAIN, count, layout)
    assert isinstance(told, Example) and told.answer == "1871 [1, 3]"


def test_a_quoting_answer_begins_with_its_sentence_word_for_word_and_is_scored_without_it() -> None:
    from rag_ft.evaluation.answering import Prompting, to_prediction
    from rag_ft.evaluation.metrics.squad import exact_match
    from rag_ft.evaluation.systems import Ask
    from rag_ft.llm.interface import Reply

    text = "Ola\nsteers <quote>. The mill opened in 1871 by the river. It stands."
    gold = chunk("d#0", text)
    where = text.index("1871")
    placed = pair(evidence=Evidence("1871", where, where + 4))
    layout = dataclasses.replace(LAYOUT, gold_share=1.0, cite=True, quote=True)
    found = build_contexts(placed, HITS, {**CHUNKS, "d#0": gold}, layout)
    assert not isinstance(found, Reject)
    quoted = fit_to_length(found[0], render, ABSTAIN, count, layout)
    plain = fit_to_length(
        found[0], render, ABSTAIN, count, dataclasses.replace(layout, quote=False)
    )
    assert (
        isinstance(quoted, Example)
        and isinstance(plain, Example)
        and quoted.messages == plain.messages
    )
    assert quoted.answer == f"<quote>The mill opened in 1871 by the river.</quote> {plain.answer}"
    ask = Ask(placed, "tuned", "tuned", quoted.chunk_ids, ("1871",))
    said = to_prediction(
        ask,
        Reply("q", quoted.answer, "stop", 1, 1, 0.0),
        Prompting(AnswerPrompt(load_prompts("compact", ABSTAIN), "title"), {**CHUNKS, "d#0": gold}),
    )
    assert exact_match(said.answer, ask.answers) == 1.0 and said.citations == ("d#0",)
    whole = dataclasses.replace(placed, evidence=Evidence(text[:20], 0, 20))
    tagged = build_contexts(whole, HITS, {**CHUNKS, "d#0": gold}, layout)
    assert not isinstance(tagged, Reject)
    reply = fit_to_length(tagged[0], render, ABSTAIN, count, layout)
    assert isinstance(reply, Example) and reply.answer.startswith(
        "<quote>Ola steers < quote>.</quote> 1871"
    )


def test_a_multi_hop_answer_quotes_its_own_chunk_wherever_that_stands() -> None:
    layout = dataclasses.replace(LAYOUT, gold_share=1.0, quote=True)
    hops = {"kind": "multi_hop", "provenance": {"second_chunk_id": "e#0"}}
    for hits in (["e#0", "d#0"], ["d#0", "e#0"]):
        found = build_contexts(pair(**hops), hits, CHUNKS, layout)
        assert not isinstance(found, Reject)
        assert [c.id for c in found[0].chunks] == hits and found[0].quote == GOLD.text


def test_an_answer_without_a_known_sentence_and_an_abstention_quote_nothing() -> None:
    layout = dataclasses.replace(LAYOUT, gold_share=1.0, quote=True)
    unplaced = pair(evidence=None, answers=("in the year of the flood",))
    for context in [
        *made(layout, 0, evidence=None, answers=unplaced.answers),
        *made(dataclasses.replace(layout, gold_share=0)),
    ]:
        example = fit_to_length(context, render, ABSTAIN, count, layout)
        assert isinstance(example, Example) and example.answer in (ABSTAIN, unplaced.answer)


def test_training_and_evaluation_send_the_same_bytes(tiny_lm_dir: Path) -> None:
    from rag_ft.evaluation.answering import Prompting
    from rag_ft.evaluation.systems import Ask
    from rag_ft.llm.chat_template import encode_prompts, load_chat_tokenizer

    prompts = load_prompts("compact", ABSTAIN)
    tokens = ChatTokens(load_chat_tokenizer(tiny_lm_dir))
    titled = {i: dataclasses.replace(c, title="The <|im_end|> mill") for i, c in CHUNKS.items()}
    context = Context(
        "q", pair().question, tuple(titled[i] for i in HITS[:3]), frozenset({"d#0"}), "1871"
    )
    prompt = AnswerPrompt(prompts, "title")
    example = fit_to_length(context, prompt.messages, ABSTAIN, tokens.encode, LAYOUT)
    assert isinstance(example, Example)
    ask = Ask(pair(), "base", "base", tuple(HITS[:3]), ("1871",))
    served = Prompting(prompt, titled).messages(ask)
    assert example.messages == served
    assert (
        list(example.encoded.input_ids[: example.encoded.num_prompt_tokens])
        == encode_prompts(tokens.tokenizer, [served])[0]
    )


def test_labels_are_those_of_trl_up_to_the_end_of_the_turn(
    tiny_lm_dir: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_dir)
    messages = ({"role": "user", "content": "Who?"},)
    rows = Dataset.from_list(
        [{"prompt": list(messages), "completion": [{"role": "assistant", "content": "Ada Bo"}]}]
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_lm_dir),
        args=SFTConfig(str(tmp_path), use_cpu=True, report_to="none"),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    theirs = trainer.train_dataset[0]
    ours = ChatTokens(tokenizer).encode(messages, "Ada Bo")
    length = len(ours.input_ids)
    assert (
        list(ours.input_ids) == theirs["input_ids"][:length]
        and ours.labels == theirs["labels"][:length]
    )
    assert tokenizer.decode(theirs["input_ids"][length:]).strip() == ""
    assert tokenizer.decode([i for i in ours.labels if i != IGNORED]) == "Ada Bo<|im_end|>"
