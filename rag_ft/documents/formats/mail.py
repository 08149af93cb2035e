"""Reads e-mails and mailboxes with the standard library."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterable, Iterator
from email.message import EmailMessage, MIMEPart

from rag_ft.documents.formats.content import (
    MALFORMED_FILE_ERRORS,
    Block,
    Content,
    UnreadableError,
)
from rag_ft.documents.formats.encodings import codec_of, decode
from rag_ft.documents.formats.html import content_of_html
from rag_ft.documents.formats.text import content_of_text

_HEADERS = ("From", "To", "Cc", "Date")
# Messages inside messages are read to this depth.
MAX_FORWARDED = 3
_ENCODED = re.compile(rb"=\?([\w.:-]{1,40})\?(?=[bBqQ]\?)")
_FROM_LINE = re.compile(rb"^From \S+.*\d\d:\d\d.*$", re.MULTILINE)


def read_mail(raw: bytes) -> Content:
    """Returns sender, receivers and date as fields, then the text of the message.

    Plain text is preferred to HTML. The title is the subject. Attachments are noted, not read.

    Raises:
        UnreadableError: "corrupt" where there is neither a header nor a text.
    """
    try:
        message = email.message_from_bytes(_header_labels(raw), policy=email.policy.default)
        fields = _fields(message)
        subject = str(message.get("Subject", ""))
        notes = [
            (f"attachment {part.get_filename() or part.get_content_type()}", "not read")
            for part in message.walk()
            if part.get_content_disposition() == "attachment"
        ]
        body = _body(message)
    except MALFORMED_FILE_ERRORS as error:
        raise UnreadableError("corrupt", f"e-mail: {error}") from error
    if not fields and not subject:
        raise UnreadableError("corrupt", "e-mail: it has no header")
    blocks = [Block("heading", subject, 1)] if subject.strip() else []
    blocks += [Block("paragraph", "\n".join(fields))] if fields else []
    return Content(subject, blocks + body, notes=notes)


def _header_labels(raw: bytes) -> bytes:
    """Returns a message whose encoded headers name their charsets as Python understands them."""
    end = raw.find(b"\n\n") + 1 or raw.find(b"\r\n\r\n") + 1 or len(raw)
    return _ENCODED.sub(lambda m: b"=?%b?" % codec_of(m[1]).encode(), raw[:end]) + raw[end:]


def messages_of(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields (name, e-mail) of the messages in a mailbox (mbox)."""
    starts = list(_FROM_LINE.finditer(raw))
    ends = [match.start() for match in starts[1:]] + [len(raw)]
    for number, (match, end) in enumerate(zip(starts, ends, strict=True), 1):
        message = raw[match.end() : end].lstrip(b"\r\n")
        yield f"{number}.eml", re.sub(rb"^>(>*From )", rb"\1", message, flags=re.MULTILINE)


def html_of_mht(raw: bytes) -> bytes:
    """Returns the page of a web archive (MHT).

    Raises:
        UnreadableError: "corrupt" where it has none.
    """
    message = email.message_from_bytes(raw, policy=email.policy.default)
    for part in message.walk():
        if part.get_content_type() == "text/html":
            payload = part.get_payload(decode=True)
            charset = part.get_content_charset()
            if isinstance(payload, bytes):
                # The header of the part knows the charset, the page may not.
                return decode(payload, charset).encode()
    raise UnreadableError("corrupt", "web archive: it has no page")


def read_mht(raw: bytes) -> Content:
    """Returns the page of a web archive; see `html.read_html`."""
    return content_of_html(html_of_mht(raw).decode())


def _body(message: EmailMessage, depth: int = 0) -> list[Block]:
    found: list[Block] = []
    for kind in ("plain", "html"):
        part = message.get_body(preferencelist=(kind,))
        found = found or ([] if part is None else _part_blocks(part))
    # Further texts, and messages that are passed on.
    for part in message.iter_attachments() if message.is_multipart() else ():
        if part.get_content_disposition() == "attachment":
            continue
        if part.get_content_type() == "message/rfc822" and depth < MAX_FORWARDED:
            inner = part.get_content()
            found += [Block("paragraph", "\n".join(_fields(inner, ("Subject", *_HEADERS))))]
            found += _body(inner, depth + 1)
        elif part.get_content_maintype() == "text":
            found += _part_blocks(part)
    return found


def _fields(message: EmailMessage, names: Iterable[str] = _HEADERS) -> list[str]:
    return [f"{name}: {value}" for name in names if (value := str(message.get(name, "")))]


def _part_blocks(part: MIMEPart) -> list[Block]:
    payload = part.get_payload(decode=True)
    text = (
        decode(payload, part.get_content_charset())
        if isinstance(payload, bytes) and payload
        else ""
    )
    if part.get_content_type() == "text/html":
        return content_of_html(text).blocks
    return content_of_text(text).blocks if text.strip() else []
