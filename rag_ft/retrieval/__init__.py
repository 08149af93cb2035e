"""Encoder, FAISS, BM25, and the search over both."""
