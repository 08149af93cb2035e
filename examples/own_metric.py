"""A metric of your own over the predictions of a run: python examples/own_metric.py CONFIG.

To have it in every report, put `starts_right` into rag_ft/evaluation/metrics/ and add one line to
METRICS in rag_ft/evaluation/metric_table.py.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rag_ft import load_config
from rag_ft.run_dir import RunDir
from rag_ft.schema import Prediction, QAPair
from rag_ft.storage import read_jsonl


def starts_right(answer: str, accepted: Sequence[str]) -> float:
    """1.0 if the answer begins with the first word of an accepted answer."""
    first = answer.lower().split()[:1]
    return float(any(first == other.lower().split()[:1] for other in accepted))


run_dir = RunDir(load_config(Path(sys.argv[1])).run_path)
pairs = {pair.id: pair for pair in read_jsonl(run_dir.qa, QAPair)}
for path in sorted(run_dir.predictions("x").parent.glob("*.jsonl")):
    values = [
        starts_right(prediction.answer, pairs[prediction.question_id].answers)
        for prediction in read_jsonl(path, Prediction)
        if pairs[prediction.question_id].answerable
    ]
    if values:
        print(f"{path.stem:20} {100 * sum(values) / len(values):5.1f}  ({len(values)} questions)")
