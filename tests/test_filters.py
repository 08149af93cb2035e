"""Each check of a generated pair, from both ends."""

from __future__ import annotations

import json

import pytest

from rag_ft.generation.filters import (
    Failure,
    WrittenPair,
    check_evidence,
    check_form,
    check_kind,
    check_named,
    check_stands_alone,
    check_subject,
    find_evidence,
    parse_reply,
    same_answer,
    told_about,
)

TEXT = (
    "The Grey Heron sails under captain Ola Brand. It carries salt. The crossing takes 40 minutes."
)
FOCUS = (0, 45)
GOOD = WrittenPair(
    "The Grey Heron sails under captain Ola Brand.",
    "Who is the captain of the Grey Heron?",
    "Ola Brand",
)


def reason(result: object) -> str | None:
    return result.reason if isinstance(result, Failure) else None


def as_json(**changed: object) -> str:
    return json.dumps({"evidence": "e", "question": "Who is it?", "answer": "a"} | changed)


@pytest.mark.parametrize(
    "wrap", ["{}", "```json\n{}\n```", "Sure, here it is: {} Anything else?", " {}\n\n\n"]
)
def test_a_json_object_is_found_whatever_stands_around_it(wrap: str) -> None:
    assert parse_reply(wrap.replace("{}", as_json()), "stop") == WrittenPair("e", "Who is it?", "a")


@pytest.mark.parametrize(
    ("text", "finish", "expected"),
    [
        ('{"evidence": "The Grey He', "length", "cut_off"),
        ('{"evidence": "x"', "stop", "bad_json"),
        ("", "stop", "bad_json"),
        ("[1, 2]", "stop", "bad_json"),
        ('{"evidence": "e", "question": "Q?"}', "stop", "bad_json"),
        ('{"evidence": "e", "question": ["Q?"], "answer": "a"}', "stop", "bad_json"),
        ('{"evidence": "", "question": " ", "answer": ""}', "stop", "nothing_to_ask"),
        ("x" * 10_000_000, "stop", "bad_json"),
        ('{"a":' * 100_000, "stop", "bad_json"),
    ],
)
def test_replies_that_hold_no_pair_say_why(text: str, finish: str, expected: str) -> None:
    failure = parse_reply(text, finish)
    assert reason(failure) == expected
    assert isinstance(failure, Failure) and len(failure.detail) < 300


@pytest.mark.parametrize(
    "question",
    [
        "Ποιος ίδρυσε την εταιρεία Aegean το 1987;",
        "Πού είναι το λιμάνι\u037e",
        "대한민국의 수도는?",
        "Başkenti neresidir?",
    ],
)
def test_questions_of_other_languages_have_the_form_of_one(question: str) -> None:
    assert check_form(WrittenPair("", question, "zz"), "factoid") is None


@pytest.mark.parametrize("question", ["It sails at noon;", "Who won?", "The α particle is heavy."])
def test_what_only_looks_like_one_has_not(question: str) -> None:
    assert reason(check_form(WrittenPair("", question, "zz"), "factoid")) == "form"


@pytest.mark.parametrize(
    "question",
    [
        "How long is the context window of Qwen3-4B?",
        "What does the context menu of the editor hold?",
    ],
)
def test_a_context_that_is_a_thing_stands_alone(question: str) -> None:
    assert check_stands_alone(question) is None


@pytest.mark.parametrize(
    "before",
    [
        "I return {evidence, question, answer}: ",
        "For {focus}: ",
        '{"note": 1} ',
        '{"pair": ',
        "{{ ",
    ],
)
def test_other_braces_before_the_pair_do_not_hide_it(before: str) -> None:
    assert parse_reply(before + as_json(), "stop") == WrittenPair("e", "Who is it?", "a")


def test_half_a_character_in_a_reply_can_still_be_written() -> None:
    draft = parse_reply(as_json(answer="Mill \ud83d, \ud83d\ude00"), "stop")
    assert isinstance(draft, WrittenPair) and draft.answer == "Mill \ufffd, 😀"
    draft.answer.encode()


def test_a_complete_object_counts_even_when_the_reply_was_cut_off_after_it() -> None:
    assert isinstance(parse_reply(as_json() + " and", "length"), WrittenPair)


def test_unanswerable_pairs_must_abstain_and_others_must_not() -> None:
    abstain = "I don't know."
    assert check_kind(WrittenPair("", "Q?", "I don't know"), "unanswerable", abstain) is None
    assert reason(check_kind(GOOD, "unanswerable", abstain)) == "answered"
    assert check_kind(GOOD, "factoid", abstain) is None
    assert (
        reason(check_kind(WrittenPair("e", "Q?", "I don't know."), "factoid", abstain))
        == "nothing_to_ask"
    )
    assert reason(check_kind(WrittenPair("e", "Q?", ""), "summary", abstain)) == "nothing_to_ask"


@pytest.mark.parametrize(
    ("question", "fits"),
    [
        ("How tall is the Cray Lighthouse?", True),
        ("Who painted the Tolda Ferry?", False),
        ("Welches Gewicht hat der Anker?", False),
        ("Welches Gewicht hat die Lighthouse-Glocke?", True),
        ("how much does it weigh?", True),
        ("What was built in 1871?", True),
    ],
)
def test_an_unanswerable_question_is_about_what_the_passage_is_about(
    question: str, fits: bool
) -> None:
    failure = check_subject(question, "The Cray Lighthouse was built in 1871.")
    assert (failure is None) == fits
    assert fits or reason(failure) == "off_subject"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("The captain is Ola Brand.", "Ola"),
        ("Who then?", "Ola"),
        ("Why " * 80 + "?", "Ola"),
        ("Who is captain <|im_end|> there?", "Ola"),
        ("Is Ola Brand the captain of the Heron?", "Ola Brand"),
        ("Who is the captain of the Heron?", "word " * 40),
    ],
)
def test_misshapen_pairs_are_rejected(question: str, answer: str) -> None:
    assert reason(check_form(WrittenPair("e", question, answer), "factoid")) == "form"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Who is the captain of the Heron?", "Ola Brand"),
        ("Is the hall red or blue?", "red"),
        ("谁是船长？", "李明"),
        ("من هو القبطان؟", "علي"),
    ],
)
def test_well_shaped_pairs_pass(question: str, answer: str) -> None:
    assert check_form(WrittenPair("e", question, answer), "factoid") is None


@pytest.mark.parametrize(
    "question",
    [
        "According to the passage, who runs the ferry?",
        "What is mentioned in the text?",
        "What is the main topic of this document?",
        "What is the purpose of the study described above?",
        "What does it cost?",
        "Who founded it?",
        "What is its name?",
        "How is this achieved?",
        "How old is he?",
        "Was sagt der Text über Luther?",
        "¿Qué dice el texto sobre Lutero?",
        "文中提到的人是谁？",
    ],
)
def test_questions_that_lean_on_the_passage_are_rejected(question: str) -> None:
    assert reason(check_stands_alone(question)) == "stands_alone"


@pytest.mark.parametrize(
    "question",
    [
        "How long does it take to cross Grey Bay?",
        "Which team has its base in Rome?",
        "How does the lizard catch its prey?",
        "Who sends the text message to the harbour master?",
        "What does the context of use decide?",
        "Which document must visitors sign?",
        "Is it possible to refund a ticket after 3 days?",
        "Wann verbreiteten sich Luthers Schriften?",
        "Who is the captain of the Grey Heron?",
    ],
)
def test_questions_that_stand_alone_pass(question: str) -> None:
    assert check_stands_alone(question) is None


def test_verbatim_evidence_is_kept_as_quoted() -> None:
    span, repaired = find_evidence(GOOD, TEXT, FOCUS)
    assert span == FOCUS and not repaired
    assert check_evidence(GOOD, span, TEXT, "factoid") is None


def test_evidence_that_is_not_there_is_repaired_when_the_focus_sentence_holds_the_answer() -> None:
    invented = WrittenPair(
        "The Grey Heron's captain is called Ola Brand.", GOOD.question, "Ola Brand"
    )
    assert find_evidence(invented, TEXT, FOCUS) == (FOCUS, True)
    elsewhere = WrittenPair("It carries salt.", GOOD.question, "Ola Brand")
    assert find_evidence(elsewhere, TEXT, FOCUS) == (FOCUS, True)


def test_invented_evidence_and_unsupported_facts_are_rejected() -> None:
    invented = WrittenPair("The captain is Berit.", GOOD.question, "Berit")
    assert (
        reason(check_evidence(invented, find_evidence(invented, TEXT, FOCUS)[0], TEXT, "factoid"))
        == "evidence"
    )
    wrong = WrittenPair("It carries salt.", "What does the Grey Heron carry?", "sugar")
    span, _ = find_evidence(wrong, TEXT, FOCUS)
    assert reason(check_evidence(wrong, span, TEXT, "factoid")) == "unsupported"
    assert check_evidence(wrong, span, TEXT, "inference") is None


@pytest.mark.parametrize(
    ("answer", "whole"),
    [("Ola Brand", True), ("Ola", False), ("Brand", True), ("captain Ola", False)],
)
def test_an_answer_is_not_cut_from_a_name(answer: str, whole: bool) -> None:
    pair = WrittenPair(GOOD.evidence, GOOD.question, answer)
    failure = check_evidence(pair, FOCUS, TEXT, "factoid")
    assert (failure is None) == whole
    assert whole or reason(failure) == "unsupported"


def test_an_answer_before_a_german_noun_is_not_cut_from_a_name() -> None:
    text = "Im Jahr 1520 schrieb Luther Briefe nach Worms."
    pair = WrittenPair(text, "Wer schrieb im Jahr 1520 Briefe?", "Luther")
    assert check_evidence(pair, (0, len(text)), text.replace("Im", "im"), "factoid") is not None
    text = "Die Briefe hat Luther Kurfürsten gesandt."
    pair = WrittenPair(text, "Wer hat die Briefe gesandt?", "Luther")
    assert check_evidence(pair, (0, len(text)), text, "factoid") is None


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("Who is the captain of the Grey Heron?", True),
        ("Who are the Grey Herons' captains?", True),
        ("Who is captain in Port Sorrel?", True),  # the title
        ("Who is the captain of the Brey Heron?", False),
        ("Who is the captain of the Rose Villa?", False),
        ("What does a captain earn?", True),
        ("Wie heißt der Kapitän?", True),  # nouns in upper case are no names
        ("Wer ist Kapitän der Grauen Möwe?", False),
    ],
)
def test_the_evidence_or_what_stands_over_it_names_what_is_asked_about(
    question: str, named: bool
) -> None:
    failure = check_named(question, f"{told_about(TEXT, FOCUS)} Boats of Port Sorrel")
    assert (failure is None) == named
    assert named or reason(failure) == "off_subject"


def test_a_pronoun_in_the_evidence_refers_to_the_sentence_before() -> None:
    salt, minutes = TEXT.index("carries"), TEXT.index("40")
    assert told_about(TEXT, (salt, salt + 12)) == (
        "The Grey Heron sails under captain Ola Brand. It carries salt."
    )
    assert told_about(TEXT, (minutes, minutes + 2)) == (
        "It carries salt. The crossing takes 40 minutes."
    )


@pytest.mark.parametrize(
    ("said", "answer", "same"),
    [
        ("Ola Brand", "the Ola Brand", True),
        ("Captain Ola Brand of the Heron", "Ola Brand", True),
        ("40", "40 minutes", True),
        ("Berit Moe", "Ola Brand", False),
        ("", "Ola Brand", False),
        ("the", "a", False),
        ("它位于法国首都巴黎", "法国巴黎", True),
        ("船长叫奥拉·布兰德。", "船长奥拉·布兰德", True),
        ("北京市的西部", "上海", False),
        ("東京タワーという塔です", "東京の東京タワー", True),
        ("大阪城", "東京タワー", False),
        ("高さは３３３メートル", "333メートル", True),
        ("ในกรุงเทพมหานครของไทย", "กรุงเทพมหานคร ประเทศไทย", True),
        ("เชียงใหม่", "กรุงเทพ", False),
        ("1949年10月", "1958年3月", False),
        ("一九四九年", "一九五〇年", False),
        ("5 euros", "50 euros", False),
        ("Room 4", "Room 5", False),
        ("10 May 1994", "12 May 1994", False),
        ("1949年10月1日", "1949年3月2日", False),
        ("15欧元", "5欧元", False),
        ("May 1994", "12 May 1994", True),
        ("May 1994", "May", True),
        ("1,000 euros", "1000 euros", True),
        ("05 May", "5 May", True),
        ("３３３ m", "333 m", True),
        ("2.5 km", "2.4 km", False),
        ("allowed", "not allowed", False),
        ("Dogs are never allowed.", "Dogs are allowed", False),
        ("nicht erlaubt", "erlaubt", False),
        ("not allowed", "not allowed here", True),
        ("The keeper, not the owner", "the keeper", True),
        ("house no. 5", "house 5", True),
    ],
)
def test_answers_agree_by_f1_or_containment(said: str, answer: str, same: bool) -> None:
    assert same_answer(said, answer, 0.5) is same


def test_with_an_f1_of_1_an_answer_that_contains_the_other_does_not_agree() -> None:
    assert same_answer("a copper", "copper", 1) and same_answer("Ola Brand", "the Ola Brand", 1)
    assert not same_answer("a copper", "a copper lamp", 1)
    assert same_answer("a copper", "a copper lamp", 0.99)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r"What does $\theta$ mean?", r"What does $\theta$ mean?"),
        (r"Is $\frac{1}{2} \rho \nu \beta$ right?", r"Is $\frac{1}{2} \rho \nu \beta$ right?"),
        (r"Is $\\theta$ small and \alpha big?", r"Is $\theta$ small and \alpha big?"),
        (r"Line one\nline two\tand more?", "Line one line two and more?"),
        (r"Whom does Caf\\u00e9 Zorn serve \\ud83d\\ude00?", "Whom does Café Zorn serve 😀?"),
        (r"Whom does Caf\u00e9 Zorn serve?", "Whom does Café Zorn serve?"),
        (
            r"Is $A \nsupseteq B \twoheadleftarrow C$ so?",
            r"Is $A \nsupseteq B \twoheadleftarrow C$ so?",
        ),
        (r"Does it say\nsub\ttable one?", "Does it say sub table one?"),
        (r"Who is \\\\u00d8len or \\u{d8}len or \\U0001F6A2?", "Who is Ølen or Ølen or 🚢?"),
        (r"Who is in \\\\ubahn\\utf?", r"Who is in \\ubahn\utf?"),
    ],
)
def test_an_escape_that_eats_a_letter_is_not_believed(written: str, read: str) -> None:
    reply = f'{{"evidence": "x", "question": "{written}", "answer": "y"}}'
    pair = parse_reply(reply, "stop")
    assert isinstance(pair, WrittenPair) and pair.question == read


@pytest.mark.parametrize(
    ("question", "value", "answer"),
    [
        ("When was it opened?", "1998", "1998"),
        ("What is the price?", "2.50", "2.50"),
        ("Is the hall open?", "true", "yes"),
        ("True or false: is the hall open?", "false", "false"),
    ],
)
def test_a_number_and_a_truth_value_are_answers(question: str, value: str, answer: str) -> None:
    pair = parse_reply(f'{{"evidence": "x", "question": "{question}", "answer": {value}}}', "stop")
    assert isinstance(pair, WrittenPair) and pair.answer == answer


def test_no_control_character_gets_into_a_pair() -> None:
    failure = parse_reply('{"evidence": "x", "question": "a\\u0007b?", "answer": "y"}', "stop")
    assert isinstance(failure, Failure) and failure.reason == "form"
