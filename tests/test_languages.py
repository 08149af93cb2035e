"""The language of a text is told by its script and its function words."""

from __future__ import annotations

import pytest

from rag_ft.documents.languages import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The lamp of the harbour was lit by the keeper of the tower.", "English"),
        ("Der Hafen ist von den Booten der Stadt nicht zu sehen.", "German"),
        ("Le phare est dans la ville et les bateaux sont sur la mer.", "French"),
        ("El faro está en la ciudad y los barcos son de la villa.", "Spanish"),
        ("Il porto è aperto e la lampada non è della città.", "Italian"),
        ("O porto não abre e os barcos são da vila.", "Portuguese"),
        ("De haven is open en het schip van de stad is niet te zien.", "Dutch"),
        ("Latarnia jest w porcie i nie stoi na brzegu.", "Polish"),
        ("Музей открыт каждый день, кроме понедельника.", "Russian"),
        ("Музей відчинено щодня, крім понеділка, для всіх її гостей.", "Ukrainian"),
        ("港の博物館は毎日九時に開きます。", "Japanese"),
        ("博物馆每天九点开门。", "Chinese"),
        ("박물관은 아홉 시에 연다.", "Korean"),
        ("พิพิธภัณฑ์เปิดทุกวัน", "Thai"),
        ("المتحف مفتوح كل يوم", "Arabic"),
        ("x = 4\nfoo(bar)", "other"),
        ("", "other"),
    ],
)
def test_the_language_of_a_text_is_told(text: str, language: str) -> None:
    assert language_of(text) == language
