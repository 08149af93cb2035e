"""The hot loops that gpu_check.py measures: each check returns a row of numbers."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import random_encoder, random_ids, random_model, random_text

from rag_ft.commands.plan import GPU_TFLOPS
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.pipeline import read_done
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import NAMES
from rag_ft.training.generator.context_layouts import Example
from rag_ft.training.generator.tokenization import Encoded
from rag_ft.training.memory_estimate import training_memory
from rag_ft.training.model_shape import shape_of

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()
DEMO_LM = ROOT / "data/models/demo-lm"
WARM_STEPS, TIMED_STEPS = 3, 20
ANSWER_TOKENS = 16
DEMO_SECONDS = 500
Row = dict[str, Any]


def fine_tuning(size: str, tiny: bool, work: Path) -> Row:
    """LoRA fine-tuning with the package's own trainer: tokens/s, model-FLOPs utilisation, peak
    against the plan's."""
    from transformers import AutoTokenizer

    from rag_ft.training.distributed import Processes
    from rag_ft.training.generator.trainer import plan_schedule, train

    batch = 4 if tiny else 32 if size == "0.6b" else 8
    config, model = _config(batch), _model(size, tiny)
    shape, longest = shape_of(model), 48 if tiny else 1024
    examples = _examples(batch * (WARM_STEPS + TIMED_STEPS), longest, model)
    tokenizer = AutoTokenizer.from_pretrained(DEMO_LM)
    schedule = plan_schedule(config.train_generator, config.llm.dtype, model, examples, 1)
    timer = _step_timer()
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    train(config, tokenizer, examples, [], work / "sft", Processes(0, 1), model, callbacks=[timer])
    lengths = [len(example.encoded.input_ids) for example in examples]
    speed = timer.epochs * sum(lengths) / timer.seconds
    learned = ANSWER_TOKENS * len(lengths) / sum(lengths)
    attended = sum(n * n for n in lengths) / sum(lengths)
    adapter = shape.adapter_parameters(config.train_generator.advanced.rank)
    flops = speed * shape.training_flops(False, learned, attended, adapter)
    rows, dtype = schedule.device_batch_size, "bfloat16" if GPU else "float32"
    planned = training_memory(
        shape, config.train_generator, rows * max(lengths), rows * ANSWER_TOKENS, dtype, GPU
    )
    planned.pop("fixed")  # the CUDA context is not among what the allocator counts
    return {
        "tokens_per_second": round(speed),
        "timed_steps": TIMED_STEPS,
        "seconds": round(timer.seconds, 2),
        "examples_a_step": batch,
        "device_batch": rows,
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
            now = _clock()
            if state.global_step == WARM_STEPS:
                self.start = now, state.epoch
            else:
                self.seconds, self.epochs = now - self.start[0], state.epoch - self.start[1]

    return Timer()


def scoring(size: str, tiny: bool) -> Row:
    """log p(answer | chunk, question), as the retriever's teacher asks for it: pairs/s."""
    from rag_ft.fast.answer_logprobs import score_jobs

    model, rng = _model(size, tiny).eval(), random.Random(0)
    questions, chunks, length = (4, 4, 24) if tiny else (64, 10, 200)
    jobs = []
    for _ in range(questions):
        question, answer = random_ids(rng, model, 20), random_ids(rng, model, 8)
        jobs += [(random_ids(rng, model, length) + question, answer) for _ in range(chunks)]
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

    folder = random_encoder(work / "encoder", tiny)
    advanced = {"batch_tokens": 4096 if tiny else 131072}
    encoder = load_encoder(EncoderConfig(model=str(folder), advanced=advanced))
    rng = random.Random(0)
    texts = [random_text(rng, rng.randint(60, 200)) for _ in range(32 if tiny else 20_000)]
    encoder.encode_chunks(texts[:64])
    seconds = _timed(lambda: encoder.encode_chunks(texts))
    return {
        "chunks_per_second": round(len(texts) / seconds),
        "num_chunks": len(texts),
        "peak_gb": _peak_gb(),
    }


def reranking(tiny: bool, work: Path) -> Row:
    """A reranker of BERT-base's shape: pairs/s of its training, milliseconds of a question with 20
    chunks of 200 tokens."""
    from sentence_transformers.cross_encoder.losses import ListNetLoss

    from rag_ft.retrieval.reranker import load_cross_encoder

    folder, device = random_encoder(work / "reranker", tiny), "cuda" if GPU else "cpu"
    rng, num_chunks = random.Random(0), 4 if tiny else 20
    chunks = [random_text(rng, 20 if tiny else 200) for _ in range(num_chunks)]

    # Training, as the stage does it: float32 weights, products in bfloat16.
    model = load_cross_encoder(folder, 512, "float32", device)
    loss, optimiser = ListNetLoss(model), torch.optim.AdamW(model.parameters())
    labels = [torch.zeros(num_chunks)] * 4

    def train(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16):
                value = loss([["what is it"] * 4, [chunks] * 4], labels)
            value.backward()
            optimiser.step()
            optimiser.zero_grad()

    train(WARM_STEPS)
    steps = 1 if tiny else TIMED_STEPS
    seconds = _timed(lambda: train(steps))

    # Serving, in the type of the device.
    model.to(torch.bfloat16 if GPU else torch.float32)
    pairs = [("what is it", chunk) for chunk in chunks]
    model.predict(pairs, show_progress_bar=False)
    served = _timed(lambda: model.predict(pairs, show_progress_bar=False))
    return {
        "trained_pairs_per_second": round(steps * 4 * num_chunks / seconds, 1),
        "milliseconds_for_20_chunks": round(1000 * served * 20 / num_chunks, 1),
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
    words = ["run", "configs/demo.yaml", f"run.dir={work / 'demo'}"]
    command = [sys.executable, "-m", "rag_ft", *words]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-400:])
    seconds, run_dir = {"seconds": round(time.perf_counter() - start, 1)}, RunDir(work / "demo")
    for name in NAMES:
        if stage := read_done(run_dir, name):
            seconds[f"{name}_seconds"] = stage["seconds"]
    return seconds


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
    tokenizer = AutoTokenizer.from_pretrained(DEMO_LM)
    model = _model("0.6b", tiny, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    for part in (model, tokenizer):
        part.save_pretrained(work / "model")
    del model, part
    count, words, longest = (4, 20, 4) if tiny else (1000, 400, 64)
    rng = random.Random(0)
    requests = [
        ChatRequest(str(n), ({"role": "user", "content": random_text(rng, words)},), longest)
        for n in range(count)
    ]
    folder = str(work / "model")
    config = LLMConfig(backend="vllm", model=folder, prompts="compact", max_model_tokens=2048)
    with open_language_model(config, 0, log_path=work / "vllm.log") as served:
        list(served.chat(requests[: count // 10]))
        start = time.perf_counter()
        replies = list(served.chat(requests[count // 10 :]))
        seconds = time.perf_counter() - start
    read, written = zip(*((r.prompt_tokens, r.completion_tokens) for r in replies), strict=True)
    return {
        "requests_per_second": round(len(replies) / seconds, 1),
        "read_tokens_per_second": round(sum(read) / seconds),
        "written_tokens_per_second": round(sum(written) / seconds),
        "requests": len(replies),
        "failed": sum(reply.error is not None for reply in replies),
    }


def _config(batch_size: int = 32) -> Config:
    settings = {
        "max_steps": WARM_STEPS + TIMED_STEPS,
        "batch_size": batch_size,
        "max_tokens": 2048,
        "evaluations": 1,
        "rank": 32,
    }
    llm = {"model": str(DEMO_LM), "prompts": "compact"}
    return make_config({"llm": llm, "train_generator": settings})


def _examples(count: int, longest: int, model: Any) -> list[Example]:
    """Of lengths as retrieved contexts have them: half to full length."""
    rng, examples = random.Random(0), []
    for number in range(count):
        ids = tuple(random_ids(rng, model, rng.randint(longest // 2, longest)))
        encoded = Encoded(ids, len(ids) - ANSWER_TOKENS)
        examples.append(Example(f"e{number}", "answer", (), "", (), encoded))
    return examples


def _model(size: str, tiny: bool, **changes: Any) -> Any:
    from rag_ft.training.generator.lora import attention

    return random_model(
        "tiny" if tiny else size, attention(True, _config().llm.dtype) or "sdpa", **changes
    )


def _clock() -> float:
    """Seconds, once the GPU has done what it was given."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def _timed(work: Callable[[], Any]) -> float:
    start = _clock()
    work()
    return _clock() - start


def _share_of_peak(flops: float) -> float | None:
    name = torch.cuda.get_device_name() if GPU else ""
    peak = next((tflops for key, tflops in GPU_TFLOPS.items() if key in name), None)
    return round(flops / (peak * 1e12), 3) if peak else None


def _peak_gb() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if GPU else None


CHECKS: dict[str, Callable[[bool, Path], Row]] = {
    "sft-0.6b": lambda tiny, work: fine_tuning("0.6b", tiny, work),
    "sft-8b": lambda tiny, work: fine_tuning("8b", tiny, work),
    "scoring-0.6b": lambda tiny, _: scoring("0.6b", tiny),
    "scoring-8b": lambda tiny, _: scoring("8b", tiny),
    "encoding": encoding,
    "reranking": reranking,
    "search": lambda tiny, _: search(tiny),
    "vllm": vllm,
    "demo": lambda _, work: demo(work),
}
