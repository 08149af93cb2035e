"""Finds what a model must not learn by heart: keys and passwords, card, account and telephone
numbers, e-mail addresses. A tuned model repeats what it has read.

Well-kept libraries decide what is what: detect-secrets knows the keys of services, python-stdnum
the check digits of cards and accounts, phonenumbers the telephone numbers of every country. Cheap
patterns choose the few lines that they look at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from rag_ft.text import MASK

# The number of digits of card numbers and of telephone numbers.
CARD_DIGITS, PHONE_DIGITS = range(13, 20), range(6, 16)
SHORTEST_IBAN, LONGEST_IBAN = 15, 34

# A line may hold a key where it has a long run of the characters of keys, with a digit.
_KEY_LIKE = re.compile(r"[A-Za-z0-9_\-+/=.]{16,}|:[^\s/@]{1,200}@")
_KEY_CHARACTERS = re.compile(r"[A-Za-z0-9_\-+/=]*")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL
)
# `password: x`, `api_key = "x"`, `"pwd": "x"`; the words are those of detect-secrets, and more.
_NAMED_SECRET = re.compile(
    r"""(?:pass(?:word|wd|phrase|wort|code)|pwd|passwort|kennwort|contrase[nñ]a|mot\ de\ passe|senha
    |пароль|密码|密碼|パスワード|secret|token|credential|\bpin
    |(?:api|auth|access|service|account|db|database|priv|private|client|secret|license)[_\- ]?key
    |(?:db|database|key)_?pass)\w{0,20}["'\]`*]{0,3}
    (?:\s?(?::=|=>|={1,3}|[:：])\s?|\s(?:is|ist|lautet|est)\s)
    (?:["'`](?P<quoted>[^"'`\n]{3,200})["'`]|(?P<bare>[^\s"'`,;<>]{4,200}))""",
    re.IGNORECASE | re.VERBOSE,
)
_EMAIL = re.compile(r"(?<![\w.+\-])[\w.+\-]{1,64}@[\w\-]{1,63}(?:\.[\w\-]{1,63}){1,8}")
_DIGITS = re.compile(r"(?<![\w.,])\d(?:[ \-\u00a0\u2009\u2011]?\d){12,18}(?!\w)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ \u00a0]?[A-Z0-9]){11,30}(?!\w)")
_NAMED_ACCOUNT = re.compile(
    r"(?:\b(?:account|acct|a/c|konto|compte|cuenta|conta|kontonummer|kontonr|счет|счёт)\b|账号|口座番号)"
    r"(?:[ \-]?(?:number|no|nr|num|nº|n°)\b\.?)?\W{0,4}(?:\w{1,8}\W{1,3})?"
    r"(?P<number>\d(?:[ \-./]?\d){5,19})(?!\w)",
    re.IGNORECASE,
)
_NAMED_PHONE = re.compile(
    r"(?:(?<![\w.])(?:tel|telephone|telefon|teléfono|"
    r"téléphone|telefone|telefono|phone|fax|mobile|mobil|"
    r"móvil|cell|handy|call|rufnummer|whatsapp|тел|телефон)\b\.?|电话|電話|전화|[☎📞✆☏📱])"
    r"(?:[^\w(+＋]{0,4}|[^\w(+＋]{1,3}\w{1,10}[^\w(+＋]{1,3})"
    r"(?P<number>\(?[+＋]?\d(?:[ ()./\-\u00a0\u2011]{0,3}\d){5,14})(?!\w)",
    re.IGNORECASE,
)
# What is cheap to see: without it there is no such number, and no such name.
_MANY_DIGITS = re.compile(r"\d(?:[ ()./\-\u00a0\u2009\u2011]{0,3}\d){5}")
_NAMES = (
    *("password", "passwd", "passphrase", "passwort", "passcode", "dbpass", "databasepass"),
    *("keypass", "_pass", "pwd", "kennwort", "contrase", "mot de passe", "senha", "парол", "密"),
    *("パスワード", "secret", "token", "credential"),
)
_OWNERS_OF_KEYS = (
    *("api", "auth", "access", "service", "account", "db", "database", "priv"),
    *("private", "client", "secret", "license"),
)
_PIN = re.compile(r"\bpin")
# Letters that are i, s or k where case is ignored, but not in lower case.
_FOLDED = re.compile("[\u0307\u0131\u017f]")
_PHONE_LIKE = re.compile(
    r"(?<![\w.,/\-])[(+＋]{0,2}\d(?:[ ()./\-\u00a0\u2011]{0,3}\d){6,14}(?![\w\-/])"
)


class Sensitive(NamedTuple):
    """`text[start:end]` is sensitive; `kind` is secret, card, account, phone or e-mail."""

    start: int
    end: int
    kind: str


def find_sensitive(text: str, phone_regions: Sequence[str] = ()) -> list[Sensitive]:
    """Returns what is sensitive in a text, in order; the places do not overlap.

    `phone_regions` are countries (US, DE) whose telephone numbers are known without `+` and without
    a word such as `tel.` before them.
    """
    found: list[Sensitive] = []
    taken = bytearray(len(text))
    for place in _candidates(text, phone_regions):
        if not any(taken[place.start : place.end]):
            taken[place.start : place.end] = b"\1" * (place.end - place.start)
            found.append(place)
    return sorted(found)


def masked(text: str, found: Sequence[Sensitive]) -> str:
    """Returns the text with every sensitive character but white space replaced by one other
    character: all positions stay."""
    parts, end = [], 0
    for place in found:
        parts += [text[end : place.start], re.sub(r"\S", MASK, text[place.start : place.end])]
        end = place.end
    return "".join(parts) + text[end:]


def masked_values(value: Any, phone_regions: Sequence[str]) -> Any:
    """Returns a JSON value with what is sensitive in its texts masked."""
    if isinstance(value, str):
        return masked(value, find_sensitive(value, phone_regions))
    if isinstance(value, list):
        return [masked_values(item, phone_regions) for item in value]
    if isinstance(value, dict):
        return {name: masked_values(item, phone_regions) for name, item in value.items()}
    return value


def count_kinds(found: Sequence[Sensitive]) -> dict[str, int]:
    """Returns how many there are of each kind."""
    return dict(Counter(place.kind for place in found).most_common())


def _candidates(text: str, phone_regions: Sequence[str]) -> Iterator[Sensitive]:
    """Yields what is found; of two that overlap the first one counts."""
    yield from _secrets(text)
    if "@" in text:
        yield from (Sensitive(*match.span(), "e-mail") for match in _EMAIL.finditer(text))
    if not _MANY_DIGITS.search(text):
        return
    for match in _DIGITS.finditer(text):
        if _is_card(match[0]):
            yield Sensitive(*match.span(), "card")
    for match in _IBAN.finditer(text):
        if length := _iban_length(match[0]):
            yield Sensitive(match.start(), match.start() + length, "account")
    for pattern, kind in ((_NAMED_ACCOUNT, "account"), (_NAMED_PHONE, "phone")):
        yield from (Sensitive(*m.span("number"), kind) for m in pattern.finditer(text))
    yield from _phones(text, phone_regions)


def _secrets(text: str) -> Iterator[Sensitive]:
    if "-----BEGIN" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield Sensitive(*match.span(), "secret")
    for match in _NAMED_SECRET.finditer(text) if _names_secret(text.lower()) else ():
        group = "quoted" if match["quoted"] else "bare"
        start, end = match.span(group)
        end -= len(match[group]) - len(match[group].rstrip(".!?)]}"))
        if _may_be_secret(match[group], group == "quoted"):
            yield Sensitive(start, end, "secret")
    seen = -1
    for run in _KEY_LIKE.finditer(text):
        if run.start() < seen or not ("@" in run[0] or any(map(str.isdigit, run[0]))):
            continue
        # Some keys are known by a name before them, so what stands around is looked at.
        start = max(text.rfind("\n", 0, run.start()) + 1, run.start() - 200)
        stop = text.find("\n", run.end(), run.end() + 200)
        seen = stop if stop >= 0 else run.end() + 200
        for pattern in _key_patterns():
            for match in pattern.finditer(text, start, seen):
                # A group of a pattern is the key itself, or a short part such as its prefix.
                has_key = pattern.groups and len(match[1] or "") > 4
                # A pattern may stop before the end of a key.
                rest = _KEY_CHARACTERS.match(text, match.end())
                whole = (match.start(), rest.end() if rest else match.end())
                yield Sensitive(*(match.span(1) if has_key else whole), "secret")


def _names_secret(lower: str) -> bool:
    """Whether a text may have a name of _NAMED_SECRET, which is slow: "pin" and "key" alone are
    parts of many words."""
    if any(name in lower for name in _NAMES) or ("pin" in lower and _PIN.search(lower)):
        return True
    # An "api_key" is meant, not "the key".
    before = (part.removesuffix("_").rstrip("- ") for part in lower.split("key")[:-1])
    return any(part.endswith(_OWNERS_OF_KEYS) for part in before) or bool(_FOLDED.search(lower))


@lru_cache(maxsize=1)
def _key_patterns() -> list[re.Pattern[str]]:
    """The patterns of detect-secrets for keys that are known by their form."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    # Public addresses are no secret; names and private keys are looked for above.
    left_out = ("IPPublicDetector", "PrivateKeyDetector")
    kinds: Any = get_mapping_from_secret_type_to_class().values()
    chosen = [kind for kind in kinds if kind.__name__ not in left_out]
    return [pattern for kind in chosen for pattern in getattr(kind, "denylist", ())]


def _may_be_secret(value: str, is_quoted: bool) -> bool:
    """Whether a value after a name such as `password` is one, and no word of the sentence
    (`password: see below`), placeholder (`<token>`, `${TOKEN}`) or call (`get_token()`)."""
    from detect_secrets.filters.heuristic import is_indirect_reference, is_templated_secret

    if is_templated_secret(value) or is_indirect_reference(value) or set(value) <= set("*x.…•-_"):
        return False
    plain = value.rstrip(".!?)]}")
    if plain.lower() in ("none", "null", "true", "false", "required", "string", "your_password"):
        return False
    if is_quoted:
        return " " not in value or any(map(str.isdigit, value))
    has_digit = any(map(str.isdigit, plain))
    mixed = plain != plain.lower() and plain[1:] != plain[1:].lower()
    return len(plain) >= 4 and (has_digit or mixed or bool(re.search(r"\w[!$%&*+@#^~?]", plain)))


def _is_card(number: str) -> bool:
    from stdnum import luhn

    digits = re.sub(r"\D", "", number)
    if len(digits) not in CARD_DIGITS or digits[0] not in "23456" or len(set(digits)) < 2:
        return False
    return luhn.is_valid(digits)


def _iban_length(candidate: str) -> int:
    """The length of the account number that the text begins with; 0 if there is none."""
    from stdnum import iban

    for length in range(len(candidate), SHORTEST_IBAN - 1, -1):
        part = candidate[:length]
        if part[-1].isalnum() and iban.is_valid(part.replace("\u00a0", " ")):
            return length
    return 0


def _phones(text: str, regions: Sequence[str]) -> Iterator[Sensitive]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in _PHONE_LIKE.finditer(text):
        is_international = match[0].lstrip("(")[0] in "+＋"
        leniency = Leniency.POSSIBLE if is_international else Leniency.STRICT_GROUPING
        # Its surroundings tell a number from a part of a longer one.
        start = max(0, match.start() - 10)
        around = text[start : match.end() + 10]
        for region in (None,) if is_international else regions:
            found = list(PhoneNumberMatcher(around, region, leniency=leniency))
            for phone in found:
                yield Sensitive(start + phone.start, start + phone.end, "phone")
            if found:
                break
