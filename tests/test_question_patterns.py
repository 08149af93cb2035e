"""Questions and references to a text that is not there, in many languages."""

from __future__ import annotations

import pytest

from rag_ft.generation.filters import check_stands_alone
from rag_ft.generation.question_patterns import asks


@pytest.mark.parametrize(
    "question",
    [
        "Who keeps the lamp?",
        'Who said "here I am?"',
        "青灯台博物館の入館料はいくらですか。",
        "これは古いですよね。",
        "博物馆几点开门",
        "谁管理博物馆",
        "พิพิธภัณฑ์เปิดเมื่อไร",
        "ຫໍພິພິທະພັນເປີດເວລາໃດ",
        "តើសារមន្ទីរបើកនៅពេលណា",
        "ပြတိုက်က ဘယ်အချိန်ဖွင့်လဲ",
        "Ե՞րբ է բացվում թանգարանը",
        "ሙዚየሙ መቼ ይከፈታል፧",
        "Πότε ανοίγει το μουσείο;",
        "박물관은 언제 엽니까",
        "灯塔有几米高",
        "售票处在何年关闭",
        "游客能否上塔",
        "渡船的船长是誰。",
        "渡船はどこまで",
        "船長は寝ていますかね。",
        "ประภาคารซ่อมเสร็จหรือยัง",
        "Who lit the lamp?!",
    ],
)
def test_questions_are_known_as_their_language_marks_them(question: str) -> None:
    assert asks(question)


@pytest.mark.parametrize(
    "said",
    [
        "The lamp is lit.",
        "博物馆九点开门。",
        "これは港です。",
        "几乎没有人。",
        "ok",
        "任何人都能上塔。",
        "誰かが灯台にいた。",
        "他谁都不认识。",
    ],
)
def test_statements_are_no_questions(said: str) -> None:
    assert not asks(said)


@pytest.mark.parametrize(
    "question",
    [
        "Based on the provided text, what does the Net Loft charge?",
        "According to the given context, who cools the Ice House?",
        "What does the preceding content say about the crane?",
        "What does the author say about the Rope Walk?",
        "Which method do the authors use for the lamp?",
        "What did the study find about the tide?",
        "What is shown in Figure 3?",
        "What does Table 2 list for the pump?",
        "What does the code above print for the lamp?",
        "Welchen Preis nennt der gegebene Text?",
        "Was zeigt Abbildung 4 des Hafens?",
        "Was sagt der Autor über den Kran?",
        "Que dit l'auteur à propos du phare ?",
        "Selon le texte fourni, qui garde le phare ?",
        "¿Qué dice el texto anterior sobre el faro?",
        "Secondo il testo fornito, chi custodisce il faro?",
        "De acordo com o texto fornecido, quem guarda o farol?",
        "Согласно приведённому тексту, кто хранит маяк?",
        "根据上述内容，谁管理灯塔？",
        "作者认为灯塔建于哪一年？",
        "上記の文章によると、灯台は誰が管理しますか？",
        "다음 글에 따르면 등대는 누가 관리합니까?",
        "What does the narrator say about the ferry?",
        "What does Appendix B list for the crane?",
        "Com base nas informações fornecidas, quanto custa o bilhete?",
        "Что говорит автор о маяке?",
        "上のコードは何を出力しますか。",
        "Which of the following lamps is red?",
        "Based on the graph, when is the tide low?",
        "Where did the researchers look for the lamp?",
        "Was steht in der Grafik zum Deich?",
        "Que dit cet article du phare ?",
        "¿Cuál es la tesis del autor?",
        "Secondo il grafico, quando è alta la marea?",
        "文章指出灯塔何时关闭？",
        "본 보고서의 결론은 무엇입니까?",
        "Who did the narrator meet at the ferry?",
        "Whom does the highlighted word name?",
        "What do the results below show for the lamp?",
        "Was erwähnt der Bericht zum Deich?",
        "Was zeigt das Diagramm zum Deich?",
        "Was ist der Inhalt des Artikels?",
        "O que mostra a figura sobre o farol?",
        "Chi custodisce il faro secondo l'estratto?",
        "В чём смысл отрывка?",
        "这段文字主要讲什么？",
        "この文の作者は誰ですか。",
        "Given the facts presented, who owns the ferry?",
        "What does the summary state about the ferry?",
        "What was measured in this survey of the bay?",
        "Who is named in the last sentence?",
        "What does the code block set for the lamp?",
        "Wer bezahlt den unten genannten Preis?",
        "Wie heißt der Lotse in diesem Beitrag?",
        "Was fordern die Verfasser der Studie?",
        "Que précise le rapport sur le phare ?",
        "¿Quién paga según este apartado?",
        "¿Qué indica el documento sobre el faro?",
        "Chi è citato in questo capitolo?",
        "O que indica o documento sobre o farol?",
        "Кто назван в этой главе?",
        "该报告建议何时关闭灯塔？",
        "この節で説明されている灯台はどれですか。",
        "다음 그림은 무엇을 보여줍니까?",
    ],
)
def test_a_question_that_leans_on_a_text_is_rejected(question: str) -> None:
    failure = check_stands_alone(question)
    assert failure is not None and failure.reason == "stands_alone"


@pytest.mark.parametrize(
    "question",
    [
        "Who wrote the report of the harbour board?",
        "Which text editor does the museum use?",
        "Wer leitet die Studie des Hafens?",
        "Who is the author of the Harbour Chronicle?",
        "Where is the information desk of the museum?",
        "Wer ist der Autor von Hafenlicht?",
        "Who steers the Evening Launch?",
        "What does Section 4 of the Pilot Act allow?",
        "Où montre-t-on le tableau de Vik ?",
        "この文化財はどこにありますか。",
        "Who maps the passage through the skerries?",
        "Кто автор книги о маяке?",
        "Quién es el autor de la novela del faro?",
        "《灯塔记》的作者是谁？",
        "What is the first line of the harbour song?",
        "Which document opens the customs gate?",
        "¿Qué documento abre la aduana?",
        "日本章鱼馆几点开门？",
    ],
)
def test_a_question_about_a_thing_of_that_name_stands_alone(question: str) -> None:
    assert check_stands_alone(question) is None
