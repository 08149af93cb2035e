"""Whether a question leans on a text that its reader does not see, as far as its words show it:
pronouns and demonstratives without an antecedent, parts of a text ("the excerpt") and its people
("the narrator") that nothing names, times that count from an unknown day, and half questions.

The closed lists hold function words and nouns for texts; everything else is a rule about order.
"""

from __future__ import annotations

import re

from rag_ft.generation.open_pronouns import open_pronoun
from rag_ft.generation.question_patterns import REFERENCES


def leans_on(question: str) -> str:
    """The words by which a question leans on a text that it lacks; "" if there are none."""
    question = question[:_MAX_CHARACTERS]
    for pattern in REFERENCES:
        if match := pattern.search(question):
            return match[0]
    # What is quoted is a name, whatever its words.
    bare = _QUOTED.sub("Q1", question)
    explained = _CLAUSE_BEFORE.match(bare)
    for pattern in _ALWAYS + (() if explained else _DEMONSTRATIVES):
        if match := pattern.search(bare):
            return match[0]
    named = _NAME.search(bare) is not None or bare[:1].islower()
    if not named:
        for pattern in _UNNAMED:
            if match := pattern.search(bare):
                return match[0]
    return _text_part(bare, named) or open_pronoun(bare)


_MAX_CHARACTERS = 1000
_QUOTED = re.compile(r"[\"“„«»][^\"“”„«»]+[\"“”»«]|(?<!\w)['‘`][^'‘’`]+['’`](?!\w)")
# "If a tenant leaves early, what does this cost?"
_CLAUSE_BEFORE = re.compile(r"(?:if|when|i|we|my|an?)\b[^?]*,", re.I)
# Months and days in upper case name nothing, nor does a number.
_NAME = re.compile(
    r"(?<=\w)[\s'’(-]+(?!I\b|(?:January|February|March|April|May|June|July|August|September|October"
    r"|November|December|(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)days?)\b)[A-ZÀ-ÞА-Я]|\w[A-Z]"
)


def _text_part(question: str, named: bool) -> str:
    """A noun for a text, a part of one, or its people, which nothing tells apart from others:
    "the excerpt", but not "the excerpt of Faust", "the text editor" and "the periodic table"."""
    for match in _PART.finditer(question):
        # "the author's copyright under Swiss law"
        owns = match[0].endswith(("'s", "s'"))
        if not named if owns else _stands_bare(question, match, named):
            return match[0]
    if _HOW_TO.match(question):
        return ""
    for match in _WEAK_PART.finditer(question):
        if _stands_bare(question, match, named):
            return match[0]
    return ""


def _stands_bare(question: str, match: re.Match[str], named: bool) -> bool:
    """Whether neither a second noun nor a complement follows, unless it is a text again."""
    rest = question[match.end() :]
    if _COMPLEMENT.match(rest):
        # "the caption of the figure"
        return _OF_TEXT.match(rest) is not None
    if rest.lstrip().startswith(("about ", "on ")):
        return not named
    if _CLOSED.match(rest) or _SAYS.match(rest):
        return True
    # "does the diagram illustrate?": the verb that "does" asks for, but not "does the text editor
    # support".
    before = question[: match.start()].rstrip().rsplit(None, 1)[-1:]
    verb = before[0].casefold() if before else ""
    if verb in ("do", "does", "did"):
        return _LONE_VERB.match(rest) is not None
    return (
        verb in ("is", "was", "are", "were", "has", "have", "had")
        and _LONE_PARTICIPLE.match(rest) is not None
    )


_WHICH_ONE = (
    r"(?:(?:first|second|third|fourth|fifth|last|next|final|opening|closing|concluding|following"
    r"|accompanying|attached|enclosed|given|provided|present|entire|whole|original|short|brief"
    r"|same|previous|preceding|main|lead|two|three|four|study|research|news)\s+){0,2}"
)
_PEOPLE_OF_TEXTS = (
    r"(?:author|narrator|writer|interviewee|interviewer|researcher|investigator|respondent"
    r"|protagonist|speaker)(?:'s|s'?)?"
)
_PART_NOUNS = (
    r"(?:passage|excerpt|paragraph|snippet|extract|chart|graph|diagram|text|article|sentence"
    r"|chapter|abstract|caption|footnote|transcript|dialogue|quotation|narrative|infographic"
    r"|interview|experiment|questionnaire|poem|essay|textbook|study|studie|vignette|anecdote"
    r"|introduction|conclusion|illustration|main\s+(?:character|idea|point|argument|claim|message"
    r"|theme|topic|event))(?:'s|s?)"
)
_WEAK_NOUNS = (
    r"(?:document|section|table|figure|report|paper|list|story|storie|letter|e-?mail|conversation"
    r"|review|thesis|image|picture|photo|photograph|map|drawing|screenshot|slide|equation|formula"
    r"|code|program|function|output|listing|example|scenario|case|statement|description|data"
    r"|dataset|finding|result|information|detail|context|content|source|material|quote|page|video"
    r"|lecture|presentation|survey|summary|summarie|appendix|character|novel|scene|plot|speech"
    r"|note|analysis|handout|brochure|leaflet|blog|post|fable|tale|film|movie|song|play"
    r"|advertisement|cartoon"
    r"|poster|sign)s?"
)
_SAY = (
    r"(?:say|state|mention|find|found|show|describe|conclude|suggest|report|claim|discuss|examine"
    r"|argue|note|explain|propose|investigate|use|recommend|present|identif|refer|mean|think|aim"
    r"|try|give|advise|warn|list|compare|define|analy[sz]e|critici[sz]e|tell|call|feel|believe"
    r"|depict|illustrate|print|represent|teach|imply|indicate|reveal|contain|focus|address|cover"
    r"|return|demonstrate|highlight|cite|quote|stress|emphasi[sz]e)"
)
# A noun for a text anywhere; people of texts and charts also after one more word.
_PART = re.compile(
    rf"\b(?:[Tt]he|this|that|these|those)\s+{_WHICH_ONE}(?:{_PART_NOUNS}"
    rf"|(?:(?!word|term|name|noun)[a-z]+\s+)?(?:{_PEOPLE_OF_TEXTS}|passage|excerpt|paragraph"
    r"|snippet|chart|graph|diagram))"
    r"(?![\w'’-])"
)
# A noun that also means things where a question asks what is written: "in the table?", "the topic
# of the letter", "does the report say", "is the story about?", "column of the table".
_WEAK_PART = re.compile(
    r"\b(?:(?:[Ii]n|[Ff]rom|[Bb]y|[Pp]er|within|throughout|[Aa]ccording\s+to|[Bb]ased\s+on)"
    rf"\s+the\s+{_WHICH_ONE}{_WEAK_NOUNS}(?=\s*[?,]|\s+{_SAY}\b)"
    r"|(?:topic|subject|theme|setting|hero|heroine|mood|style|climax|ending|title|purpose|aim|goal"
    r"|idea|point|gist|message|moral|tone|focus|scope|conclusion|author|writer|thesis|heading"
    rf"|length|summary|argument|audience|readers?|columns?|rows?|lines?|words?|axis)\s+(?:of|in"
    rf"|for)\s+(?:the|this)\s+{_WHICH_ONE}{_WEAK_NOUNS}"
    rf"|(?:do|does|did)\s+the\s+{_WHICH_ONE}{_WEAK_NOUNS}(?=\s+{_SAY}\b)"
    r"|(?:do|does|did)\s+the\s+(?:story|tale|novel|scene|plot|fable|poem)"
    r"(?=\s+(?:take\s+place|begin|end|start)\b)"
    rf"|(?:is|was|are|were)\s+the\s+{_WEAK_NOUNS}(?=\s+about\s*\?)"
    r")(?![\w'’-])"
)
_COMPLEMENT = re.compile(
    r"\s+(?:of|by|called|titled|entitled|named|that|which|who|whose|between|through|from"
    r"|where|over|in\s+which)\b|\s+(?:in|on|at|by|to|for)\s+(?:the\s+)?(?:most\s+)?[A-Z]|['’]"
    r"|\s+[A-Z\d]|-|\s+to\s+(?:win|be|have|receive|reach|become|lead|hold|get)\b"
)
_OF_TEXT = re.compile(
    rf"\s+of\s+(?:the|this)\s+{_WHICH_ONE}(?:{_PART_NOUNS}|{_WEAK_NOUNS})(?=\s*[?,]|\s+{_SAY}\b)"
)
_ADVERB = r"(?:\s+(?:[a-z]+ly|also|not|first|even|still))?"
_SAYS = re.compile(rf"{_ADVERB}\s+{_SAY}(?:s|es|d|ed|y|ies|ing)?\b")
_CLOSED = re.compile(
    r"\s*[?.,;:)]|\s*$|\s+about\s*\?"
    r"|\s+(?:is|are|was|were|be|been|has|have|had|do|does|did|can|could|will|would|may|might|must"
    r"|should|in|on|at|to|for|with|as|and|or|if|when|while|because|after|before|during|under|not"
    r"|also|above|below|here|so|than|then|what|how|why|regarding|concerning|again)\b"
)
_AFTER_VERB = rf"(?:{_CLOSED.pattern}|\s+(?:the|an?|this|these|it|they|of|from|about|by|that)\b)"
_LONE_VERB = re.compile(rf"{_ADVERB}\s+(?:take\s+place|[a-z]+){_AFTER_VERB}")
_LONE_PARTICIPLE = re.compile(rf"\s+(?:[a-z]+(?:ed|en)|done|made|held|set|found|born){_AFTER_VERB}")
_HOW_TO = re.compile(
    r"(?:how|where|when|what|which|can|may|should|must)\b.{0,40}?\b(?:I|you|we|one|users?)\b", re.I
)

# What leans wherever it stands, and what leans where nothing is named.

_PAST = r"(?:did|was|were|had|[a-z]+ed|held|led|built|took|made|won|lost|began|wrote|gave|found)"
_PEOPLE = (
    r"(?:patient|team|company|firm|court|plaintiff|defendant|victim|suspect|witness|participant"
    r"|volunteer|subject|group|couple|brothers|sisters|man|woman|men|women|boy|girl|child|children"
    r"|family|scientist|student|accident|incident|meeting|trial|battle|attack|crash|explosion"
    r"|ceremony|event|discovery|murder|robbery|strike|investigation|treatment|procedure|operation"
    r"|sample|control\s+group|project|campaign|fire|test|discussion|debate|conference|interview"
    r"|wedding"
    r"|concert|race|match|election|voyage|journey|expedition|flood|storm|conflict|rescue|theft"
    r"|visit|merger|audience|crowd|inspector|detective|jury)s?"
)
_MENTIONED = (
    r"(?:mentioned|listed|described|discussed|stated|cited|depicted|outlined|highlighted|enumerated"
    r"|referenced|referred\s+to|illustrated|quoted|specified|named|identified)"
)
# "those who", "the keyword this" and "this year" are no demonstratives of these kinds.
_UNITS = (
    r"(?:year|month|week|quarter|season|summer|winter|spring|autumn|fall|night|decade|century"
    r"|morning|evening)s?"
)
_DEMONSTRATIVES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!keyword )(?<!word )(?<!object )\b[Tt]h(?:is|ese)\b(?!\s+(?:keyword|pointer|days"
        rf"|case|event|way|situation|{_UNITS})\b)",
        r"\b(?:in|of|on|at|by|for|from|with|to|about|during|after|before|since|under|into)\s+that\b"
        r"(?=\s*\?|\s+[a-z]+(?:\s+[a-z]+)?(?:\s*\?|\s(?:in|on|at|for|of|by|to|from|with)\b))"
        r"(?!\s+(?:the|an?|of|it|they|he|she|we|you|there)\b)",
        r"\b(?:is|was|are|were|does|did|do|has|had|can|could|will|would)\s+that\s+[a-z]+\b",
        r"^(?:Who|What|Which\s+\w+)\s+\w+\s+that\s+(?:\w+\s+)?\w+\?",
        r"\b\w+ed\s+that\s+[a-z]+\?|^(?!.*\ban?\s).*\bto\s+[a-z]+\s+one\?",
        r"\b[Ss]uch\s+(?!as\b)(?:an?\s+)?[a-z]+(?:\s+[a-z]+)?\?|\b(?:those|these)\?",
        r"\b[Tt]hose\s+(?!who|that|which|with|whose|in|of|from|under|over|living|working|without"
        r"|on|at|born|not|aged|for|\w+ed\b|\w+ing\b|\w+\s+(?:who|that|which)\b)[a-z]+",
    )
)
_ALWAYS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^(?:And|Or|Also|Then|Additionally|Moreover|Furthermore)\b",
        r"^(?:What|How)\s+about\b",
        r"\b(?:[Tt]he|[Aa]n?)\s+(?:above|below|aforementioned|above-mentioned|aforesaid|foregoing"
        r"|following)\b(?!-)(?!.*:)",
        r"\b(?:said|abovementioned|aforementioned)\s+\w+\?",
        r"\b[Tt]he\s+(?:former|latter)\b"
        r"(?=\s*\?|\s+(?:is|was|are|were|do|does|did|has|had|[a-z]+ed)\b)",
        r"\b(?:the\s+(?:other|first|second|third|last|previous|next)|[Ww]hich|another)\s+ones?\b"
        r"(?!\s+(?:of|in|to)\b)",
        r"\bthe\s+(?:other|others|rest|same|second|third|latter|former)\?",
        r"\b(?:do|does|did|is|are|was|were|has|have)\s+(?:each|both|neither)\s+[a-z]+\?$",
        r"^Wh(?:at|o|ere)\s+else(?:\s+\S+){0,3}\?",
        r"\b(?:happen(?:s|ed)?|occur(?:s|red)?|came|comes|follow(?:s|ed)?|did|done|do)\s+"
        r"(?:next|then|afterwards?|thereafter|there|later)\?",
        r"\bin\s+(?:bold|italics|brackets|capital letters|quotation marks|parentheses)\b",
        r"\b(?:thereof|therein|thereby|hereby)\b|\bin\s+question\?",
        r"\b(?:at|by|from)\s+(?:the|this|that)\s+(?:time|moment|point)\?|\bback\s+then\b",
        rf"\b{_MENTIONED}\s+(?:above|below|here|earlier|previously|before|first|last|so\s+far)\b",
        rf"^(?:What|Which|How\s+many|Who)\b[^,]*\b(?:is|are|was|were)\s+(?!named|identified)"
        rf"{_MENTIONED}\s*\?",
        r"\b(?:previously|earlier|already)\s+(?:mentioned|described|discussed|listed|named"
        r"|stated)\b",
        r"\b(?:is|are|was|were)\s+(?:\w+ly\s+|first\s+)?(?:mentioned|discussed|cited"
        r"|highlighted)\s+"
        r"(?:as|regarding|concerning|about|for|with)\b",
        r"\b(?:examples?|reasons?|definitions?|explanations?|descriptions?|formulas?|equations?"
        r"|causes|arguments?|advice|details?|figures?|values?|evidence|information|data"
        r"|facts?)\b[^?,]*\s(?:is|are|was|were)\s+"
        r"(?:given|provided|shown|presented|used|offered)\s*"
        r"(?:\?|(?:for|as|here|to|on|about|regarding|in)\b)",
        r"\b(?:dates?|years?|numbers?)\s(?:is|are|was|were)\s+(?:given|stated)\b(?!\s+to\b)",
        r"\b(?:examples?|reasons?|definitions?|explanations?|arguments?)\s+"
        r"(?:given|provided|mentioned|listed|cited|offered|presented|described)\b",
        r"\bof\s+the\s+(?:statements|options|choices|answers|alternatives|sentences)\s+"
        r"(?:above|below|is|are|was|were|best|does|do)\b",
        r"\b(?:afterwards?|thereafter|subsequently)\?",
        r"\b(?:paragraphs?|lines?|slide|question|exercise)\s+\d+\b(?!\s+of\b)",
        r"^(?:Which|What)\s+(?:figure|table|section|paragraph|sentence|line|chapter|graph|diagram"
        rf"|chart|passage)\s+{_SAY}(?:s|es)\b",
        rf"(?<!is )(?<!are )(?<!was )(?<!were )\bthe\s+(?:{_WEAK_NOUNS}|{_PART_NOUNS})\s+"
        r"(?:shown|given|provided|presented|displayed|depicted)\b(?!\s+(?:to|by|at|in)\b)",
        r"^(?!.*\bin\b)What\s+(?:is|was)\s+(?:said|stated|written|reported)\s+"
        r"(?:about|regarding|concerning)\b",
        r"\b(?:do|does|did|is|are|was|were)\s+the\s+(?:[a-z]+\s+)?[a-z]+\s+(?:above|below)\b"
        r"(?!\s+(?:the|which|\d))",
        r"(?<=[a-z]\s)(?:above|below)(?:\?|\s+(?:is|are|was|were|has|have|shows?|gives?)\b)",
    )
)
_UNNAMED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<!the )(?<!a )\b(?:last|next|this)\s+{_UNITS}\b(?!\s+of\b)",
        r"\bsince\s+then\b|\bthe\s+others\b|\bthe\s+other\s+[a-z]+\?",
        r"\b(?:yesterday|tomorrow|last\s+(?:[A-Z]\w+day|time))\b",
        r"(?<!up )\bto\s+date\b|\b(?:so\s+far|until\s+now|up\s+to\s+now|as\s+yet)\b"
        r"(?!\s+(?:of|as)\b)",
        r"(?<!from )(?<!and )\bhere\?"
        r"|(?<!over )(?<!out )(?<!are )(?<!is )(?<!were )(?<!was )\bthere\?",
        r"\bthe\s+(?:current|present|new|former|previous|then|outgoing|incoming|latest|other)\s+"
        r"(?:[a-z]{2,}(?:er|or|man|woman|ist|ent|ant)|head|chief|king|queen|champion|captain)\?",
        r"\bof\s+the\s+(?:two|three|four|five)\s+(?:is|are|was|were|has|had|do|does|did)\b",
        r"^[IO]n\s+which\s+(?:section|chapter|paragraph|line|verse|scene)\s+(?:is|are|was|were"
        r"|does|do|did)\b",
        r"\bthe\s+(?:paper|report|story|letter|document|novel|film|survey)['’]s\b",
        r"\bwas\s+the\s+(?:[a-z]+\s+)?(?:finding|result|outcome|hypothesis|verdict"
        r"|conclusion)\s*\?",
        # What only one text tells of, in the past.
        r"^(?:How\s+many|Which|What|Who)\b[^?]*\b(?:was|were)\s+(?:included|excluded|enrolled"
        r"|recruited|surveyed|interviewed|sampled|randomi[sz]ed)\s*\?",
        rf"\b(?:was|were|did|had)\s+the\s+{_WHICH_ONE}{_PEOPLE}['’]",
        rf"\bdid\s+the\s+{_WHICH_ONE}{_PEOPLE}(?:{_LONE_VERB.pattern})",
        r"^(?:What|Who|Which|Where|When)\s+(?:is|are|was|were)\s+the\s+(?:[a-z]+\s+)?[a-z]+\s+of"
        r"\s+the\s+(?:document|report|paper|list|story|letter|e-?mail|conversation|review|thesis"
        r"|image"
        r"|picture|photo|scenario|statement|survey|summary|research|novel|scene|speech|analysis"
        r"|lecture|table|figure)s?\s*\?",
        rf"\b(?:was|were|had|has|have)\s+the\s+{_WHICH_ONE}{_PEOPLE}"
        r"(?=\s*\?|\s+(?:[a-z]+ed|[a-z]+en|in|on|at|by|with|when|before|after|found|held|built"
        r"|made|told|sent|paid|known|brought|led)\b)",
        rf"^(?!.*\b(?:that|which|who|name)\s)[^?,]*\b{_PAST}\b[^?,]*"
        rf"\bthe\s+{_WHICH_ONE}{_PEOPLE}\s*\?",
        rf"^Who\s+{_PAST}\b[^?,]*\bthe\s+{_WHICH_ONE}{_PEOPLE}\s*\?",
        rf"\b(?:does|do)\s+the\s+{_PEOPLE}\s+(?:claim|argue|say|allege|recommend|propose|conclude"
        r"|suggest|suffer|think|believe|demand|plan)\b",
    )
)
