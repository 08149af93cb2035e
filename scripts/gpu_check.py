"""Throughput of the hot loops on this machine, with randomly initialised models of true shapes. See
gpu_check.sh.

Speed with random weights is that of real ones of the same shape; of quality it says nothing. Each
check runs in a process of its own (a CUDA error or memory that is kept ends with it), its failure
is written down and the others go on; results are written after each. `--tiny` shrinks all shapes,
to see on a CPU that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
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

from rag_ft.commands.plan import GPU_TFLOPS
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.pipeline import versions
from rag_ft.training.generator.context_layouts import Example
from rag_ft.training.generator.tokenization import Encoded
from rag_ft.training.memory_estimate import shape_of, training_memory

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
DEVICE = "cuda:0" if GPU else "cpu"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "sentence-transformers",
    "faiss-gpu",
    "flash-attn",
)
# Shapes of Qwen3-0.6B and Qwen3-8B.
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "tie_word_embeddings": False,
    },
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}
WARM_STEPS, TIMED_STEPS = 3, 20
ANSWER_TOKENS = 16
DEMO_SECONDS = 500
CHECK_SECONDS = 600
ROW = "row: "  # what stands before a check's result in the output of its process
Row = dict[str, Any]


def main() -> None:
    args = _arguments()
    if args.only:
        print(ROW + json.dumps(_checked(args.only, args.tiny)), flush=True)
        return
    rows: list[Row] = []
    for name in CHECKS:
        if name not in args.skip.split(","):
            rows.append(_in_own_process(name, args.tiny))
            path = write_results(rows, args.tiny, args.out)
    print(path.with_suffix(".md").read_text(encoding="utf-8") if rows else "every check is skipped")


def fine_tuning(size: str, tiny: bool, work: Path) -> Row:
    """LoRA fine-tuning with the package's own trainer: tokens/s, model-FLOPs utilisation, peak
    against the plan's."""
    from transformers import AutoTokenizer

    from rag_ft.training.distributed import Processes
    from rag_ft.training.generator.trainer import plan_schedule, train

    batch = 4 if tiny else 32 if size == "0.6b" else 8
    config, model = _config(batch), _random_model(size, tiny)
    shape = shape_of(model)
    examples = _examples(
        batch * (WARM_STEPS + TIMED_STEPS), 48 if tiny else 1024, model.config.vocab_size
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/models/demo-lm")
    schedule = plan_schedule(config, model, examples, 1)
    timer = _step_timer()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    train(config, tokenizer, examples, [], work / "sft", Processes(0, 1), model, callbacks=[timer])
    lengths = [len(example.encoded.input_ids) for example in examples]
    speed = timer.epochs * sum(lengths) / timer.seconds
    flops = speed * shape.training_flops(
        False,
        ANSWER_TOKENS * len(lengths) / sum(lengths),
        sum(n * n for n in lengths) / sum(lengths),
        shape.adapter_parameters(config.train_generator.advanced.rank),
    )
    planned = training_memory(
        shape,
        config,
        schedule.device_batch_size * max(lengths),
        schedule.device_batch_size * ANSWER_TOKENS,
        "bfloat16" if GPU else "float32",
        GPU,
    )
    planned.pop("fixed")  # the CUDA context is not among what the allocator counts
    return {
        "tokens_per_second": round(speed),
        "timed_steps": TIMED_STEPS,
        "seconds": round(timer.seconds, 2),
        "examples_a_step": batch,
        "device_batch": schedule.device_batch_size,
        "packed": schedule.packed,
        "parameters": shape.parameters,
        "mfu": _share_of_peak(flops),
        "peak_gb": _peak_gb(),
        "planned_gb": round(sum(planned.values()), 2),
    }


def _step_timer() -> Any:
    """A trainer callback: `seconds` and `epochs` of the steps after the first WARM_STEPS (which
    compile kernels and fill the allocator), to the end of the last, before its checkpoint."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step not in (WARM_STEPS, WARM_STEPS + TIMED_STEPS):
                return
            if GPU:
                torch.cuda.synchronize()
            if state.global_step == WARM_STEPS:
                self.start = time.perf_counter(), state.epoch
            else:
                self.seconds, self.epochs = (
                    time.perf_counter() - self.start[0],
                    state.epoch - self.start[1],
                )

    return Timer()


def scoring(size: str, tiny: bool) -> Row:
    """log p(answer | chunk, question), as the retriever's teacher asks for it: pairs/s."""
    from rag_ft.fast.answer_logprobs import score_jobs

    model = _random_model(size, tiny).eval()
    rng = random.Random(0)
    questions, chunks, length = (4, 4, 24) if tiny else (64, 10, 200)
    vocabulary = model.config.vocab_size
    jobs = []
    for _ in range(questions):
        question = [rng.randrange(vocabulary) for _ in range(20)]
        answer = [rng.randrange(vocabulary) for _ in range(8)]
        jobs += [
            ([rng.randrange(vocabulary) for _ in range(length)] + question, answer)
            for _ in range(chunks)
        ]
    score_jobs(model, jobs[:8], 16384, 0)
    seconds = _timed(lambda: score_jobs(model, jobs, 16384, 0))
    tokens = sum(len(prompt) + len(answer) for prompt, answer in jobs)
    share = sum(len(answer) for _, answer in jobs) / tokens
    flops = shape_of(model).forward_flops(share, tokens / len(jobs)) * tokens / seconds
    return {
        "pairs_per_second": round(len(jobs) / seconds, 1),
        "tokens_per_second": round(tokens / seconds),
        "mfu": _share_of_peak(flops),
        "peak_gb": _peak_gb(),
    }


def encoding(tiny: bool, work: Path) -> Row:
    """Chunks/s of an encoder of BERT-base's shape over chunks of 60-200 tokens."""
    from rag_ft.config import EncoderConfig
    from rag_ft.retrieval.encoder import load_encoder

    folder = _random_encoder(work / "encoder", tiny)
    encoder = load_encoder(
        EncoderConfig(model=str(folder), advanced={"batch_tokens": 4096 if tiny else 131072})
    )
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices(["the", "of", "is", "in", "to"], k=rng.randint(60, 200)))
        for _ in range(32 if tiny else 20_000)
    ]
    encoder.encode_chunks(texts[:64])
    seconds = _timed(lambda: encoder.encode_chunks(texts))
    return {
        "chunks_per_second": round(len(texts) / seconds),
        "num_chunks": len(texts),
        "peak_gb": _peak_gb(),
    }


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
    command = [
        sys.executable,
        "-c",
        "import sys; from rag_ft.cli import main; sys.exit(main())",
        "run",
        "configs/demo.yaml",
        f"run.dir={work / 'demo'}",
    ]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-400:])
    stages = {
        path.name.split(".")[0]: json.loads(path.read_text())
        for path in (work / "demo").glob("*.done.json")
    }
    return {
        "seconds": round(time.perf_counter() - start, 1),
        **{f"{name}_seconds": row["seconds"] for name, row in stages.items()},
    }


def vllm(tiny: bool, work: Path) -> Row:
    """A server on a model of random weights, asked as the stages ask: requests/s, tokens read and
    written a second. Its vocabulary is the tokenizer's, smaller than the shape's own."""
    from transformers import AutoTokenizer

    from rag_ft.config import LLMConfig
    from rag_ft.errors import ConfigError
    from rag_ft.llm.factory import open_language_model
    from rag_ft.llm.interface import ChatRequest
    from rag_ft.llm.vllm_process import find_vllm_python, is_cpu_build

    try:
        on_cpu = is_cpu_build(find_vllm_python(None))
    except ConfigError as error:
        return {"skipped": str(error)}
    if (on_cpu and not tiny) or not (on_cpu or GPU):
        return {"skipped": "this vLLM is the CPU build" if on_cpu else "no GPU is visible"}
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "data/models/demo-lm")
    model = _random_model(
        "0.6b", tiny, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    for part in (model, tokenizer):
        part.save_pretrained(work / "model")
    del model, part
    count, words, longest = (4, 20, 4) if tiny else (1000, 400, 64)
    rng = random.Random(0)
    asked = [" ".join(rng.choices(["the", "of", "is", "in", "to"], k=words)) for _ in range(count)]
    requests = [
        ChatRequest(str(n), ({"role": "user", "content": text},), longest)
        for n, text in enumerate(asked)
    ]
    config = LLMConfig(
        backend="vllm", model=str(work / "model"), prompts="compact", max_model_tokens=2048
    )
    with open_language_model(config, 0, log_path=work / "vllm.log") as served:
        list(served.chat(requests[: count // 10]))
        start = time.perf_counter()
        replies = list(served.chat(requests[count // 10 :]))
        seconds = time.perf_counter() - start
    failed = sum(reply.error is not None for reply in replies)
    return {
        "requests_per_second": round(len(replies) / seconds, 1),
        "read_tokens_per_second": round(sum(reply.prompt_tokens for reply in replies) / seconds),
        "written_tokens_per_second": round(
            sum(reply.completion_tokens for reply in replies) / seconds
        ),
        "requests": len(replies),
        "failed": failed,
    }


CHECKS: dict[str, Callable[[bool, Path], Row]] = {
    "sft-0.6b": lambda tiny, work: fine_tuning("0.6b", tiny, work),
    "sft-8b": lambda tiny, work: fine_tuning("8b", tiny, work),
    "scoring-0.6b": lambda tiny, _: scoring("0.6b", tiny),
    "scoring-8b": lambda tiny, _: scoring("8b", tiny),
    "encoding": encoding,
    "search": lambda tiny, _: search(tiny),
    "vllm": vllm,
    "demo": lambda _, work: demo(work),
}


def write_results(rows: list[Row], tiny: bool, out: Path) -> Path:
    """One JSON, whose path is returned, and one markdown table beside it."""
    name = torch.cuda.get_device_name() if GPU else "cpu"
    found = {
        "date": datetime.date.today().isoformat(),
        "device": name,
        "num_gpus": torch.cuda.device_count(),
        "tiny": tiny,
        "versions": _versions(),
        "checks": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = (
        out / f"gpu-{'-'.join(name.lower().split())}-{found['date']}{'-tiny' if tiny else ''}.json"
    )
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    versions = ", ".join(f"{package} {version}" for package, version in _versions().items())
    title = f"# {name}, {found['date']}{' (tiny shapes: no measurement)' if tiny else ''}"
    lines = [title, "", versions, "", "| check | result |", "|---|---|"]
    lines += [
        f"| {row['check']} | {', '.join(f'{k} {v}' for k, v in row.items() if k != 'check')} |"
        for row in rows
    ]
    path.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _in_own_process(name: str, tiny: bool) -> Row:
    print(f"[{name}]", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--only", name, *(["--tiny"] if tiny else [])]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, timeout=CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"check": name, "error": f"not done after {CHECK_SECONDS} s"}
    found = [line for line in done.stdout.splitlines() if line.startswith(ROW)]
    return (
        json.loads(found[-1].removeprefix(ROW))
        if found
        else {"check": name, "error": f"the process ended with code {done.returncode}"}
    )


def _checked(name: str, tiny: bool) -> Row:
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as work:
            return {"check": name, **CHECKS[name](tiny, Path(work))}
    except Exception as error:
        traceback.print_exc()
        return {
            "check": name,
            "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        }


def _config(batch_size: int = 32) -> Config:
    settings = {
        "max_steps": WARM_STEPS + TIMED_STEPS,
        "batch_size": batch_size,
        "max_tokens": 2048,
        "evaluations": 1,
        "rank": 32,
    }
    llm = {"model": str(ROOT / "data/models/demo-lm"), "prompts": "compact"}
    return make_config({"llm": llm, "train_generator": settings})


def _random_model(size: str, tiny: bool, **changes: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from rag_ft.training.generator.lora import attention

    torch.manual_seed(0)
    config = Qwen3Config(
        **{**(TINY if tiny else SHAPES[size]), "max_position_embeddings": 4096, **changes}
    )
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
    shape = (
        {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64} if tiny else {}
    )
    BertModel(BertConfig(vocab_size=30522, hidden_size=width, **shape)).save_pretrained(
        folder / "base"
    )
    BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(
        folder / "base"
    )
    modules = [
        Transformer(str(folder / "base"), max_seq_length=512),
        Pooling(width, "mean"),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "encoder"))
    return folder / "encoder"


def _examples(count: int, longest: int, vocabulary: int) -> list[Example]:
    """Token ids drawn at random, with lengths as retrieved contexts have them (half to full
    length)."""
    rng = random.Random(0)
    examples = []
    for number in range(count):
        length = rng.randint(longest // 2, longest)
        ids = tuple(rng.randrange(vocabulary) for _ in range(length))
        examples.append(
            Example(f"e{number}", "answer", (), "", (), Encoded(ids, length - ANSWER_TOKENS))
        )
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
    peak = (
        next((t for key, t in GPU_TFLOPS.items() if key in torch.cuda.get_device_name()), None)
        if GPU
        else None
    )
    return round(flops / (peak * 1e12), 3) if peak else None


def _peak_gb() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if GPU else None


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0], **versions(PACKAGES)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput of the hot loops on this machine")
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes: shows on a CPU that the script works"
    )
    parser.add_argument(
        "--only", choices=list(CHECKS), help="one check in this process; prints its row as JSON"
    )
    parser.add_argument("--skip", default="", help="checks to leave out, comma-separated")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
