"""Splits a text into sentences, as positions in the text."""

from __future__ import annotations

import re

from rag_ft.documents.abbreviations import ABBREVIATIONS, AS_WRITTEN, BEFORE_NAMES

# Where a sentence may end: CJK marks anywhere, others before white space, a blank line, and
# perhaps a single newline.
_END = re.compile(
    r"""(?P<wide>[。！？｡]++[」』”’）〉》】\)\]]*+)
    | (?<![.!?])(?P<stop>[.!?؟۔…।॥]++["'”’»\)\]]*+)(?=\s)
    | (?P<blank>\n\s*\n)
    | (?P<line>\n)""",
    re.VERBOSE,
)
# An initial, letters with dots, or a word without a vowel whose first letter is upper case:
# "J.-P.", "Msgr.", "Blvd."; not the name Ng and no unit.
_ABBREVIATION = re.compile(
    r"""(?:^|(?<=[\s(\["'„“‘]))(?:
      (?!I$)[^\W\d_] | (?!J\.-C$)(?:[^\W\d_]\.-?)+[^\W\d_] | Ph\.?D | [oO]p\.\s?cit | p\.\s?ex
      | (?!(?:Ng|Hz|Hg|[KMGTP]b)$)[B-DF-HJ-NP-TV-XZ][b-df-hj-np-tv-xz]{1,4} )$""",
    re.VERBOSE,
)
_LAST_WORD = re.compile(r"(?:^|(?<=[\s(\[\"'’„“‘.-]))[^\W\d_]+$")
# After a number these are units, which may end a sentence: "The mast is 12 m. The keel is 3 m."
# A Russian year ends one unless it begins it: "В 1912 г. Лидваль построил маяк."
_UNIT = re.compile(
    r"\d[\s\u00a0]?(?:[mtglhsмтлч]|руб|коп|мин|сек|шт|чел|min|sec|hrs?|C|°[CFK])$"
    r"|[^.!?\n]{16}\d[\s\u00a0]?гг?$"
)
# The letter of one of several things is no initial: "Leave at Terminal B."
_LETTERED = re.compile(
    r"\b(?:terminal|gate|pier|dock|deck|room|ward|exit|track|unit|row|lot|vitamin|plan|type|group"
    r"|class|grade|block|hall|wing|zone|platform|option|level|berth|building|app\.|anh\.|anl\."
    r"|ann\.|bât\.|прил\.|hepatitis"
    r"|gruppe|klasse|typ|halle|groupe|classe|grupo|tipo|группа|тип"
    r"|корпус)\s[A-ZА-Я]$",
    re.IGNORECASE,
)
_BEFORE_NUMBER = re.compile(
    r"\b(?:max|min|approx|aprox|env|ca|ок|макс|мин"
    r"|nos?|nr|núm|pág|págs|figs?|eqs?|refs?|sec|sect|chap|ch|vol|art|arts|abs|pp?|est|tel|ext"
    r"|app|par|tab|tabl|abb|bd|kap|ziff|s|z|cap|lib|ed|ver|vers|tbl|anm|anh|ann|obs|abschn"
    r"|janv|févr|avr|juil|sept?|oct|nov|déc|febr?|ene|abr|lun|mié|jue|vie|sáb|dom"
    r"|dia|inc|dic|dez|giu|lug|ott"
    r"|réf|ec|ex|exp|prob|apdo|apto|apt|cat|gráf|fol|оф|эт|каб|ауд|комн|fasc"
    r"|ст|п|пп|ч|т|рис|табл|гл|стр|№|кв|д|корп|прил|разд|оп|вып)$",
    re.IGNORECASE,
)
# "App. B", "Anh. C", "прил. Б": the letter belongs to the word before it.
_BEFORE_LETTER = re.compile(
    r"\b(?:app|anh|anl|ann|annex|bât|apdo|esc|fig|tab|tbl|abb|прил|рис|табл|разд)$", re.I
)
_LETTER_AHEAD = re.compile(r"\s+[B-HА-Ж]\b")
# A German ordinal number: "am 3. Mai", "im 19. Jahrhundert", "der 3. Bürgermeister".
_GERMAN_DAY = re.compile(
    r"\d\.\s+(?:Jan|Feb|März|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez"
    r"|Jahrh|Jh|Aufl|Kap|Stock|Klasse|Platz|Weltkrieg|Obergescho|Etage"
    r"|Band|Geburtstag)[a-z]*"
)
_GERMAN_ORDINAL = re.compile(
    r"\b(?:am|im|vom|zum|zur|beim|der|die|das|dem|den|jede[nmrs]?|seine[nmrs]?|ihre[nmrs]?)"
    r"\s\d{1,2}$",
    re.IGNORECASE,
)
# What is numbered goes on with its number: "No. (3)", "vol. IV", "fig. S1".
_NUMBER_AHEAD = re.compile(r"\s*(?:[(\[]?\d|[(\[]?[IVXLC]+\b|[(\[]?[A-Z]\.?\d|[(\[][a-z]?[)\].\d])")
_AFTER_HOURS = re.compile(r"(?:^|\s|\d)[ap]\.m$")
_ZONE_AHEAD = re.compile(r"\s+(?:Eastern|Central|Mountain|Pacific|[A-Z]{2,3}T\b|UTC)")
# What has a number, a letter or brackets after its dot and goes on in lower case after these:
# "Xyz. (3) and", "Xyz. II of", "Xyz. B of".
_BRACKET_GOES_ON = re.compile(r"\s+[(\[][^()\[\]\n]{1,16}[)\]],?\s+[^\W\d_A-ZÀ-ÞА-Я]")
_NUMBER_GOES_ON = re.compile(
    r"\s+(?:§+\s?\d|(?:[IVXLC]{2,6}|[VX]|[B-H]|[A-Z]\d{1,3})"
    r"(?:[,;)]|\s+(?!(?:is|was|has|are|were)\b)[a-zà-ÿа-я]))"
)
# "Xyz. Vol. 3", "Lt. Col. Holm": no sentence is one short name.
_SHORT_WORD = re.compile(r"(?:^|[\s(])[^\W\d_]{1,6}$")
_SHORT_NAME_AHEAD = re.compile(r"\s+(?:[A-Z]\.\s+)?[A-Z][a-z]{1,4}\.\s+\S")
# "a book (Hrsg. Moe)", but not "It sank. (It was old. The crew lived.)"
_IN_BRACKETS = re.compile(r"[^\s.!?:]\s\([^()\n]*$")
# Lower case without a vowel, but no unit: "fbg.", "sq."
_WITHOUT_VOWEL = re.compile(
    r"(?<!\d)[\s(](?!(?:[kcmdn]?[mglhs]|kn|hp|p[hmsx]|[mr]p[mh]|ft|lbs?|[kmg][bw]|tv|db|hz)$)"
    r"[b-df-hj-np-tv-xz]{2,5}$"
)
# In upper case these begin a sentence, also after an abbreviation.
_BEGINNING = re.compile(
    r"""\s+["'“„«(]*(?P<first>The|This|These|Those|It|They|There|We|However|Es|Dies|Diese[rs]?|Wir
    |Ils?|Elles?|Cette|Ces|Это|Он[аи]?)\b
    |\s+["'“„«(]*(?:He|She|His|Her|Its|Their|Our|You|That|But|And|Then|When|While|If|After|Before
    |In|On|At|For|From|To|As|By|With|Since|Both|Each|All|Some|Many|Most
    |Der|Die|Das|Dem|Den|Ein|Eine[mnrs]?|Er|Sie|Ihre?|Seine?|Im|Am|Auf|Bei|Mit|Nach|Seit|Von|Vom
    |Zum|Zur|Auch|Aber|Und|Wenn|Als|Hier|Dort|Dann
    |Les?|La|Une?|Des|On|Ce|Mais|Dans|Pour|Depuis|Avec
    |El|Los|Las|Una?|Se|En|Por|Para|Sus?|Pero|Este|Esta|Il|Lo|Gli|Nel
    |На|Его|Её|Они|По|Но|Для)\b""",
    re.VERBOSE,
)
_LIST_MARK = re.compile(r"[ \t]*(?:[-*•‣–+|>#]|\d{1,3}[.)]|\(?\w{1,3}\))[ \t]")
# A short name of a part before its number: "Prob. 12". No sentence begins with a number there.
_SHORT_NAME = re.compile(r"[A-Z][a-zé]{1,4}|(?<!\d )[b-df-hj-np-tv-xz]{2,4}")
_MONTHS = frozenset(("May", "June", "July", "March", "Mai", "Juni", "Juli", "Mayo", "Junio"))
# A longer line is a sentence without its full stop.
LONE_LINE_CHARS = 80
# A shorter line is a heading, an address or a field, not the beginning of a wrapped sentence.
_WRAPPED_CHARS = 45


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Returns (start, end) of every sentence, heading, list item and table row, in order.

    The parts do not overlap, and no part begins or ends with white space. Every other character
    lies in exactly one part.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if _ends_sentence(text, match):
            spans.append(trim(text, start, match.end()))
            start = match.end()
    spans.append(trim(text, start, len(text)))
    return [(s, e) for s, e in spans if s < e]


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a match of `_END` ends a sentence."""
    kind, at = match.lastgroup, match.start()
    if kind == "line":
        # A newline ends a sentence unless it only wraps one.
        line = text[max(text.rfind("\n", 0, at) + 1, at - 400) : at].rstrip()
        if _LIST_MARK.match(text, at + 1):
            return True
        if line.endswith((".", "!", "?", ":", "。", "！", "？", "؟", "…")):
            return True
        goes_on = text[at + 1 : at + 50].lstrip()[:1].islower()
        return not goes_on and len(line) < _WRAPPED_CHARS
    if kind != "stop":
        return True
    following = text[match.end() : match.end() + 200].lstrip()[:1]
    if following.islower():
        return False
    if match["stop"] != ".":
        return True
    before = text[max(0, at - 24) : at]
    if before[-1:].isdigit() and (
        _GERMAN_DAY.match(text, at - 1) or _GERMAN_ORDINAL.search(before)
    ):
        return False
    # "2. Open the valve": the number belongs to the words after it.
    line = text[max(0, at - 8) : match.end()].rpartition("\n")[2]
    if _LIST_MARK.fullmatch(f"{line} "):
        return False
    if _goes_on_ahead(text, match.end(), before):
        return False
    # No abbreviation is so long without a dot inside, but for "Bahnhofstr.".
    last = before.rsplit(None, 1)[-1] if before and not before[-1].isspace() else ""
    if len(last) > 9 and "." not in last and not last.endswith("str"):
        return True
    if _LETTERED.search(before) or (following.isalpha() and _UNIT.search(before)):
        return True
    # No sentence ends after "Dr.", but one may end after "at 9 p.m.".
    if _AFTER_HOURS.search(before):
        return not _ZONE_AHEAD.match(text, match.end())
    beginning = _BEGINNING.match(text, match.end())
    is_initial = len(last) == 1 and last.isupper()
    is_before_names = last.strip("([\"'„“‘").lower() in BEFORE_NAMES
    if beginning and not is_before_names and (beginning["first"] or not is_initial):
        return True
    line = text[max(0, at - 80) : at].rpartition("\n")[2]
    if _SHORT_WORD.search(before) and (_WITHOUT_VOWEL.search(before) or _IN_BRACKETS.search(line)):
        return False
    return not _is_abbreviation(before, following)


def _goes_on_ahead(text: str, end: int, before: str) -> bool:
    """Whether what comes after the dot at `end` shows that the sentence goes on."""
    if _BRACKET_GOES_ON.match(text, end):
        return True
    if _NUMBER_AHEAD.match(text, end) and _BEFORE_NUMBER.search(before):
        return True
    if _LETTER_AHEAD.match(text, end) and _BEFORE_LETTER.search(before):
        return True
    short = _SHORT_WORD.search(before)
    if short is None:
        return False
    is_capitalised = short[0].lstrip()[:1].isupper()
    return bool(
        _NUMBER_GOES_ON.match(text, end) or (is_capitalised and _SHORT_NAME_AHEAD.match(text, end))
    )


def _is_abbreviation(before: str, following: str) -> bool:
    """Whether the last word of a text is abbreviated; `following` is what comes after its dot."""
    if _ABBREVIATION.search(before):
        return True
    word = _LAST_WORD.search(before)
    if word is None:
        return False
    if (
        following.isdigit()
        and _SHORT_NAME.fullmatch(before, word.start())
        and word[0] not in _MONTHS
    ):
        return True
    # "EDs" is no "eds.".
    usual = word[0][1:].islower()
    is_street = word[0].endswith("str")
    return is_street or word[0] in AS_WRITTEN or (usual and word[0].lower() in ABBREVIATIONS)


def is_lone_line(text: str, start: int, end: int, ends: str = ")]?:") -> bool:
    """Whether `text[start:end]` is a short line without an end over a blank line and more text, as
    headings are: also those that no mark shows. It ends in a letter, a digit or one of `ends`."""
    line = text[start:end]
    return (
        end - start <= LONE_LINE_CHARS
        and "\n" not in line
        and (line[-1:].isalnum() or line[-1:] in ends)
        and (start == 0 or text[start - 1] == "\n")
        and text.startswith("\n\n", end)
        and not text[end : end + 200].isspace()
    )


def is_lone_line_over_prose(text: str, start: int, end: int) -> bool:
    """Whether a line that stands alone is followed by more than another such line."""
    if not is_lone_line(text, start, end, ")]?:!"):
        return False
    below = text[end : end + 2 * LONE_LINE_CHARS].lstrip().split("\n", 1)[0].rstrip()
    return len(below) > LONE_LINE_CHARS or below.endswith((".", "!", "。", "！"))


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Returns the span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
