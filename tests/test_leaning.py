"""Questions that lean on a text by their order of words, and questions that look alike and stand
alone."""

from __future__ import annotations

import random

import pytest

from rag_ft.generation.leaning import leans_on


@pytest.mark.parametrize(
    "question",
    [
        # Pronouns without an antecedent.
        "Who chose her for the crew?",
        "Which of them reached the island?",
        "How many lamps did they buy?",
        "In which year did he leave Bremnes?",
        "What kind of roof does it have?",
        "Who was his teacher?",
        "Who succeeded her as pilot?",
        "What is the purpose of it?",
        "How much is it to charter one?",
        "Wann verließ sie den Hafen?",
        "Was gehört dazu?",
        "¿Quién lo vendió?",
        "Pourquoi a-t-elle quitté le port ?",
        "What is the weight of one of them?",
        "Welche Fahne trägt es?",
        "Pourquoi l'ont-ils peint ?",
        "Perché lei è partita?",
        "Onde ele morava?",
        "Когда он уехал?",
        # Demonstratives.
        "What is the cause of this delay?",
        "Who paid for that voyage?",
        "Who owns that quay?",
        "How do these differ from the old ones?",
        "Was bedeutet dieser Begriff?",
        "¿Qué significa esta regla?",
        "À quoi sert cet outil ?",
        # Parts of a text and its people.
        "What does the second paragraph explain?",
        "What does the chart illustrate?",
        "Which harbour is named in the extract?",
        "What did the interviewee regret?",
        "What have the researchers tested?",
        "In the article's title, what is promised?",
        "What is the topic of the letter?",
        "What is the story about?",
        "Which row of the table lists the fee?",
        "What does the passage about ferries say?",
        "What does the caption of the picture show?",
        "What does the chart mainly compare?",
        "Was zeigt das Bild laut Grafik?",
        "O que mostra o gráfico?",
        # What is said without saying where.
        "How many harbours are listed?",
        "What reasons are given for the delay?",
        "Which steps are mentioned earlier?",
        "What is stored on the shelf below?",
        # What counts from an unknown day, and what goes on from another question.
        "How many ships called last month?",
        "What has been built so far?",
        "What happened next?",
        "And who paid for the lamp?",
        "What was the second one made of?",
        # What one text alone tells of, in the past.
        "What did the court decide?",
        "Where was the patient treated?",
        "Who reported the accident?",
    ],
)
def test_these_lean_on_a_text(question: str) -> None:
    assert leans_on(question)


@pytest.mark.parametrize(
    "question",
    [
        "How did Marie Holm find her ship?",
        "Why does iron rust when it gets wet?",
        "When must a guest leave her room?",
        "What should visitors do if they lose their tickets?",
        "Which firm has its yard in Bremnes?",
        "Who sold his ship to Petra Lind?",
        "Despite its age, what keeps the Heron afloat?",
        "How many of its bridges does Venice repair each year?",
        "When it opened in 1998, how many berths did the Tide House have?",
        "Is it allowed to fish from the quay?",
        "How long does it take to cross the bay?",
        "Where do they sell tickets for the Heron?",
        "If a tenant leaves early, what does this cost?",
        "How are those who work at night paid?",
        'Who sang "This Is the Sea"?',
        "Who wrote the book 'It'?",
        "What does the passage fee cover?",
        "Which table of the database stores the fees?",
        "What does the text editor show?",
        "What does table salt consist of?",
        "Who was the first author to win the prize twice?",
        "Who is the narrator of Moby-Dick?",
        "How do I add a table to the document?",
        "What following distance does the Highway Code recommend?",
        "How is an old lamp described in the catalogue of Vik?",
        "How many visitors came to Bremnes in the last year of the war?",
        "What did the British team win in 1994?",
        "When does the patient have to stop eating?",
        "How many days of leave does the staff get?",
        "Where is the first aid kit kept?",
        "Wer hat den Leuchtturm gebaut, und wann verkaufte er ihn?",
        "Was tun Gäste, wenn sie den Schlüssel verlieren?",
        "¿Qué hace un empleado si pierde su llave?",
        "Chi deve firmare il contratto di affitto?",
        "Quem deve assinar o relatório de um acidente?",
        "Que doit faire un locataire s'il perd sa clé ?",
        "Est-il permis de pêcher dans le port ?",
        "Combien de jours de congé le personnel a-t-il ?",
    ],
)
def test_these_stand_alone(question: str) -> None:
    assert not leans_on(question)


def test_any_text_can_be_asked_about() -> None:
    said = "it they his Who the passage this that ? , If in author's 'a \" ¿ él er -il 5 Vik"
    words = said.split()
    chance = random.Random(0)
    for _ in range(2000):
        leans_on(" ".join(chance.choice(words) for _ in range(chance.randint(0, 7))))
