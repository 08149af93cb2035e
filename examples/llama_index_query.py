"""A run as a retriever of LlamaIndex: python examples/llama_index_query.py CONFIG "question".

Needs the extra: pip install 'rag-ft[llama-index]'.
"""

import sys

from rag_ft.integrations.llama_index import RunRetriever

retriever = RunRetriever.from_config(sys.argv[1])
for node in retriever.retrieve(sys.argv[2]):
    print(f"{node.score:.3f} {node.node_id} {node.text[:60]}")
