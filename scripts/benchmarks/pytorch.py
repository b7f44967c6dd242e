"""The opponent: GPT-2 in plain PyTorch, as nanoGPT writes it, with its fused attention and its fused AdamW; and
transformers, for generation and loading. The jobs of ours.py, one by one.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gpt import GPTConfig
from minigrad.backend import usable_cores
from minigrad.optim import decay_groups
from scripts.benchmarks.ours import Steps, median_seconds, model_config, token_ids

torch.set_num_threads(usable_cores())


class Block(nn.Module):
    def __init__(self, C: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.norm = nn.LayerNorm(C)
        self.qkv = nn.Linear(C, 3 * C)
        self.projection = nn.Linear(C, C)
        self.mlp = nn.Sequential(nn.LayerNorm(C), nn.Linear(C, 4 * C), nn.GELU("tanh"), nn.Linear(4 * C, C))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.qkv(self.norm(x)).split(C, dim=2))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(out.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(x)


class TorchGPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        C = config.n_embd
        self.tokens = nn.Embedding(config.vocab_size, C)
        self.positions = nn.Embedding(config.block_size, C)
        self.blocks = nn.Sequential(*(Block(C, config.n_head) for _ in range(config.n_layer)))
        self.norm = nn.LayerNorm(C)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)  # tied: the output layer is the embedding
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


# --- the jobs ---------------------------------------------------------------------------------------------------------


def train(
    steps: Steps, side: str, name: str, batch: int, length: int, device: str = "cpu", precision: str = "float32"
) -> None:
    """Training on one batch: forward, backward, clip, AdamW."""
    config = model_config(name)
    model = TorchGPT(config).to(device)
    mean_loss: Any = torch.compile(model.loss) if side == "torch.compile" else model.loss
    ids, targets = torch.from_numpy(token_ids(config, 2, batch, length)).to(device)
    groups = decay_groups(model.named_parameters(), 0.1)
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    for _ in steps():
        with in_precision(device, "bfloat16" if side == "torch bfloat16" else precision):
            loss = mean_loss(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()


def lora(steps: Steps, side: str, folder: str, batch: int, length: int) -> None:
    """Training on one batch of PEFT's adapters of all linear layers of SmolLM2, in transformers."""
    import peft

    base = quiet_transformers().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, settings).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    ids, targets = torch.from_numpy(token_ids(base.config, 2, batch, length))
    for _ in steps():
        logits = model(ids).logits
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()


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
    """GPT-2 with random weights, in transformers' own generate."""
    transformers = quiet_transformers()
    config = model_config(name)
    shape = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=config.block_size, **shape))
    write(steps, model.to(device), prompt, new_tokens, texts, precision)


def smollm2(steps: Steps, side: str, folder: str, prompt: int, new_tokens: int) -> None:
    """The same weights, from a folder that we have written, in transformers' own generate."""
    model = quiet_transformers().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    write(steps, model, prompt, new_tokens)


@torch.no_grad()
def write(steps: Steps, model: Any, prompt: int, new_tokens: int, texts: int = 1, precision: str = "float32") -> None:
    """Read prompts and write `new_tokens` after each, greedily, with the KV cache; 0: only read."""
    model.eval()
    ids = torch.from_numpy(token_ids(model.config, texts, prompt)).to(model.device)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    for _ in steps():
        with in_precision(model.device.type, precision):
            if new_tokens == 0:
                model(ids, logits_to_keep=1, use_cache=True).logits[0, -1, 0].item()
            else:
                model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -1].item()


@torch.no_grad()
def load(steps: Steps, side: str, folder: str) -> None:
    """A Hugging Face folder becomes a model that has read its first tokens."""
    transformers = quiet_transformers()
    for _ in steps():
        transformers.GPT2LMHeadModel.from_pretrained(folder)(torch.tensor([[1, 2, 3]]))


def attention(steps: Steps, side: str, length: int) -> None:
    """One layer's causal attention, 12 heads of 64 numbers, forward and backward."""
    *inputs, dout = torch.randn(4, 1, 12, length, 64)
    for _ in steps():
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(dout)


def quiet_transformers() -> Any:
    """The library, without its warnings and progress bars. Training does without it, so it is loaded here."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT uses what transformers will remove
    return transformers


def in_precision(device: str, precision: str) -> Any:
    """A block whose matrix products are computed in it. The weights stay float32."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


# --- the machine ------------------------------------------------------------------------------------------------------


def rates(side: str) -> dict[str, Any]:
    """The library that multiplies matrices, its version and instructions, and how fast it multiplies.

    On AMD, MKL does not use AVX-512 although PyTorch's own loops do: the rate of products shows it.
    """
    name, pattern, dtype = "MKL", r"Math Kernel Library Version ([\d.]+)", torch.float32
    instructions = torch.backends.cpu.get_cpu_capability()
    if side == "torch bfloat16":
        name, pattern, dtype = "oneDNN", r"MKL-DNN v([\d.]+)", torch.bfloat16
        processor = Path("/proc/cpuinfo")
        if processor.exists() and "amx_bf16" in processor.read_text(encoding="utf-8"):
            instructions = "AMX"
    version = re.search(pattern, torch.__config__.show())
    library = f"{name} {version[1]}" if version else "its own library"
    # Without instructions for bfloat16, a large product would take minutes.
    is_slow = side == "torch bfloat16" and product_flops(256, dtype) < 2e9
    return {"library": f"{library}, {instructions}", "product_flops": product_flops(256 if is_slow else 2048, dtype)}


def product_flops(n: int, dtype: torch.dtype) -> float:
    """Floating-point operations per second of an n x n product."""
    x = torch.ones(n, n, dtype=dtype)
    return 2 * n**3 / median_seconds(lambda: x @ x)
