"""PDF files, read with pypdf."""

from __future__ import annotations

import io
import logging
import re

from rag_ft.documents.formats.cleaning import is_program_title, tidy, unwrap
from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError


def read_pdf(raw: bytes) -> Content:
    """Text page by page, words hyphenated at a line's end joined; the title from the file's metadata.

    Raises:
        UnreadableError: "corrupt", or "encrypted" where it does not open with an empty password.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    logging.getLogger("pypdf").setLevel(
        logging.CRITICAL
    )  # it logs every oddity; the reject says what matters
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("encrypted", "the PDF wants a password: save it without one")
        pages = [page.extract_text() for page in reader.pages]
        named = str(reader.metadata.title or "") if reader.metadata else ""
    except DependencyError as error:
        raise UnreadableError("encrypted", "save the PDF without encryption") from error
    except (PyPdfError, *MALFORMED_FILE_ERRORS) as error:
        raise UnreadableError("corrupt", f"PDF: {str(error) or type(error).__name__}") from error
    text = re.sub(r"(?<=[a-zäöüßéèà])-\n(?=[a-zäöüßéèà])", "", tidy("\n".join(pages)))
    title = "" if is_program_title(named) else named
    return Content(title, unwrap(text), {"num_pages": len(pages)})
