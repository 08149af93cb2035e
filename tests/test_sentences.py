"""Sentences end where a reader would end them, in several languages."""

from __future__ import annotations

import pytest

from rag_ft.documents.sentences import split_sentences


@pytest.mark.parametrize(
    "whole",
    [
        "The load follows from Eq. (3) and is drawn in Fig. S1 for the quay.",
        "The board sent Gov. Ruiz and Sen. Olsen to Bremnes.",
        "Dr. med. Moe leads the ward, see Abb. 3 and Kap. IV of the report.",
        "It is said in vol. II and in sec. [4] of the book.",
        "Siehe Bd. 2, Nr. 7 und Str. Nord.",
        "Le Dr. Moreau et Mme. Petit sont venus, voir fig. 2 et art. 4 de la loi.",
        "La Dra. Ruiz y el Sr. Gómez viven en la Avda. Mayor, véase pág. 3 del libro.",
        "Das Haus, u. a. von Hrn. Holm gebaut, stand im 19. Jahrhundert am 3. Platz.",
        "Il sig. Rossi e il dott. Verdi sono qui, cfr. pag. 12.",
        "Le Dr. Moe et la Sté. Vik ont env. 40 bateaux.",
        "La bomba de aprox. 40 m, de EE. UU. como las otras.",
        "The pump takes max. 3 bar and min. 1 bar.",
        "Op. cit. Brand, ibid. Holm, and the Ph.D. Student of Bremnes.",
        "Ул. Мира, д. 5, кв. 3 и 5 тыс. Рублей.",
        "Brig. Gen. Ruiz and Msgr. Moe met at 4 Bay Blvd. Suite 2, as App. B says.",
        "Mr. Vik and J.-P. Moe sailed from Ft. Holm.",
        "Die Gebr. Moe zahlen am 2. Sonntag, siehe Anm. 3 und Anh. C.",
        "Der 4. Preis ging an die Fa. Vik.",
        "La bibl. est au bd. Moe, cf. sept. 1931 et p. ex. Vik.",
        "El Gral. Vik y la Lcda. Moe viven en la Pza. Nueva, Sto. Olaf.",
        "Музей на наб. Мира хранит ген. Орлов, см. прил. В и разд. II.",
        "В 1931 г. Орлов построил маяк.",
        "Ald. Moe and Asst. Prof. Vik (mfr. Holm) read Prob. 7 and Ex. 2 aloud.",
        "Sec. Moe of the Proc. Tide Soc. Bremnes wrote from rm. 12 at fl. 3.",
        "Er wohnt in der Bahnhofstr. Nord und sie in der Hafenstr. 4 am Kai.",
        "Die Dipl.-Ing. Holm und der ehem. Lotse Vik wohnen in Abt. Nord.",
        "Le gén. Vik loge à l'hôt. Moe, bât. B du quai, réf. 40.",
        "La Excma. Sra. Moe vive en la Urb. Faro, apdo. 12 de la villa.",
        "Тов. Орлов работает в оф. 12 на бул. Мира.",
        "Проф. Иванов живёт на ул. Мира, см. рис. 2 на стр. 5 книги.",
        # What comes after the dot goes on, whatever the word before it.
        "It is set in Zect. B of the act, in Zict. Vol. II and in Zep. (3) or Zeg. IV of it.",
        "The book (zed. Holm 2001) cites Am. J. Med. Genet. Vol. 7 and Fed. Reg. Notice 4.",
        "Le quai est au fbg. Saint-Olaf, at 5 p.m. Eastern time.",
    ],
)
def test_no_sentence_ends_after_an_abbreviation(whole: str) -> None:
    text = f"{whole} Next one."
    assert [text[s:e] for s, e in split_sentences(text)] == [whole, "Next one."]


def test_words_that_look_like_abbreviations_still_end_sentences() -> None:
    units = "The mast is 12 m. The keel is 3 m. Er hebt 5 t. Er ruht. Wait at Gate C. Buses come."
    assert len(split_sentences(units)) == 6
    assert len(split_sentences("Маяк был построен в 1931 г. Архитектором был Орлов.")) == 2
    names = "It takes 5 ms. We met Phil. It went to Al. It was in May. 3 boats came. She is ill."
    assert len(split_sentences(names)) == 6
    capitals = "It fell to 9 mm Hg. In two EDs. An ebb came. Or in CA. It fell."
    assert len(split_sentences(capitals)) == 5
    assert len(split_sentences("Цена 500 руб. Доставка бесплатна.")) == 2
    # A function word in upper case begins a sentence, but after a title.
    starters = "It lost in the U.S. It won. A shop at Quay St. The door. Jack ate a fig. The end."
    assert len(split_sentences(starters)) == 6
    assert (
        len(split_sentences("Dr. An met Mr. In, cf. The Times, and J. He of Vik & Co. We left."))
        == 2
    )
    assert len(split_sentences("It sank. (It was old. The crew lived.) Nobody knew.")) == 4
    text = "He said no. Then he opened the art. It was his figure. We left."
    assert len(list(split_sentences(text))) == 4
