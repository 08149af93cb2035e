"""rag_ft: from raw documents to a measurably better local question-answering system."""

import os

# Idle OpenMP threads sleep instead of spinning: beside one busy process, training was 2.5 to 5
# times slower with spinning threads. OpenMP reads this once, when torch or FAISS is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
