"""Throughput of the hot loops on this machine, with randomly initialised models of true shapes. See gpu_check.sh.

Speed with random weights is that of real ones of the same shape; of quality it says nothing. Each check runs alone, its
failure is written down and the others go on. `--tiny` shrinks all shapes, to see on a CPU that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rag_ft.config import Config, make_config
from rag_ft.plan import GPU_TFLOPS
from rag_ft.stages import versions
from rag_ft.training.examples import Example
from rag_ft.training.memory import shape_of, training_memory
from rag_ft.training.tokens import Encoded

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
DEVICE = "cuda:0" if GPU else "cpu"
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "sentence-transformers", "faiss-gpu", "flash-attn")
# Shapes of Qwen3-0.6B and Qwen3-8B.
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": False},
}  # fmt: skip
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512, "tie_word_embeddings": True}  # fmt: skip
Row = dict[str, Any]


def main() -> None:
    args = _arguments()
    work = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    checks: dict[str, Callable[[], Row]] = {
        "sft-0.6b": lambda: fine_tuning("0.6b", args.tiny, work),
        "sft-8b": lambda: fine_tuning("8b", args.tiny, work),
        "scoring-0.6b": lambda: scoring("0.6b", args.tiny),
        "scoring-8b": lambda: scoring("8b", args.tiny),
        "encoding": lambda: encoding(args.tiny, work),
        "search": lambda: search(args.tiny),
        "demo": lambda: demo(work),
    }
    rows = [_checked(name, check) for name, check in checks.items() if name not in args.skip.split(",")]
    shutil.rmtree(work, ignore_errors=True)
    write_results(rows, args.tiny, args.out)


def fine_tuning(size: str, tiny: bool, work: Path) -> Row:
    """LoRA fine-tuning with the package's own trainer: tokens/s, model-FLOPs utilisation, peak against the plan's."""
    from transformers import AutoTokenizer

    from rag_ft.training.processes import Processes
    from rag_ft.training.sft import plan_schedule, train

    count = 8 if tiny else 256 if size == "0.6b" else 96
    config, model = _config(), _random_model(size, tiny)
    shape, examples = shape_of(model), _examples(count, 48 if tiny else 1024, model.config.vocab_size)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/models/demo-lm")
    schedule = plan_schedule(config, model, examples, 1)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    trained = train(config, tokenizer, examples, [], work / f"sft-{size}", Processes(0, 1), model)
    speed = trained.num_tokens / trained.seconds
    # 6 x parameters a token is what counts as useful work of a training step, 4 x where base weights are frozen.
    flops = shape.training_flops(False) * speed
    planned = training_memory(
        shape, config, schedule.device_batch_size * max(len(e.encoded.input_ids) for e in examples),
        schedule.device_batch_size * 32, "bfloat16" if GPU else "float32", GPU,
    )  # fmt: skip
    return {
        "tokens_per_second": round(speed), "steps": trained.num_steps, "device_batch": schedule.device_batch_size,
        "packed": schedule.packed, "parameters": shape.parameters, "mfu": _share_of_peak(flops),
        "peak_gb": _peak_gb(), "planned_gb": round(sum(planned.values()), 2),
    }  # fmt: skip


def scoring(size: str, tiny: bool) -> Row:
    """log p(answer | chunk, question), as the retriever's teacher asks for it: pairs/s."""
    from rag_ft.llm.scoring import score_jobs

    model = _random_model(size, tiny).eval()
    rng = random.Random(0)
    questions, chunks, length = (4, 4, 24) if tiny else (64, 10, 200)
    vocabulary = model.config.vocab_size
    jobs = []
    for _ in range(questions):
        question = [rng.randrange(vocabulary) for _ in range(20)]
        answer = [rng.randrange(vocabulary) for _ in range(8)]
        jobs += [([rng.randrange(vocabulary) for _ in range(length)] + question, answer) for _ in range(chunks)]
    score_jobs(model, jobs[:8], 16384, 0)
    seconds = _timed(lambda: score_jobs(model, jobs, 16384, 0))
    tokens = sum(len(prompt) + len(answer) for prompt, answer in jobs)
    flops = 2.0 * shape_of(model).parameters * tokens / seconds
    return {
        "pairs_per_second": round(len(jobs) / seconds, 1), "tokens_per_second": round(tokens / seconds),
        "mfu": _share_of_peak(flops), "peak_gb": _peak_gb(),
    }  # fmt: skip


def encoding(tiny: bool, work: Path) -> Row:
    """Chunks/s of an encoder of BERT-base's shape over chunks of 60-200 tokens."""
    from rag_ft.config import EncoderConfig
    from rag_ft.retrieval.encoder import load_encoder

    folder = _random_encoder(work / "encoder", tiny)
    encoder = load_encoder(EncoderConfig(model=str(folder), batch_tokens=4096 if tiny else 131072))
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["the", "of", "is", "in", "to"], k=rng.randint(60, 200)))
             for _ in range(32 if tiny else 20_000)]  # fmt: skip
    encoder.encode_chunks(texts[:64])
    seconds = _timed(lambda: encoder.encode_chunks(texts))
    return {"chunks_per_second": round(len(texts) / seconds), "num_chunks": len(texts), "peak_gb": _peak_gb()}


def search(tiny: bool) -> Row:
    """Exact search over a million vectors of 768 numbers: questions/s in batches."""
    import faiss

    number, width, asked = (2000, 32, 10) if tiny else (1_000_000, 768, 1000)
    rng = np.random.default_rng(0)
    index = faiss.IndexFlatIP(width)
    for _ in range(10):
        index.add(rng.standard_normal((number // 10, width), dtype=np.float32))
    questions = rng.standard_normal((asked, width), dtype=np.float32)
    gpus = faiss.get_num_gpus()
    if gpus:
        index = faiss.index_cpu_to_all_gpus(index)
    index.search(questions[:8], 10)
    seconds = _timed(lambda: index.search(questions, 10))
    return {"questions_per_second": round(asked / seconds, 1), "num_vectors": number, "gpus": gpus}


def demo(work: Path) -> Row:
    """The demo pipeline on this device: seconds a stage."""
    command = [sys.executable, "-c", "import sys; from rag_ft.cli import main; sys.exit(main())", "run",
               "configs/demo.yaml", f"run.dir={work / 'demo'}"]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-400:])
    stages = {path.name.split(".")[0]: json.loads(path.read_text()) for path in (work / "demo").glob("*.done.json")}
    return {"seconds": round(time.perf_counter() - start, 1),
            **{f"{name}_seconds": row["seconds"] for name, row in stages.items()}}  # fmt: skip


def write_results(rows: list[Row], tiny: bool, out: Path) -> None:
    """One JSON and one markdown table."""
    name = torch.cuda.get_device_name() if GPU else "cpu"
    found = {
        "date": datetime.date.today().isoformat(), "device": name, "num_gpus": torch.cuda.device_count(), "tiny": tiny,
        "versions": _versions(), "checks": rows,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"gpu-{'-'.join(name.lower().split())}-{found['date']}{'-tiny' if tiny else ''}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{package} {version}" for package, version in _versions().items())
    title = f"# {name}, {found['date']}{' (tiny shapes: no measurement)' if tiny else ''}"
    lines = [title, "", versions, "", "| check | result |", "|---|---|"]
    lines += [f"| {row['check']} | {', '.join(f'{k} {v}' for k, v in row.items() if k != 'check')} |" for row in rows]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines), path, sep="\n")


def _checked(name: str, check: Callable[[], Row]) -> Row:
    print(f"[{name}]", file=sys.stderr, flush=True)
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return {"check": name, **check()}
    except Exception as error:
        traceback.print_exc()
        return {"check": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def _config() -> Config:
    knobs = {"epochs": 1, "batch_size": 32, "max_tokens": 2048, "evaluations": 1, "rank": 32}
    llm = {"model": str(ROOT / "data/models/demo-lm"), "prompts": "compact"}
    return make_config({"llm": llm, "train_generator": knobs})


def _random_model(size: str, tiny: bool) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rag_ft.training.adapters import attention

    torch.manual_seed(0)
    config = Qwen3Config(**(TINY if tiny else SHAPES[size]), max_position_embeddings=4096)
    config._attn_implementation = attention(_config())
    with torch.device(DEVICE):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16 if GPU else torch.float32)
        model = Qwen3ForCausalLM(config)
        torch.set_default_dtype(before)
    return model


def _random_encoder(folder: Path, tiny: bool) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", "is", "in", "to"]
    width = 32 if tiny else 768
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64} if tiny else {}
    BertModel(BertConfig(vocab_size=30522, hidden_size=width, **shape)).save_pretrained(folder / "base")
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder / "base")
    modules = [Transformer(str(folder / "base"), max_seq_length=512), Pooling(width, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def _examples(count: int, longest: int, vocabulary: int) -> list[Example]:
    """Token ids drawn at random, with lengths as retrieved contexts have them (half to full length)."""
    rng = random.Random(0)
    examples = []
    for number in range(count):
        length = rng.randint(longest // 2, longest)
        ids = tuple(rng.randrange(vocabulary) for _ in range(length))
        examples.append(Example(f"e{number}", "answer", (), "", (), Encoded(ids, length - 16)))
    return examples


def _timed(work: Callable[[], Any]) -> float:
    if GPU:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _share_of_peak(flops: float) -> float | None:
    peak = next((t for key, t in GPU_TFLOPS.items() if key in torch.cuda.get_device_name()), None) if GPU else None
    return round(flops / (peak * 1e12), 3) if peak else None


def _peak_gb() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if GPU else None


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **versions(PACKAGES)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of the hot loops on this machine")
    parser.add_argument("--tiny", action="store_true", help="small shapes: shows on a CPU that the script works")
    parser.add_argument("--skip", default="", help="checks to leave out, comma-separated")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
