"""Pronouns and demonstratives of a question that no noun before them explains, by the order of the
words, without a tagger: in English, German, Spanish, Italian, Portuguese and French."""

from __future__ import annotations

import re


def open_pronoun(question: str) -> str:
    """The first pronoun of a question that has no antecedent in it; "" if there is none."""
    return _open_in_english(question) if _ENGLISH.search(question) else _open_elsewhere(question)


_ENGLISH = re.compile(
    r"^\W*(?:what|which|who|whom|whose|when|where|why|how|is|are|were|does|did|do|can|could|has"
    r"|have|had|will|should|must|may|if)\b|\b(?:the|of|what|which)\b",
    re.I,
)
_AUXILIARY_WORDS = """
    is are was were do does did has have had can could will would shall should may might must"""
_DETERMINER_WORDS = """
    the a an my our your every each some any no all most many several few both another two three
    four five one's other"""
_PREPOSITION_WORDS = """
    of in on at by for from with to about during after before since under into over as among
    between against without than near"""
_OPENER_WORDS = "if when while because after before once although though unless that who"
_OTHER_WORDS = """
    what which who whom whose when where why how
    not also first originally later often usually long much many far old big high ever still then
    exactly there now only really
    and or but i you we this that these those one be been being"""
_FRONTING_WORDS = "In At On For With Without After Before During Despite Besides Other When"
_THINGS = frozenset(("it", "its", "they", "them", "their", "theirs", "itself", "themselves"))
_PERSONS = frozenset(("he", "she", "him", "her", "his", "hers", "himself", "herself"))
_SUBJECTS = frozenset(("it", "they", "he", "she"))
_AUXILIARIES = frozenset(_AUXILIARY_WORDS.split())
_DETERMINERS = frozenset(_DETERMINER_WORDS.split())
_PREPOSITIONS = frozenset(_PREPOSITION_WORDS.split())
_OPENERS = frozenset(_OPENER_WORDS.split())
_NOT_NOUNS = _THINGS.union(_PERSONS, _AUXILIARIES, _PREPOSITIONS, _OPENERS, _OTHER_WORDS.split())
_PRONOUNS = _THINGS | _PERSONS
_KNOWN = _NOT_NOUNS | _DETERMINERS
_ASKING = frozenset(("what", "which", "whose", "when", "where", "why", "how", "whom"))
_QUANTIFIERS = frozenset(("one", "some", "any", "all", "most", "each", "both", "none", "many"))
# A clause or phrase that may stand before what its pronoun means.
_FRONTING = frozenset(_FRONTING_WORDS.split())
_PARTICIPLE = re.compile(
    r".*(?:ed|en)|done|made|known|paid|kept|sold|built|held|left|put|said|meant|found|sent|told|hit"
    r"|shown|born|lost|won|led|bought|brought|caught|taught|thought|set|cut|read|met|spent|worn"
)
_PERSON_NOUN = re.compile(
    r"(?!number|order|water|letter|paper|river|matter|weather|power|tower|member's|cover|door|floor"
    r"|colour|color|centre|moment|treatment|document|percent|amount|event|department|content|plant"
    r"|restaurant|government|harbour|labor)"
    r"(?:\w{2,}(?:er|or|ist|ian|man|woman|ee|eer|ess|ant|ent)s?|person|people|child|children|boy"
    r"|girl"
    r"|king|queen|prince|son|daughter|wife|husband|friend|guest|pilot|chef|cook|nurse|judge|guide"
    r"|saint|hero|god|gods|captain|clerk|coach|guard|head|chief|boss|staff|adult|minor|baby|infant"
    r"|men|women|someone|anyone|somebody|anybody|everyone|nobody|pope|monk|nun|spouse|bride|groom"
    r"|knight|duke|earl|lord|lady|spy|nobles?|peasants?|slaves?)"
)


def _open_in_english(question: str) -> str:
    """A pronoun of an English question without an antecedent: no noun phrase stands before it that
    it can mean, nor after the clause that begins the question."""
    if _EXPLETIVE.search(question):
        return ""
    words = re.findall(r"[\w'’-]+|[?,]", question)
    if question[:1].islower():
        # Nothing shows its names.
        words = [word if word in _KNOWN else word.capitalize() for word in words]
    for at, word in enumerate(words):
        is_pronoun = word in _PRONOUNS or (at == 0 and word in ("It", "They"))
        if is_pronoun and not _is_explained(words, at):
            return word
    return ""


def _is_explained(words: list[str], at: int) -> bool:
    """Whether the pronoun at a position has an antecedent."""
    word, before = words[at], words[:at]
    verbs = [place for place, verb in enumerate(words) if verb.casefold() in _AUXILIARIES]
    # "Where do they sell tickets for the Heron?": anybody.
    if word == "they" and before[-1:] == ["do"] and any(name[0].isupper() for name in words[at:]):
        return True
    # "What kind of engine does it have?": nothing before the verb is what the pronoun means.
    is_subject = word in _SUBJECTS and verbs[:1] == [at - 1]
    asks = not _ASKING.isdisjoint(first.casefold() for first in words[:2])
    if is_subject and asks:
        return False
    # "How many of its bridges does Venice repair?"
    after_verbs = [words[verb + 1] for verb in verbs if at < verb < len(words) - 1]
    if any(name[0].isupper() for name in after_verbs):
        return True
    # "Who sold his ship?", but not "Who was his father?" and "Who appointed him?".
    owned = words[at + 1].casefold() if at + 1 < len(words) else "?"
    owns = word in ("his", "her", "their") and owned != "?" and owned not in _PREPOSITIONS
    if words[0] == "Who" and owns and before[-1].casefold() not in _AUXILIARIES | _PREPOSITIONS:
        return at > 1
    nouns = _antecedents(before)
    # "Despite its size, what makes Mercury dense?"
    asks_at_once = len(words) > 1 and words[1].casefold() in _KNOWN - _DETERMINERS - _PRONOUNS
    if "," in words[at:]:
        nouns += _antecedents(words[words.index(",", at) + 1 :])
    elif words[0] in _FRONTING and not asks_at_once:
        nouns += _antecedents(words[at + 1 :])
    if word in _PERSONS:
        nouns = [noun for noun in nouns if noun[:1].isupper() or _PERSON_NOUN.fullmatch(noun)]
    return bool(nouns)


def _antecedents(words: list[str]) -> list[str]:
    """The words before a pronoun that it can mean: names, and nouns by their place: after a
    determiner, a preposition, a conjunction, or the verb that asks. Not those of the phrase that
    the pronoun belongs to: "the purpose of it"."""
    found: list[int] = []
    lower = [word.casefold() for word in words]
    for at, word in enumerate(words):
        before = lower[at - 1] if at else ""
        if at and ((word[:1].isupper() and word != "I") or word[:1].isdigit()):
            found.append(at)
        elif lower[at] in _KNOWN or not word[0].isalpha():
            continue
        elif (
            before in _DETERMINERS
            or at - 1 in found
            or (before in ("which", "whose", "what") and at == 1)
            or lower[at - 2 : at] in (["how", "many"], ["how", "much"])
            or (before in _OPENERS and at > 1)
            or (before in _PREPOSITIONS and not word.endswith("ing"))
        ):
            found.append(at)
        elif before in _AUXILIARIES:
            # "do employees", "what is sugar", but not "who was paid".
            is_verb = lower[0] in ("who", "which") or (
                lower[0] == "what" and _PARTICIPLE.fullmatch(word) is not None
            )
            if before in ("do", "does", "did") or not is_verb:
                found.append(at)
    # The phrase that the pronoun belongs to ends before the prepositions in front of it.
    end = len(words)
    while end and lower[end - 1] in _PREPOSITIONS - _OPENERS | _QUANTIFIERS:
        end -= 1
    while end < len(words) and end - 1 in found and words[end - 1].islower():
        found.remove(end - 1)
        end -= 1
    return [words[at] for at in found]


_EXPLETIVE = re.compile(
    r"\b[Ii]t\b.*\s(?:to|that|for|if|when)\s+\w+|\b(?:does|is|was)\s+it\s+(?:rain|snow|mean)"
    r"|\bwhat\s+is\s+it\s+like\b|\bit\s+is\s+(?:below|above|over|under|raining|snowing|hot|cold"
    r"|dark)\b",
    re.I,
)


# German, Spanish, Italian, Portuguese, French: (how the language is known, what stands before a
# noun or begins one, what means nothing, pronouns and demonstratives).
_ELSEWHERE = tuple(
    (re.compile(known, re.I), re.compile(noun), re.compile(empty, re.I), re.compile(pronoun))
    for known, noun, empty, pronoun in (
        (
            r"\b(?:w(?:er|as|ann|ie|arum|en|em|essen|elche[nmrs]?|omit|of[üu]r|orauf|orin|ozu|ovon"
            r"|orum|odurch|ohin|oher)|wurden?|nicht|ist|und)\b|^wo\b",
            r"(?<=\s)[A-ZÄÖÜ]\w",
            r"(?!)",
            r"\b(?:er|sie|ihn|ihm|ihnen|seine?[nmrs]?|ihre?[nmrs]?|da(?:zu|von|für|mit|ran|rauf"
            r"|raus|rin|rüber|bei|durch|gegen|nach|vor)|dort|hier|dies(?:e[nmrs]?)?|jene[nmrs]?"
            r"|solche[nmrs]?|derselben?|denen|vorher|zuvor)\b",
        ),
        (
            r"¿|\b(?:qué|cuál|quién|cuándo|dónde|cómo|cuánt[oa]s?)\b",
            r"\b(?:el|la|los|las|un|una|del|al|cada|algún|quienes|[Cc]uánt[oa]s)\s\w{3}"
            r"|(?<=\s)[A-ZÁÉÍÓÚÑ]\w",
            r"\besta\s+permitido\b",
            r"\b(?:él|ella|ellos|ellas|esto|eso|aquello|est[ea]s?|estos|es[ea]s?(?=\s\w{4})|esos"
            r"|sus?|ahí|allí|aquí)\b(?!\s+se\b)"
            r"|(?<=én\s|do\s|de\s|mo\s)(?:lo|les?)\s\w+(?=\?|\s(?:en|a|por|con|de|para)\b)"
            r"|^¿(?:Cuándo|Dónde|Cómo|Por qué)\s(?!se\b)\w+\?",
        ),
        (
            r"\b(?:chi|cosa|quali?|dove|perché|quant[aei]|è)\b(?!\s+(?:é|são|foi)\b)",
            r"\b(?:il|lo|la|i|gli|le|un[oa]?|[dn]?el(?:lo|la|le)?|al(?:la|lo)?)\s"
            r"(?!su[oaei]|suoi|loro)\w{3}|l['’]\w{3}|(?<=\s)[A-ZÀ-Ý]\w",
            r"(?!)",
            r"\b(?:lui|lei|egli|loro|quest[oaie]|quell[oaie]|su[oaie]|suoi|ciò|lì|qui)\b",
        ),
        (
            r"\b(?:quem|quais|qual|onde|foi|são|é|não)\b|\bo\s+que\b",
            r"\b(?:[oa]s?|uma?|[dn][oa]s?|ao|à)\s(?!seus?|suas?|que)\w{3}|(?<=\s)[A-ZÀ-Ý]\w",
            r"(?!)",
            r"\b(?:[dn]?el[ea]s?|[dn]?is[st]o|aquilo|[dn]?es[st][ea]s?|seus?|suas?|lá|ali|aqui)\b",
        ),
        (
            r"\b(?:que|qu|quels?|quelles?|qui|quand|où|combien|comment|pourquoi|quoi|est-ce)\b",
            r"\b(?:les?|la|une?|des|du|aux?|chaque|l['’](?!ont\b|a\b|avai|aur|est\b)"
            r"|d['’])\s?\w{3}|(?<=[\s'’])[A-ZÀ-Ý]\w",
            r"\b(?:faut-il|a-t-il(?=\s+(?:des?|une?)\b)|s['’]agit-il|existe-t-il|pleut-il"
            r"|qu['’]il|s['’]il"
            r"|est-il\s+(?:\w+\s)?\w+\s+(?:de|d|que|qu)\b)|\bil\s+(?:y\s+a|faut|est\s+\w+\s+de)\b"
            r"|\b(?:est-ce|ce)\s+(?:que|qui|qu|sont|dont)\b",
            r"(?<=-)(?:ils?|elles?)\b|(?<=-t-)(?:ils?|elles?)\b|\b(?:ils?|elles?|lui|son|sa|ses"
            r"|leurs?|l['’](?:a|ont|avait|avaient)|cela|ça|ceci|cet|cette|ces|celui-ci|celle-ci)\b"
            r"|\bce\s+\w{3}",
        ),
    )
)


# "Welche Rolle spielt er?": the noun that is asked about is not what the pronoun means.
_GERMAN_SUBJECT = re.compile(
    r"(?:Welche[nmrs]?|Wie\s+viele?|Was\s+für(?:\s+eine?n?)?)\s+[A-ZÄÖÜ]\w+\s+[a-zäöüß]+\s+"
    r"(er|sie|es)\b(?!,)"
)


def _open_elsewhere(question: str) -> str:
    """The same for the languages of `_ELSEWHERE`, where a noun before the pronoun explains it."""
    if match := _GERMAN_SUBJECT.match(question):
        return match[1]
    for known, noun, empty, pronoun in _ELSEWHERE:
        if known.search(question):
            said = empty.sub("", question)
            match = pronoun.search(said)
            # "Als er öffnete, wie viele Gäste hatte das Haus?"
            fronted = match is not None and 0 <= said.find(",", match.end()) < 60
            is_open = match and not fronted and not noun.search(said[: match.start()])
            return match[0] if match and is_open else ""
    return ""
