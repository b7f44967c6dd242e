"""The jobs on our side. Each prepares its work and takes a step in each turn of `for _ in steps()` (see turns.py)."""

import statistics
import time
import timeit
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.adapters.applying import apply_lora
from finetune.adapters.lora import LoRAConfig
from finetune.quantization.packed import load_packed
from gpt import GPT, GPTConfig
from gpt.training.data_parallel import ALONE
from gpt.training.forked_team import ForkedTeam
from gpt.training.loading import load_model
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import gradients_for, in_precision, language_model_loss, training_step
from minigrad import Tensor, no_grad, switches, use_kernels
from minigrad.kernels.cpu import threads
from minigrad.kernels.dispatch import FAST_OPTIM, textbook_functions
from scripts.benchmarks.turns import PAUSE
from scripts.demo import demo_config

Steps = Callable[..., Iterable[None]]
DEMO = demo_config(short=False, out_dir="", seed=0)

# The fast kernels without one technique, and the ops that are in textbook form then. "memory" keeps freed memory with
# the process; "threads" are ours, and without them the matrix library uses its own.
TECHNIQUES = {
    "without threads": [],
    "without linear": ["linear"],
    "without memory": [],
    "without Adam in blocks": [],
    "without tiled attention": ["scaled_dot_product_attention", "split_heads"],
    "without embedding backward": ["embedding"],
    "without loss in chunks": ["linear_cross_entropy"],
    "without linear with GELU": ["linear_gelu"],
    "without layer norm": ["layer_norm"],
}


def select_kernels(side: str) -> None:
    """Select the kernels of a side: those of "textbook", of one of TECHNIQUES, or the fast ones for any other name."""
    if side == "without memory":
        threads._keep_freed_memory = lambda: None
    use_kernels("textbook" if side == "textbook" else "fast")
    textbook = textbook_functions()
    use_kernels({op: textbook[op] for op in TECHNIQUES.get(side, [])})
    if side == "without Adam in blocks":
        switches.kernels = {op: kernel for op, kernel in switches.kernels.items() if op not in FAST_OPTIM}
    if side == "without threads":
        threads.stop()
        threads._workers = 1


def model_config(name: str) -> GPTConfig:
    """The shape of a model to measure: a preset's, or the model's that `make demo` trains."""
    return GPTConfig(DEMO.vocab_size, **DEMO.model) if name == "demo" else GPTConfig.preset(name)


def token_ids(config: Any, *shape: int) -> np.ndarray:
    """Random ids, the same on both sides."""
    return np.random.default_rng(0).integers(0, config.vocab_size, shape)


# --- the jobs ---------------------------------------------------------------------------------------------------------


def train(
    steps: Steps, side: str, name: str, batch: int, length: int, device: str = "cpu", precision: str = "float32"
) -> None:
    """Training on one batch: forward, backward, clip, AdamW. On a side "N processes", these share the batch."""
    config = model_config(name)
    model = GPT(config).to(device)
    settings = TrainingConfig(learning_rate=1e-4, warmup_iters=0, beta2=0.95, precision=precision)
    optimizer, schedule = prepare_training(model, settings)
    gradients = gradients_for(settings)
    team = ForkedTeam(int(side.split()[0])) if side.endswith(" processes") else ALONE
    with team.at_work(optimizer, batch):
        part = team.part_of(tuple(token_ids(config, 2, batch, length)), batch)
        for _ in steps(team):
            training_step(model, [part], language_model_loss, optimizer, schedule, 1.0, gradients, team)


def lora(steps: Steps, side: str, folder: str, batch: int, length: int) -> None:
    """Training on one batch of adapters of all linear layers of SmolLM2."""
    model = load_model("smollm2")[0]
    apply_lora(model, LoRAConfig(target_modules="all-linear"))
    optimizer, schedule = prepare_training(model.train(), TrainingConfig(warmup_iters=0, weight_decay=0.0))
    ids, targets = token_ids(model.config, 2, batch, length)
    for _ in steps():
        training_step(model, [(ids, targets)], language_model_loss, optimizer, schedule, 1.0)


def generate(
    steps: Steps,
    side: str,
    name: str,
    prompt: int,
    new_tokens: int,
    texts: int,
    device: str = "cpu",
    precision: str = "float32",
) -> None:
    """Greedy generation with random weights; with no new tokens, only the reading of the prompt."""
    model = GPT(model_config(name)).to(device).eval()
    write(steps, model, prompt, max(new_tokens, 1), texts, precision)


def quantized(steps: Steps, side: str, folder: str, prompt: int, new_tokens: int) -> None:
    """Greedy generation by the model in folder/side, from the numbers that are stored there."""
    write(steps, load_model(Path(folder, side))[0], prompt, new_tokens)


def smollm2(steps: Steps, side: str, folder: str, prompt: int, new_tokens: int) -> None:
    """Greedy generation by SmolLM2, with its weights as floats or, on the side "packed", as they are in its file."""
    read: Any = load_packed if side == "packed" else load_model
    write(steps, read("smollm2")[0], prompt, new_tokens)


def write(steps: Steps, model: Any, prompt: int, new_tokens: int, texts: int = 1, precision: str = "float32") -> None:
    """Read prompts of random tokens and write `new_tokens` after each, with the KV cache."""
    ids = token_ids(model.config, texts, prompt)
    for _ in steps():
        with in_precision(precision):
            model.generate(ids, new_tokens, temperature=0)


def load(steps: Steps, side: str, folder: str) -> None:
    """Load a Hugging Face folder and read some tokens: before that, transformers has not read all weights."""
    for _ in steps():
        with no_grad():
            GPT.from_pretrained(folder)([[1, 2, 3]])


def attention(steps: Steps, side: str, length: int) -> None:
    """One layer's causal attention, 12 heads of 64 numbers, forward and backward."""
    *inputs, dout = np.random.default_rng(0).standard_normal((4, 1, 12, length, 64), dtype=np.float32)
    for _ in steps():
        q, k, v = (Tensor(array, requires_grad=True) for array in inputs)
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(dout)


# --- the machine ------------------------------------------------------------------------------------------------------


def rates(side: str) -> dict[str, Any]:
    """The library that multiplies matrices, its version and instructions; how fast it multiplies, and reads memory."""
    from threadpoolctl import threadpool_info

    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    described = [f"{blas['internal_api']} {blas['version']}, {blas.get('architecture')}" for blas in libraries]
    square = np.ones((2048, 2048), np.float32)
    matrix = np.ones((2**16, 1024), np.float32)
    vector = np.ones((1024, 1), np.float32)
    return {
        "library": ", ".join(described),
        "product_flops": 2 * 2048**3 / median_seconds(lambda: threads.matmul(square, square)),
        "read_bytes_per_second": matrix.nbytes / median_seconds(lambda: threads.matmul(matrix, vector)),
    }


def median_seconds(work: Callable[[], Any]) -> float:
    """The median time of `work`, over a few seconds: one busy moment of the machine must not decide."""

    def begin() -> None:
        time.sleep(PAUSE)
        work()

    return statistics.median(timeit.repeat(work, begin, number=3)) / 3
