"""Reads PDF files with pypdf."""

from __future__ import annotations

import io
import logging
import re

from rag_ft.documents.formats.cleaning import is_program_title, tidy, unwrap
from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError


def read_pdf(raw: bytes) -> Content:
    """Returns the text page by page, and the title from the file's metadata.

    Words hyphenated at the end of a line are joined. The metadata is {num_pages}.

    Raises:
        UnreadableError: "corrupt", or "encrypted" where an empty password does not open the file.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    # pypdf logs every irregularity of a file; the reject says what matters.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(raw))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("encrypted", "password required; save the PDF without one")
        pages = [page.extract_text() for page in reader.pages]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except DependencyError as error:
        raise UnreadableError("encrypted", "save the PDF without encryption") from error
    except (PyPdfError, *MALFORMED_FILE_ERRORS) as error:
        raise UnreadableError("corrupt", f"PDF: {str(error) or type(error).__name__}") from error
    text = re.sub(r"(?<=[a-zäöüßéèà])-\n(?=[a-zäöüßéèà])", "", tidy("\n".join(pages)))
    if is_program_title(title):
        title = ""
    return Content(title, unwrap(text), {"num_pages": len(pages)})
