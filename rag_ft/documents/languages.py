"""The language of a document, for the summary of an ingest: by its script, else by the function
words of the first hundreds of its words. Nothing else depends on it."""

from __future__ import annotations

import re
from collections import Counter

SAMPLE_CHARS = 3000
# A text has at least this share of function words of its language, and this many; a very short
# one has one, if its share is larger.
MIN_SHARE, MIN_WORDS, SHORT_SHARE = 0.08, 2, 0.2
OTHER = "other"

_SCRIPTS = {
    "Japanese": re.compile("[\u3040-\u30ff]"),
    "Korean": re.compile("[\uac00-\ud7a3]"),
    "Chinese": re.compile("[\u4e00-\u9fff]"),
    "Thai": re.compile("[\u0e00-\u0e7f]"),
    "Arabic": re.compile("[\u0620-\u064a]"),
    "Hebrew": re.compile("[\u05d0-\u05ea]"),
    "Greek": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"),
    "Hindi": re.compile("[\u0900-\u097f]"),
    "Ukrainian": re.compile("[іїєґ]"),
    "Russian": re.compile("[а-яё]"),
}
# Japanese has Chinese characters too, and Ukrainian Russian ones: the first script that has this
# share of the letters counts.
_LEAST = {"Japanese": 0.1, "Ukrainian": 0.03}
_WORDS = {
    "English": "the of and to in is that for was with are this be on as it by from",
    "German": "der die das und ist nicht von den zu mit dem ein eine im für auf wird sich",
    "French": "le la les des et est que dans une pour du pas sur qui au par avec sont",
    "Spanish": "el los las que y en una por con del para se es al lo como más su",
    "Italian": "il che di è un una per non del della con sono gli nel alla più si",
    "Portuguese": "o que não uma os em para com do da dos as é por mais na no ao",
    "Dutch": "de het een van en is dat niet op te zijn voor met aan ook er wordt",
    "Swedish": "och att det som en på är av för med den till inte om ett har i",
    "Danish": "og at det er en på af til den som for med ikke de der har et",
    "Norwegian": "og det er en på av til som for med ikke de har et å fra ble",
    "Finnish": "ja on ei se että oli hän joka mutta kun ovat myös tai niin",
    "Polish": "i w na się nie z do jest że to o jak po od przez są dla",
    "Czech": "a v na se je že to s do pro jsou ale byl po jako od při",
    "Hungarian": "a az és hogy nem egy is van meg volt ez de csak mint",
    "Turkish": "ve bir bu için ile da de olarak çok daha olan gibi kadar",
    "Romanian": "și în de la cu pe nu este din care pentru un o sunt mai",
}
_FUNCTION_WORDS = {name: frozenset(words.split()) for name, words in _WORDS.items()}


def language_of(text: str) -> str:
    """Returns the English name of a text's language; "other" where it cannot be told."""
    sample = text[:SAMPLE_CHARS].lower()
    if not sample.isascii():
        num_letters = sum(map(str.isalpha, sample))
        for name, script in _SCRIPTS.items():
            if len(script.findall(sample)) > _LEAST.get(name, 0.3) * num_letters:
                return name
    words = Counter(re.findall(r"[^\W\d_]+", sample))
    found = {
        name: sum(words[word] for word in known & words.keys())
        for name, known in _FUNCTION_WORDS.items()
    }
    best = max(found, key=lambda name: found[name])
    num, least = found[best], MIN_SHARE * words.total()
    enough = num >= max(MIN_WORDS, least) or num >= max(1, SHORT_SHARE * words.total())
    return best if enough else OTHER
