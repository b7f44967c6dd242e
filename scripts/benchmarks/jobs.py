"""The jobs that are measured, on our side: each does the same work at every `step`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.quantization.packed import load_packed
from gpt import GPT, GPTConfig
from gpt.training.data_parallel import ALONE, Team
from gpt.training.forked_team import ForkedTeam
from gpt.training.loading import load_model
from gpt.training.training_step import in_precision, language_model_loss, mean_gradients
from minigrad import Tensor, no_grad, optim, switches, use_kernels
from minigrad.kernels.cpu import threads
from minigrad.kernels.dispatch import FAST, FAST_OPTIM, textbook_functions
from scripts.demo import demo_config

DEMO = demo_config(short=False, out_dir="", seed=0)

# The fast kernels without one technique: what each contributes. "memory" keeps freed memory with the process;
# "threads" are ours, and without them the matrix library uses its own.
TECHNIQUES: dict[str, tuple[str, ...]] = {
    "tiled attention": ("scaled_dot_product_attention", "split_heads"),
    "loss in chunks": ("linear_cross_entropy",),
    "linear": ("linear",),
    "linear with GELU": ("linear_gelu",),
    "layer norm": ("layer_norm",),
    "embedding backward": ("embedding",),
    "Adam in blocks": (),
    "memory": (),
    "threads": (),
}


def select_kernels(side: str) -> None:
    """Select the kernels of a side: "textbook", "without TECHNIQUE", or the fast ones for any other name."""
    technique = side.removeprefix("without ")
    if technique == side:
        use_kernels("textbook" if side == "textbook" else "fast")
        return
    if technique == "memory":
        threads._keep_freed_memory = lambda: None
    use_kernels("fast")
    if technique == "threads":
        threads.stop()
        threads._workers = 1
    textbook = textbook_functions()
    use_kernels({op: textbook[op] for op in TECHNIQUES[technique] if op in FAST})
    if technique == "Adam in blocks":
        switches.kernels = {op: kernel for op, kernel in switches.kernels.items() if op not in FAST_OPTIM}


def model_config(preset: str) -> GPTConfig:
    """The shape of a model to measure: a preset's, or the model's that `make demo` trains."""
    return GPTConfig(DEMO.vocab_size, **DEMO.model) if preset == "demo" else GPTConfig.preset(preset)


class Training:
    """forward, backward, clip, AdamW on one batch."""

    def __init__(self, preset: str, batch: int, time: int, device: str = "cpu", precision: str = "float32"):
        config = model_config(preset)
        self.ids, self.targets = token_ids(config, 2, batch, time)
        self.model = GPT(config).to(device)
        self.precision = precision
        groups = optim.decay_groups(self.model.named_parameters(), 0.1)
        self.optimizer = optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
        self.team: Team = ALONE

    def step(self) -> float:
        parameters = [*self.model.parameters()]
        with in_precision(self.precision):
            sums, count = mean_gradients(self.model, [(self.ids, self.targets)], language_model_loss)
        sums, count = self.team.add_gradients(parameters, sums, count)
        self.team.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.team.wait()
        self.optimizer.zero_grad()
        return float(sums["loss"]) / count


class SharedTraining(Training):
    """The same steps in several forked processes, each with its share of the batch, as `--processes` trains."""

    def __init__(self, processes: int, preset: str, batch: int, time: int):
        super().__init__(preset, batch, time)
        self.team = self.forked = ForkedTeam(processes)
        self.work = contextlib.ExitStack()
        self.work.enter_context(self.team.at_work(self.optimizer, batch))
        self.ids, self.targets = self.team.part_of((self.ids, self.targets), batch)
        if self.team.rank > 0:
            with self.work:  # the process ends with this block
                while self.team.gather(None)[0]:  # process 0 says whether there is another step
                    super().step()

    def step(self) -> float:
        self.team.gather(True)
        return super().step()

    def end(self) -> int:
        """End the other processes. Returns the bytes that they had for themselves."""
        self.team.gather(False)
        self.work.close()
        return self.forked.more_memory


class Generation:
    """Greedy generation with the KV cache; with no new tokens, only the reading of the prompt."""

    precision = "float32"

    def __init__(
        self, preset: str, prompt: int, new_tokens: int, texts: int, device: str = "cpu", precision: str = "float32"
    ):
        config = GPTConfig.preset(preset)
        self.model = GPT(config).to(device).eval()
        self.precision = precision
        self.prompt, self.new_tokens = token_ids(config, texts, prompt), max(new_tokens, 1)

    def step(self) -> float:
        with in_precision(self.precision):
            return float(len(self.model.generate(self.prompt, self.new_tokens, temperature=0)[0]))


class QuantizedGeneration(Generation):
    """Greedy generation by the model in the folder ROOT/SIDE, from the numbers that are stored there."""

    def __init__(self, root: str, prompt: int, new_tokens: int, side: str):
        self.model: Any = load_model(Path(root) / side)[0]
        self.prompt = token_ids(self.model.config, 1, prompt)
        self.new_tokens = new_tokens


class SmolLM2(Generation):
    """Greedy generation by SmolLM2, with its weights as floats or, on the side "packed", as they are in its file."""

    def __init__(self, folder: str, prompt: int, new_tokens: int, side: str):
        self.model: Any = (load_packed if side == "packed" else load_model)("smollm2")[0]
        self.prompt = token_ids(self.model.config, 1, prompt)
        self.new_tokens = new_tokens


class Loading:
    """Load a Hugging Face folder and read some tokens: before that, transformers has not read all weights."""

    def __init__(self, folder: str):
        self.folder = folder

    def step(self) -> float:
        with no_grad():
            return GPT.from_pretrained(self.folder)([[1, 2, 3]]).data[0, -1, 0].item()


class Attention:
    """One layer's causal attention, 12 heads of 64 numbers, forward and backward."""

    def __init__(self, time: int):
        self.inputs = np.random.default_rng(0).standard_normal((4, 1, 12, time, 64), dtype=np.float32)

    def step(self) -> float:
        q, k, v = (Tensor(array, requires_grad=True) for array in self.inputs[:3])
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.backward(self.inputs[3])
        return float(out.data[0, 0, -1, 0])


def token_ids(config: Any, *shape: int) -> np.ndarray:
    """Random ids, the same on both sides."""
    return np.random.default_rng(0).integers(0, config.vocab_size, shape)


JOBS: dict[str, Any] = {"train": Training, "load": Loading, "attention": Attention}
JOBS |= {"generate": Generation, "quantized": QuantizedGeneration, "smollm2": SmolLM2}
