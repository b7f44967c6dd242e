"""Run the same model on the same batch here and in PyTorch (transformers), and compare every activation and gradient.

The weights are copied in memory, so only the computation is compared. verify_gpt2.py also checks the files.
"""

import dataclasses
import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

from start import command_line

import numpy as np

import finetune  # noqa: F401  (load_model then also loads what was fine-tuned)
from gpt import GPT, GPTConfig, Llama, LlamaConfig
from gpt.interpretability.activations import hooked
from gpt.model.language_model import LanguageModel
from gpt.model_config import Settings
from gpt.training.loading import load_model
from gpt.weights import gpt2_huggingface, llama_huggingface
from minigrad.backend import generator, to_numpy
from scripts.shared import verification
from scripts.shared.verification import Stage, Trace

EXAMPLES = """examples:
  python scripts/compare_torch.py                              a small GPT with random weights, in float64
  python scripts/compare_torch.py --kernels fast --dtype float32
  python scripts/compare_torch.py --model runs/demo            your own model
  python scripts/compare_torch.py --model smollm2              SmolLM2 (a Llama)
"""
CONV1D = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # stored (in, out) there, (out, in) here
GPT1_NAMES = {"wte": "tokens_embed", "wpe": "positions_embed"}


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    add("--model", help=f"{command_line.SOURCES}; without one, a small model with random weights")
    add("--batch-size", type=number(1), default=2, help="sequences per batch")
    add("--tokens", type=number(1), default=None, help="tokens per sequence (24, or the context if that is shorter)")
    add("--dtype", choices=list(verification.TOLERANCE), default="float64", help="floating-point type of both sides")
    command_line.add_shared(parser, "kernels", "seed")
    arguments = parser.parse_args(argv)
    command_line.set_up(arguments)
    if missing := missing_packages():
        raise RuntimeError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, so there is nothing to "
            "compare with: pip install -e '.[oracle]' installs what is needed"
        )
    model = random_model() if arguments.model is None else load_model(arguments.model, trainable=True)[0]
    model.to(arguments.dtype)
    config = model.config
    tokens = arguments.tokens or min(24, config.block_size)
    if tokens > config.block_size:
        raise ValueError(f"--tokens {tokens} is longer than the model's context: use {config.block_size} or less")
    ids, targets = generator().integers(0, config.vocab_size, (2, arguments.batch_size, tokens))

    ours = verification.trace(model, ids, targets)
    reference = torch_trace(carried_over(model), config, ids, targets)
    comparison = verification.Comparison(ours, reference, config, verification.TOLERANCE[arguments.dtype])
    print(comparison)
    if problem := comparison.problem():
        raise ValueError(problem)
    print(f"\nThe same everywhere: no array differs by more than {comparison.tolerance:.0e} of its standard deviation.")
    return 0


def random_model() -> GPT:
    """A small GPT with random biases and norms as well, so that each of them changes the result."""
    model = GPT(GPTConfig(vocab_size=512, block_size=64, n_layer=2, n_head=4, n_embd=32))
    for name, parameter in model.named_parameters():
        mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        parameter.data[...] = mean + 0.2 * generator().standard_normal(parameter.shape)
    return model


# --- the other side: transformers -------------------------------------------------------------------------------------


def missing_packages() -> list[str]:
    """Those of torch and transformers that are not installed."""
    return [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]


def carried_over(model: LanguageModel) -> Any:
    """A model of transformers with the same shape and weights: Llama, GPT-2, or GPT-1 for post-norm.

    Raises ValueError for a model that transformers does not have.
    """
    import torch

    twin = untrained_llama(model) if isinstance(model, Llama) else untrained_gpt(model.config)  # type: ignore[arg-type]
    arrays = model.state_dict()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            array = in_other_layout(name, to_numpy(arrays[our_name(name)]))
            parameter.data = torch.from_numpy(np.ascontiguousarray(array))
    twin.tie_weights()
    return twin.eval()


def untrained_llama(model: Llama) -> Any:
    """A Llama of transformers. Its angles and norms are always float32, so they are replaced for a float64 model."""
    import torch
    import transformers

    config: LlamaConfig = model.config
    theirs = transformers.LlamaConfig.from_dict(llama_huggingface.to_json(config))
    twin = transformers.AutoModelForCausalLM.from_config(theirs, attn_implementation="sdpa")
    if next(model.parameters()).dtype != np.float64:
        return twin

    class Angles(torch.nn.Module):
        def forward(self, x: Any, position_ids: Any) -> Any:
            pairs = torch.arange(0, config.head_size, 2, dtype=torch.float64)
            speeds = config.rope_theta ** (-pairs / config.head_size)
            angles = (position_ids[..., None] * speeds).repeat(1, 1, 2)
            return angles.cos(), angles.sin()

    def norm() -> Any:
        return torch.nn.RMSNorm(config.n_embd, config.rms_norm_epsilon)

    twin.model.rotary_emb, twin.model.norm = Angles(), norm()
    for layer in twin.model.layers:
        layer.input_layernorm, layer.post_attention_layernorm = norm(), norm()
    return twin


def untrained_gpt(config: GPTConfig) -> Any:
    """A GPT-2 or GPT-1 of transformers. Raises ValueError for a shape that it does not have."""
    import transformers

    if config.positions != "learned":
        raise ValueError("transformers has no GPT with sinusoidal positions: there is nothing to compare with")
    settings = gpt2_huggingface.to_json(dataclasses.replace(config, norm="pre", dropout=0.0))
    if config.norm == "pre":
        theirs = transformers.GPT2Config.from_dict(settings)
        return transformers.AutoModelForCausalLM.from_config(theirs, attn_implementation="eager")
    theirs = transformers.OpenAIGPTConfig.from_dict({**settings, "model_type": "openai-gpt", "afn": "gelu"})
    return transformers.OpenAIGPTLMHeadModel(theirs)


def from_folder(folder: Path, dtype: str) -> Any:
    """The model that transformers itself reads from a Hugging Face folder."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.GPT2LMHeadModel.from_pretrained(
        folder, local_files_only=True, attn_implementation="eager", dtype=torch.float32
    )
    return model.to(getattr(torch, dtype)).eval()


def torch_trace(model: Any, config: Settings, ids: np.ndarray, targets: np.ndarray) -> Trace:
    """`verification.trace` for a model of transformers."""
    import torch

    found: dict[str, np.ndarray] = {}

    def keep(stage: Stage, module: Any, arguments: Any, output: Any) -> None:
        value = arguments[0] if stage.of_input else output
        value = value[0] if isinstance(value, tuple | list) else value  # outputs of several parts
        value = value[0] if stage.name == "wpe" and value.ndim == 3 else value  # (1, T, C) there, (T, C) here
        found[stage.name] = value.detach().numpy()

    hooks = {stage.module: partial(keep, stage) for stage in verification.stages(config)}
    if isinstance(config, GPTConfig) and config.norm == "post":
        hooks = {".".join(GPT1_NAMES.get(part, part) for part in name.split(".")): hooks[name] for name in hooks}
    with hooked(model, hooks):  # modules of PyTorch have the same methods as ours
        logits = model(torch.from_numpy(ids)).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
    loss.backward()
    gradients = {our_name(name): in_other_layout(name, p.grad.numpy()) for name, p in model.named_parameters()}
    model.zero_grad()
    return Trace(ids, targets, found, gradients, loss.item(), greedy(model, config, ids))


def greedy(model: Any, config: Settings, ids: np.ndarray) -> list[list[int]]:
    """The tokens that transformers' own `generate` appends to ids (B, T): as many as `verification.trace` does."""
    import torch

    new_tokens = min(8, config.block_size - ids.shape[1])
    if new_tokens <= 0:
        return [[] for _ in ids]
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    model.generation_config.eos_token_id = None
    tokens = torch.from_numpy(ids)
    out = model.generate(tokens, attention_mask=torch.ones_like(tokens), pad_token_id=0, **options)
    return out[:, ids.shape[1] :].tolist()


def our_name(name: str) -> str:
    """Our name of a parameter; GPT-1's embeddings have other names there."""
    for ours, theirs in GPT1_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def in_other_layout(name: str, array: np.ndarray) -> np.ndarray:
    """A parameter in the layout of the other library, which differs for the matrices of Conv1D layers."""
    return array.T if name.endswith(CONV1D) else array


if __name__ == "__main__":
    command_line.run(main)
