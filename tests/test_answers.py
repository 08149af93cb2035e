"""Answer metrics against hand-computed values, SQuAD v2's official algorithm and rouge-score itself."""

from __future__ import annotations

import collections
import random
import re
import string
import subprocess
import sys

import pytest

from rag_ft.evaluation.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.evaluation.metrics.rouge import ROUGE, rouge
from rag_ft.evaluation.metrics.squad import contains, exact_match, token_f1
from rag_ft.text import content_words, normalise, stems

# --- SQuAD v2's official evaluation, written down independently of ours -------------------------------------------


def official_normalise(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", text).split())


def official_tokens(text: str) -> list[str]:
    return official_normalise(text).split() if text else []


def official_f1(gold: str, said: str) -> float:
    gold_tokens, said_tokens = official_tokens(gold), official_tokens(said)
    same = sum((collections.Counter(gold_tokens) & collections.Counter(said_tokens)).values())
    if not gold_tokens or not said_tokens:
        return float(gold_tokens == said_tokens)
    if same == 0:
        return 0.0
    precision, recall = same / len(said_tokens), same / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def official(said: str, answers: list[str]) -> tuple[float, float]:
    gold = [a for a in answers if official_normalise(a)] or [""]
    exact = max(float(official_normalise(a) == official_normalise(said)) for a in gold)
    return exact, max(official_f1(a, said) for a in gold)


EDGES = [
    "", " ", "the", "The", "a the an", "an apple", "a.m.", "A.M", "the the cat", "cat's", "cats", "U.S.", "US",
    "u. s.", "1,000", "1000", "1.5 %", "15", "$5", "it's", "its", "state-of-the-art", "state of the art", "theatre",
    "another", "co-operate", "(the) answer", "answer!", "\tanswer\n", "Ångström", "ANGSTRÖM", "café", "cafe",
    "naïve", "東京", "東京 都", "Москва", "москва", "İstanbul", "ß", "SS", "don’t", "don't", "“quoted”",
    "\"quoted\"", "a", "an", "x", "x y z", "z y x", "x x y", "y x x x", "…", "--", "rock & roll", "rock and roll",
    "the a", "8 a.m. to 5 p.m.", "8 am 5 pm", "vitamin A",
]  # fmt: skip


def test_em_and_f1_equal_the_official_script_on_edge_cases() -> None:
    rng = random.Random(0)
    words = [
        "the",
        "a",
        "cat",
        "cat,",
        "Dog",
        "DOG",
        "dog's",
        "an",
        "42",
        "4.2",
        "-",
        "é",
        "東京",
        "x",
    ]
    cases = [(said, [gold]) for said in EDGES for gold in EDGES]
    for _ in range(2000):
        texts = [
            " ".join(rng.choices(words, k=rng.randint(0, 6))) for _ in range(rng.randint(1, 4))
        ]
        cases.append((texts[0], texts[1:]))
    emptied = [gold for gold in EDGES if gold.strip() and not official_normalise(gold)]
    assert emptied == [
        "the",
        "The",
        "a the an",
        "a",
        "an",
        "--",
        "the a",
    ]  # what the official script cannot tell apart
    for said, answers in cases:
        if any(gold.strip() for gold in answers) and not any(
            official_normalise(gold) for gold in answers
        ):
            continue
        assert (exact_match(said, answers), token_f1(said, answers)) == pytest.approx(
            official(said, answers)
        ), (
            said,
            answers,
        )


def test_f1_of_a_hand_computed_pair() -> None:
    # said 3 tokens, gold 2, shared 2: precision 2/3, recall 1, F1 0.8
    assert token_f1("the old Ruth Falk", ["Ruth Falk"]) == pytest.approx(0.8)
    assert exact_match("ruth falk.", ["Karl Moen", "The Ruth Falk"]) == 1.0


def test_abstaining_is_right_only_where_there_is_nothing_to_answer() -> None:
    nothing_asked = score_answer("I don't know.", [], abstained=True)
    assert set(nothing_asked.values()) == {1.0}
    assert score_answer("Ruth Falk", [], abstained=False) == {**dict.fromkeys(nothing_asked, 0.0)}
    needless = score_answer("I don't know.", ["I don't know Ruth"], abstained=True)
    assert {k: v for k, v in needless.items() if v} == {"abstained": 1.0}


def test_an_empty_answer_counts_as_abstaining() -> None:
    assert score_answer("  ", [], abstained=False)["em"] == 1.0
    assert score_answer("", ["x"], abstained=False) == score_answer(
        "I don't know.", ["x"], abstained=True
    )


@pytest.mark.parametrize("answer", ["A", "The", "+", "%", "a.", "A the"])
def test_an_answer_that_squad_normalises_to_nothing_is_right_and_no_abstention(answer: str) -> None:
    found = score_answer(answer, [answer], abstained=False)
    assert (found["em"], found["f1"], found["contains"], found["abstained"]) == (1.0, 1.0, 1.0, 0.0)
    other = score_answer("an -", [answer], abstained=False)
    assert (other["em"], other["f1"], other["contains"], other["abstained"]) == (0.0, 0.0, 0.0, 0.0)
    assert score_answer(answer, [], abstained=False)["em"] == 0.0


def test_letters_and_signs_are_told_apart_in_the_mildest_form_needed() -> None:
    assert (
        exact_match("A.", ["a"]) == 1.0
    )  # punctuation still does not matter where a letter is left
    assert exact_match("A", ["The"]) == exact_match("+", ["-"]) == exact_match("", ["A"]) == 0.0
    assert token_f1("grade A", ["A"]) == pytest.approx(2 / 3)
    assert contains("It is A.", ["A"]) == contains("use the + sign", ["+"]) == 1.0
    assert exact_match("The", ["A", "Grade A"]) == 0.0


def test_containment_asks_for_whole_words() -> None:
    assert contains("It was built by Ruth Falk in 1712.", ["Ruth Falk"]) == 1.0
    assert contains("In 1712 and 15 months", ["5"]) == 0.0
    assert contains("他住在東京都", ["東京"]) == 1.0


# --- ROUGE --------------------------------------------------------------------------------------------------------


def test_rouge_equals_rouge_score_on_latin_text() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    rng, peer = random.Random(1), RougeScorer(list(ROUGE), use_stemmer=True)
    words = [
        "the",
        "ferries",
        "ferry",
        "runs",
        "running",
        "Oda",
        "to",
        "Vik",
        "at",
        "8:15",
        "daily",
        "x_y",
        "it's",
        "\n",
    ]
    for _ in range(500):
        said, gold = (" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(2))
        ours, theirs = rouge(said, [gold]), peer.score(gold, said)
        assert ours == pytest.approx({m: theirs[m].fmeasure for m in ROUGE}), (said, gold)


def test_rouge_takes_the_best_of_the_accepted_answers() -> None:
    assert rouge("Ruth Falk", ["Karl Moen", "Ruth Falk"]) == dict.fromkeys(ROUGE, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "東京都は日本の首都です",
        "Москва столица",
        "हिन्दी में लिखा हुआ",
        "القاهرة عاصمة مصر",
        "กรุงเทพมหานคร",
    ],
)
def test_text_of_other_scripts_is_scored_and_never_silently_zero(text: str) -> None:
    assert rouge(text, [text]) == dict.fromkeys(ROUGE, 1.0)
    assert 0 < rouge(text[: len(text) // 2 + 2], [text])["rouge1"] < 1


def test_stems_keep_words_with_marks_whole() -> None:
    assert stems("हिन्दी café Ferries") == ("हिन्दी", "café", "ferri")
    assert stems("東京 tower") == ("東", "京", "tower")


def test_importing_the_metrics_loads_neither_rouge_score_nor_torch() -> None:
    code = "import sys, rag_ft.evaluation.metrics.answers; print([m for m in ('nltk', 'rouge_score', 'torch') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


# --- grounding ----------------------------------------------------------------------------------------------------


def test_faithfulness_is_the_share_of_content_words_in_the_context() -> None:
    context = ["The mill was built by Ruth Falk.", "It ground rye."]
    assert faithfulness("Ruth Falk built the mill", context) == 1.0
    assert faithfulness("Karl Falk", context) == 0.5
    assert faithfulness("of the", context) is None
    assert faithfulness("Ruth", []) is None


def test_content_words_leave_out_function_words_and_inflection() -> None:
    assert content_words("What is the name of the ferries?") == content_words("name ferry")


def test_citations_are_scored_only_where_they_mean_something() -> None:
    assert citation_scores(["a", "b"], ["a", "b", "c"], ["a"]) == {
        "citation_precision": 0.5,
        "citation_recall": 1.0,
    }
    assert citation_scores([], ["a"], ["a"]) == {"citation_recall": 0.0}
    assert citation_scores(["b"], ["b"], ["a"]) == {"citation_precision": 0.0}
    assert citation_scores([], ["b"], ["a"]) == {}


def test_normalising_twice_changes_nothing() -> None:
    assert all(normalise(normalise(text)) == normalise(text) for text in EDGES)
