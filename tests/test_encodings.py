"""Bytes become the letters that were meant, or are rejected."""

from __future__ import annotations

import pytest
from document_files import text_of

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.encodings import declared_charset, decode
from rag_ft.documents.formats.html import read_html


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


ENGLISH = "The harbour office is open daily and the keeper lives in the house by the quay. " * 4


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("cp1250", "Muzeum je otevřeno každý den kromě pondělí, děti mají vstup zdarma."),
        ("iso8859_2", "Żółte łodzie stoją przy nabrzeżu, a źródła są dalej."),
        ("cp1254", "Müze pazartesi günü kapalıdır. Öğrenciler için giriş ücretsizdir."),
        ("cp1257", "Muziejus dirba kiekvieną dieną, išskyrus pirmadienį."),
        ("mac_roman", "Das Museum öffnet täglich außer montags. Für Schüler ist es frei."),
        ("cp437", "Le musée est ouvert. L'entrée coûte cinq francs, à côté de l'école."),
        ("cp852", "Muzeum w Łodzi jest otwarte codziennie od dziewiątej."),
        ("cp1251", "Музей открыт каждый день, кроме понедельника."),
        ("cp1253", "Το μουσείο ανοίγει κάθε μέρα εκτός Δευτέρας."),
        ("cp1255", "המוזיאון פתוח כל יום חוץ מיום שני."),
        ("cp932", "港の博物館は毎日九時に開きます。"),
        ("gb18030", "港口博物馆每天九点开门。"),
        ("cp1252", "The café’s owner, Mr. Müller, and “Ærø”; a naïve façade."),
        ("cp1252", "Il porto è aperto perché c’è più gente."),
        ("cp1252", "Höfnin opnar klukkan níu. Börn fá frítt inn. Það er þó ekki alltaf."),
    ],
)
def test_few_words_among_english_ones_keep_their_letters(codec: str, text: str) -> None:
    whole = f"{ENGLISH}{text} {ENGLISH}"
    assert decode(whole.encode(codec)) == whole


@pytest.mark.parametrize(
    ("codec", "word"),
    [("cp1250", "otevřeno"), ("cp1257", "kiekvieną"), ("cp437", "öffnet"), ("cp1251", "Музей")],
)
def test_a_single_word_never_gets_other_letters(codec: str, word: str) -> None:
    try:
        assert word in decode((ENGLISH + word).encode(codec))
    except UnreadableError as error:
        assert error.reason == "not text"


def test_one_stray_byte_does_not_reject_a_long_text_or_a_page() -> None:
    whole = (ENGLISH * 20).encode()
    assert decode(whole + b"\x9d end").endswith("\ufffd end")
    page = text_of(read_html(b"<p>" + ENGLISH.encode() + b"\x9d end"))
    assert page.endswith("\ufffd end")
    with pytest.raises(UnreadableError):
        decode(ENGLISH.encode() + b"\x9dd end")


def test_a_reject_names_what_the_page_declares() -> None:
    with pytest.raises(UnreadableError, match="it declares x-unknown"):
        decode(bytes(range(128, 256)) * 3, "x-unknown")
