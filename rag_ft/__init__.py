"""rag_ft: from raw documents to a measurably better local question-answering system."""

__version__ = "0.1.0"
