"""The opponent: GPT-2 in plain PyTorch, as nanoGPT writes it, with its fused attention and its fused AdamW; and
transformers, for generation and loading. The jobs of jobs.py, one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gpt import GPTConfig
from minigrad.backend import usable_cores
from minigrad.optim import decay_groups
from scripts.benchmarks.jobs import model_config, token_ids

torch.set_num_threads(usable_cores())
COMPILE = False  # side.py sets it for the side "torch.compile"


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.c_attn, self.attn_proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.c_fc, self.mlp_proj = nn.Linear(C, 4 * C), nn.Linear(4 * C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for part in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(out.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class TorchGPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class Training:
    """forward, backward, clip, AdamW."""

    def __init__(self, preset: str, batch: int, time: int, device: str = "cpu", precision: str = "float32"):
        config = model_config(preset)
        self.model = TorchGPT(config).to(device)
        self.in_precision = in_precision(device, precision)
        self.ids, self.targets = torch.from_numpy(token_ids(config, 2, batch, time)).to(device)
        groups = decay_groups(self.model.named_parameters(), 0.1)
        self.loss: Any = torch.compile(self.model.loss) if COMPILE else self.model.loss
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step(self) -> float:
        with self.in_precision:
            loss = self.loss(self.ids, self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()


class Generation:
    """transformers' own generate, greedy, with its KV cache."""

    def __init__(
        self, preset: str, prompt: int, new_tokens: int, texts: int, device: str = "cpu", precision: str = "float32"
    ):
        transformers = _transformers()
        config = GPTConfig.preset(preset)
        shape = {name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
        theirs = transformers.GPT2Config(n_positions=config.block_size, **shape)
        self.model = transformers.GPT2LMHeadModel(theirs).to(device).eval()
        self.in_precision = in_precision(device, precision)
        self.prompt = torch.from_numpy(token_ids(config, texts, prompt)).to(device)
        self.new_tokens = new_tokens

    @torch.no_grad()
    def step(self) -> float:
        with self.in_precision:
            if self.new_tokens == 0:  # prefill: the scores of the next token after the prompt
                return self.model(self.prompt, logits_to_keep=1, use_cache=True).logits[0, -1, 0].item()
            options = {"max_new_tokens": self.new_tokens, "min_new_tokens": self.new_tokens, "do_sample": False}
            mask = torch.ones_like(self.prompt)
            written = self.model.generate(self.prompt, attention_mask=mask, pad_token_id=0, **options)
            return float(written.shape[1])


class SmolLM2(Generation):
    """The same weights, from a folder that we have written, in transformers' own generate."""

    def __init__(self, folder: str, prompt: int, new_tokens: int):
        self.model = _transformers().AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.in_precision = in_precision("cpu", "float32")
        self.prompt = torch.from_numpy(token_ids(self.model.config, 1, prompt))
        self.new_tokens = new_tokens


class Loading:
    """A Hugging Face folder becomes a model that has read its first tokens."""

    def __init__(self, folder: str):
        self.folder = folder
        self.model_class = _transformers().GPT2LMHeadModel

    @torch.no_grad()
    def step(self) -> float:
        return self.model_class.from_pretrained(self.folder)(torch.tensor([[1, 2, 3]])).logits[0, -1, 0].item()


class Attention:
    """One layer's causal attention, 12 heads of 64 numbers, forward and backward."""

    def __init__(self, time: int):
        self.q, self.k, self.v, self.dout = torch.randn(4, 1, 12, time, 64)

    def step(self) -> float:
        q, k, v = (x.clone().requires_grad_() for x in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.backward(self.dout)
        return out[0, 0, -1, 0].item()


def in_precision(device: str, precision: str) -> Any:
    """A block whose matrix products are computed in it."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16")


def _transformers() -> Any:
    """The library, without its warnings and progress bars."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


JOBS = {"train": Training, "generate": Generation, "smollm2": SmolLM2, "load": Loading, "attention": Attention}
