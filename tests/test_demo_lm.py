"""The demo language model: its grammar is deterministic and sound, and the shipped artefact
answers."""

import json
import random
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from demo_lm import evaluate, filler, grammar, names, passages, questions, rephrase, report, tasks  # noqa: E402

ARTEFACT = ROOT / "data" / "models" / "demo-lm"
PROMPTS = ROOT / "rag_ft" / "qa" / "prompts" / "compact"


def test_names_of_training_and_evaluation_are_disjoint():
    rng = random.Random(0)
    train, held = ({names.invented(rng, split) for _ in range(3000)} for split in names.SPLITS)
    assert len(held) > 1000 and not train & held


def test_every_relation_has_enough_phrasings_and_a_held_out_one():
    for domain in grammar.load_domains().values():
        for relation in domain.relations:
            assert relation.held_statements and relation.held_questions, relation.name
            assert relation.value_type in names.VALUE_TYPES
            if not domain.held:
                assert len(relation.statements) >= 5 and len(relation.questions) >= 5, relation.name
                assert all("{v}" in s for s in relation.statements + relation.held_statements)


def test_some_relations_and_one_domain_are_held_out():
    domains = grammar.load_domains().values()
    assert [d.name for d in domains if d.held] == ["garden"]
    assert 6 <= sum(r.held for d in domains for r in d.relations) <= 10


def test_same_seed_same_items():
    first, second = (
        [tasks.training_item(random.Random(seed), "full") for seed in range(30)] for _ in range(2)
    )
    assert first == second


def test_training_never_uses_what_is_held_out():
    rng = random.Random(1)
    held = {r.label for d in grammar.load_domains().values() for r in d.relations if r.held}
    for _ in range(200):
        passage = passages.make_passage(
            rng, rng.choice(grammar.domains_for("train")), tasks.STAGES["full"]
        )
        assert (
            not {f.relation.label for f in passage.facts if f.relation and f.relation.held} & held
        )
        assert "garden" not in {f.domain for f in passage.facts}


@pytest.mark.parametrize("stage", ["easy", "middle", "full"])
def test_answers_are_spans_of_their_sentences_and_sentences_of_the_text(stage):
    rng = random.Random(2)
    for _ in range(150):
        passage = passages.make_passage(
            rng, rng.choice(grammar.domains_for("train")), tasks.STAGES[stage]
        )
        for fact in passage.facts:
            assert fact.answer in fact.sentence and fact.sentence in passage.text


def _content(template: str) -> list[str]:
    return re.findall(r"[a-z]+|\{.\}", template.lower())


def test_further_phrasings_are_known_relations_and_none_is_held_out():
    domains = grammar.load_domains()
    known = {f"{d.name}.{r.name}" for d in domains.values() for r in d.relations if not r.held}
    found = grammar._paraphrases()
    assert found.keys() <= {name for name in known if not name.startswith("garden")}
    for relation in (r for d in domains.values() for r in d.relations):
        assert all("{v}" in t for t in relation.more_statements), relation.name
        assert all("{e}" in t or "{p}" in t for t in relation.more_questions), relation.name
        held = [_content(t) for t in relation.held_statements + relation.held_questions]
        further = relation.more_statements + relation.more_questions
        assert not [t for t in further if _content(t) in held], relation.name


def test_other_words_keep_the_slots_and_meet_no_held_out_template():
    rng = random.Random(6)
    trained = [r for d in grammar.domains_for("train") for r in d.relations if not r.held]
    for relation in trained * 5:
        statement = rephrase.statement(rng, relation, relation.statements)
        question = rephrase.question(rng, relation, relation.questions, "it")
        assert statement.count("{v}") == 1 and not re.search(r"[\[\]|]", statement + question)
        assert {"{e}", "{p}"} & set(re.findall(r"\{.\}", statement)) and "{v}" not in question
        for text, held in (
            (statement, relation.held_statements),
            (question, relation.held_questions),
        ):
            assert not grammar.question_matches(text, held, "{e}"), text


def test_other_words_are_for_training_only():
    """So that the items of the model card stay the same."""
    assert evaluate.EVAL_STYLE.varied == questions.PLAIN.varied == 0
    assert tasks.STAGES["full"].varied > 0


def test_a_namesake_shares_a_name_and_is_another():
    rng, domain = random.Random(7), grammar.load_domains()["vessel"]
    for _ in range(50):
        entity, stranger = (grammar.make_entity(rng, domain, "train") for _ in range(2))
        other = rephrase.namesake(rng, entity, stranger)
        assert other.name != entity.name


def test_reference_replies_earn_full_marks():
    cases = evaluate.generation_set(120, 3)
    assert set(report.generation_scores([c.reference for c in cases], cases).values()) == {1.0}


def test_questions_name_the_entity_and_are_recognised():
    rng = random.Random(4)
    passage = passages.make_passage(rng, grammar.load_domains()["vessel"], tasks.STAGES["easy"])
    for fact in passage.facts:
        question = questions.question_for(rng, fact)
        asked = questions.asked_fact(question, passage)
        assert (
            fact.entity.name in question.replace("The ", "the ")
            and asked is not None
            and asked.answer == fact.answer
        )


def test_filler_states_no_fact_and_is_varied():
    rng = random.Random(5)
    found = [filler.sentence(rng, "the Tolda Ferry") for _ in range(500)]
    assert len(set(found)) > 450 and not any("{" in s for s in found)


@pytest.mark.skipif(not PROMPTS.exists(), reason="the package's prompts are not there")
def test_prompts_equal_the_packages():
    abstain = tasks.REFUSAL
    for name, prompt in (
        ("answer", tasks.ANSWER),
        ("closed_book", tasks.CLOSED_BOOK),
        ("generate", tasks.GENERATE),
    ):
        written = (
            (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").replace("{abstain}", abstain)
        )
        assert written.rstrip("\n") == prompt


@pytest.mark.skipif(
    not (ARTEFACT / "model.safetensors").exists(), reason="the demo model is not there"
)
def test_the_artefact_answers_refuses_and_writes_json():
    generator = report.Generator(ARTEFACT)
    sentence = "The captain of the Tolda Ferry is Ilva Torrent."
    context = f"[1] {sentence} The ferry carries salt."
    ask = "Who is the captain of the Tolda Ferry?"
    generate = tasks.GENERATE.format(passage=sentence, focus=sentence, kind="factoid")
    messages = [
        tasks.ANSWER.format(context=context, question=ask),
        tasks.CLOSED_BOOK.format(question=ask),
        generate,
    ]
    answer, closed, pair = generator.replies(messages, 64)
    assert answer == "Ilva Torrent" and closed == tasks.REFUSAL
    assert json.loads(pair)["evidence"] == sentence
