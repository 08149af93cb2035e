"""Bytes become the letters that were meant, or are rejected."""

from __future__ import annotations

import pytest

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.encodings import declared_charset, decode


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("iso-8859-1", "cp1252", "the boatman’s fee is 10–20 €"),
        ("US-ASCII", "cp1252", "“bread” … Œuvre"),
        ("iso-8859-9", "cp1254", "10–20 liradır, “sabit” şey"),
        ("tis-620", "cp874", "ราคา 5 € … “ก”"),
        ("gb2312", "gb18030", "朱镕基先生 €"),
        ("shift_jis", "cp932", "①髙橋～㈱"),
        ("ks_c_5601-1987", "cp949", "똠방각하 펲시콜라"),
        ("big5", "big5hkscs", "邨 港 咗"),
        ("x-mac-cyrillic", "mac_cyrillic", "Музей"),
        ("iso-8859-8-i", "iso8859_8", "שלום"),
    ],
)
def test_a_declared_charset_means_what_browsers_mean(label: str, codec: str, text: str) -> None:
    raw = f"<meta charset={label}>".encode() + text.encode(codec)
    assert declared_charset(raw) == label.lower()
    assert decode(raw, declared_charset(raw)).endswith(text)


def test_one_damaged_byte_does_not_reject_a_page() -> None:
    text = "博物馆九点开门" * 10
    assert decode(text.encode("gb18030") + b"\xff end", "gb2312") == text + "\ufffd end"
    assert decode("café ".encode("cp1252") + b"\x81", "latin1") == "café \x81"


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1250", "Łódź Solna stoi przy nabrzeżu. Żaneta Wójcik zgłasza każdą łódź straży."),
        ("iso8859_2", "Łódź Solna stoi przy nabrzeżu. Żaneta Wójcik zgłasza łódź straży."),
        ("cp1254", "Fener Müzesi pazartesi günü kapalıdır. Giriş ücreti öğrenciler için üç lira."),
        ("cp1257", "Muziejus atidaromas devintą valandą ryto ir uždaromas šeštą vakaro."),
        ("cp850", "Der Hafenmeister öffnet die Tür der Straße für alle Gäste des Museums."),
        ("mac_roman", "Le phare est ouvert à neuf heures tous les jours d’été. Préfère l’île."),
        ("koi8_r", "Музей открыт каждый день с девяти утра, кроме понедельника."),
        ("cp866", "Музей открыт каждый день с девяти утра, кроме понедельника."),
        ("cp932", "営業時間は午前九時からです。博物館は月曜日に休みます。"),
        ("euc_jp", "営業時間は午前九時からです。博物館は月曜日に休みます。"),
        ("cp949", "박물관은 아홉 시에 연다. 월요일에는 문을 닫는다."),
        ("gb18030", "博物馆九点开门，周一闭馆。门票三元。"),
        ("big5", "博物館九點開門，週一閉館。門票三元。"),
        ("cp1252", "Le café est ouvert. L’entrée coûte 5 € – “réduit” 3 €."),
        ("cp1252", "The boatman’s fee is 10–20 € a day, “bread” included."),
    ],
)
def test_text_without_a_declaration_keeps_its_letters(codec: str, text: str) -> None:
    assert decode(text.encode(codec)) == text


def test_a_reject_names_what_the_page_declares() -> None:
    with pytest.raises(UnreadableError, match="it declares x-unknown"):
        decode(bytes(range(128, 256)) * 3, "x-unknown")
