"""The cost of a GPT or a Llama before it is built: parameters, arithmetic, memory, and the loss to expect.

Everything here is a formula of the configuration, so a model of 175 billion parameters is as easy to count as a small
one. Symbols: V vocabulary, T block size (or tokens read), L layers, C channels (n_embd), H heads, B batch, N
parameters, D training tokens. For a Llama also G, the channels of keys: C K / H with K heads of keys and values (in a
GPT, G = C), and I, the inner channels (4 C in a GPT). Memory is in bytes (GB = 10^9), arithmetic in FLOPs, where a
multiply-add counts as two.

Simplified: only matrix products count as arithmetic, because they are nearly all of it (`minigrad.inspection.profile`
counts them in the same way). A causal mask does not halve the count. Temporary memory is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from .model_config import GPTConfig, LlamaConfig

Config = GPTConfig | LlamaConfig

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "int4": 0.5, "nf4": 0.5}  # per number

# --- parameters -------------------------------------------------------------------------------------------------------


def parameters(config: Config) -> dict[str, int]:
    """The number of parameters of each kind of component: see `GPTConfig.parameters` and `LlamaConfig.parameters`.

    >>> parameters(GPTConfig())["token embedding"]
    38597376
    """
    return config.parameters()


def component_of(name: str) -> str:
    """The row of `parameters` that a parameter with this name belongs to.

    >>> component_of("transformer.h.3.attn.c_attn.weight"), component_of("model.layers.3.self_attn.q_proj.weight")
    ('attention', 'attention')
    """
    parts = {
        ".wte.": "token embedding", ".wpe.": "position embedding", ".embed_tokens.": "token embedding",
        "_norm.": "RMS norms", "attn.": "attention", ".mlp.": "MLP", ".ln_": "layer norms", "norm.": "RMS norms",
        "lm_head.": "output layer",
    }  # fmt: skip
    for part, component in parts.items():
        if part in f".{name}":
            return component
    raise ValueError(f"{name} is not a parameter of a GPT or a Llama")


def shares_of_total(amounts: Mapping[str, float]) -> dict[str, float]:
    """Each amount as a share of their sum.

    GPT-2's attention is famous, and less than a quarter of it:

    >>> {name: f"{share:.0%}" for name, share in shares_of_total(parameters(GPTConfig())).items()}
    {'token embedding': '31%', 'position embedding': '1%', 'attention': '23%', 'MLP': '46%', 'layer norms': '0%'}
    """
    total = sum(amounts.values())
    return {name: amount / total for name, amount in amounts.items()}


# --- arithmetic -------------------------------------------------------------------------------------------------------


def key_channels(config: Config) -> int:
    """G: numbers in a token's keys (and in its values) of one layer; C where every query head has its own.

    >>> key_channels(GPTConfig()), key_channels(LlamaConfig())
    (768, 192)
    """
    return config.head_size * config.n_kv_head


def block_weights(config: Config) -> dict[str, int]:
    """The weights in one block's matrices: attention 2 C² + 2 C G; MLP 2 C I, or 3 C I with a gate.

    In a GPT that is 4 C² and 8 C².
    """
    C = config.n_embd
    matrices = 3 if isinstance(config, LlamaConfig) else 2
    channels = config.n_head * config.head_size  # C, mostly
    return {"attention": 2 * C * (channels + key_channels(config)), "MLP": matrices * C * config.n_inner}


def matrix_weights(config: Config) -> int:
    """The number of weights that every token is multiplied with: 12 L C² in a GPT's blocks, V C in the output layer.

    An embedding lookup needs no multiplication.
    """
    return config.n_layer * sum(block_weights(config).values()) + config.vocab_size * config.n_embd


def token_flops(config: Config, context: int) -> int:
    """FLOPs of the forward pass of one token that attends to `context` tokens, including itself.

        2 (12 L C² + V C)  +  4 L C context          the first part is 2 `matrix_weights`

    One multiply-add per weight, and in each layer the products of the query with each key and of each attention weight
    with its value. Training takes 3 times as many, because backward needs two products for each of forward's (for dx
    and dweight): for N parameters and D tokens 6 N D, plus attention (Kaplan et al. 2020, section 2.1).
    """
    return 2 * matrix_weights(config) + 4 * config.n_layer * config.n_embd * context


def tokens_read(prompt: int, new_tokens: int, cached: bool) -> int:
    """The number of tokens that the model reads to generate `new_tokens` after a prompt. It explains the KV cache.

    Without a cache the whole text is read again for each new token, about n²/2 tokens; with a cache each token is read
    once:

    >>> [round(tokens_read(10, n, cached=False) / tokens_read(10, n, cached=True)) for n in (100, 1000)]
    [55, 505]
    """
    if cached:
        return prompt + max(new_tokens - 1, 0)  # the last new token is never read
    return new_tokens * prompt + new_tokens * (new_tokens - 1) // 2


# --- memory -----------------------------------------------------------------------------------------------------------


def weight_bytes(parameters: int, dtype: str = "float32") -> int:
    """Bytes of a number of weights.

    >>> weight_bytes(7_000_000_000, "bfloat16") / 1e9, weight_bytes(7_000_000_000, "int4") / 1e9
    (14.0, 3.5)
    """
    return math.ceil(parameters * bytes_per_number(dtype))


def training_memory(
    parameters: int,
    trainable: int | None = None,
    weights: str = "float32",
    gradients: str = "float32",
    moments: str = "float32",
) -> dict[str, int]:
    """Bytes that training with Adam holds all the time, for N parameters of which `trainable` (or all) are trained.

        weights N · bytes     gradients trainable · bytes     optimizer 2 · trainable · bytes  (two moments)

    With bfloat16 weights and gradients and float32 moments, a parameter needs 2 + 2 + 8 = 12 bytes. A model of 7
    billion parameters needs 84 GB, two thirds of it for the optimizer.

    >>> memory = training_memory(7_000_000_000, weights="bfloat16", gradients="bfloat16")
    >>> {name: round(size / 1e9) for name, size in memory.items()}, sum(memory.values()) / 7_000_000_000
    ({'weights': 14, 'gradients': 14, 'optimizer': 56}, 12.0)
    """
    trainable = parameters if trainable is None else trainable
    return {
        "weights": weight_bytes(parameters, weights),
        "gradients": weight_bytes(trainable, gradients),
        "optimizer": 2 * weight_bytes(trainable, moments),
    }


def activation_bytes(
    config: Config, batch: int, time: int, kernels: str = "textbook", checkpointed: bool = False
) -> int:
    """Bytes that forward saves for backward in a step on B sequences of T tokens, in float32 and without dropout.

    Per token and block, the textbook forms save

        the inputs of four linear layers C + C + C + I      q, k, v 3C       the normalized 2C, their deviations 2
        GELU's input and its tanh I + I                     attention's weights H T

    where I is n_inner, usually 4C; and at the end 2C + 1 and the log-probabilities V. That is 8 C + 3 I + H T + 2 per
    block. The fast kernels save the slope of GELU instead of its input and tanh, one number per head and query instead
    of the attention weights, and no logits (but the gradient of the output layer, V C): 8 C + 2 I + H + 2. Korthikanti
    et al. 2022, section 4.1, count the same for other kernels.

    A Llama saves 6 C + 2 G + 4 I + H T + 2 per block: queries, keys and values C + 2 G; the inputs of its seven
    matrices C + C + C + I, because three of them share one input; the normalized 2 C and their scale 2; gate, its
    sigmoid and up 3 I. The fast kernels save no sigmoid, and H instead of H T.

    checkpointed: with activation checkpointing a block saves its input, C, and the rest only while its backward runs.
    """
    textbook = kernels == "textbook"
    V, L, H, C = config.vocab_size, config.n_layer, config.n_head, config.n_embd
    attention_weights = H * time if textbook else H
    if isinstance(config, LlamaConfig):
        block = 6 * C + 2 * key_channels(config) + (4 if textbook else 3) * config.n_inner + attention_weights + 2
        last_norm = C + 1
    else:
        block = 8 * C + (3 if textbook else 2) * config.n_inner + attention_weights + 2
        last_norm = C + 1 if config.norm == "pre" else 0
    rows = batch * time
    end = rows * (last_norm + C + (V if textbook else C)) + (0 if textbook else V * C)
    numbers = rows * L * C + max(rows * block, end) if checkpointed else rows * L * block + end
    return 4 * numbers


def kv_cache_bytes(config: Config, batch: int, tokens: int, dtype: str = "float32") -> int:
    """Bytes of the keys and values of `tokens` tokens of B sequences, in all layers: 2 L C each, or 2 L G.

    >>> kv_cache_bytes(GPTConfig(), batch=1, tokens=1024)  # 72 MiB, for a model of 475 MiB
    75497472

    SmolLM2's 3 heads of keys and values with its full block, and 9 heads for comparison:

    >>> [kv_cache_bytes(LlamaConfig(n_kv_head=heads), 1, 8192) / 2**20 for heads in (3, 9)]
    [360.0, 1080.0]
    """
    return math.ceil(2 * config.n_layer * key_channels(config) * batch * tokens * bytes_per_number(dtype))


def latent_cache_bytes(config: Config, latent: int, rope: int, tokens: int, dtype: str = "float32") -> int:
    """Bytes that latent attention caches for `tokens` tokens, in all layers (gpt/model/latent_attention.py): d_c + d_r
    numbers each. In DeepSeek-V2, d_c is four times a head's size and d_r half of it: as much as 2.25 heads of keys and
    values, where 128 heads ask.

    >>> latent_cache_bytes(LlamaConfig(), 4 * 64, 32, tokens=1) / kv_cache_bytes(LlamaConfig(n_kv_head=1), 1, tokens=1)
    2.25
    """
    return math.ceil(config.n_layer * (latent + rope) * tokens * bytes_per_number(dtype))


def attention_bytes(n_head: int, time: int, dtype: str = "bfloat16", tiled: bool = False) -> int:
    """Bytes of one layer's T x T attention weights, or, with `tiled`, of flash attention's running maximum and sum.

        H T² · bytes     tiled: H T · 2 · 4  (in float32)                      Dao et al. 2022, section 3.1

    >>> attention_bytes(12, 4096) / 2**20, attention_bytes(12, 4096, tiled=True) / 2**10
    (384.0, 384.0)
    """
    if tiled:
        return n_head * time * 2 * 4
    return math.ceil(n_head * time * time * bytes_per_number(dtype))


def bytes_per_number(dtype: str) -> float:
    """Bytes of a number of type `dtype`. Raises ValueError for a type that is not in BYTES."""
    if dtype not in BYTES:
        raise ValueError(f"unknown type {dtype!r}; known are {', '.join(BYTES)}")
    return BYTES[dtype]


# --- memory of adapters (finetune/adapters/lora.py, finetune/adapters/qlora.py) ---------------------------------------

LAYERS = {"attn.c_attn": (1, 3), "attn.c_proj": (1, 1), "mlp.c_fc": (1, 4), "mlp.c_proj": (4, 1)}  # (in, out) / C


def lora_parameters(config: GPTConfig, r: int, layers: Collection[str] = ("attn.c_attn",)) -> int:
    """The number of parameters in adapters of rank r on some of LAYERS in every block: L Σ r (in + out).

    >>> lora_parameters(GPTConfig(), r=8)  # 12 · 8 · (768 + 2304), of 124 million
    294912
    """
    return config.n_layer * sum(r * (LAYERS[name][0] + LAYERS[name][1]) * config.n_embd for name in layers)


def nf4_bits(group_size: int = 64, double_quant: bool = True) -> float:
    """Bits per weight of QLoRA's 4-bit numbers, including scales.

        4 + 32 / group      with double quantization 4 + 8 / group + 32 / (256 group)

    Dettmers et al. 2023, section 3.

    >>> nf4_bits(double_quant=False), round(nf4_bits(), 3)
    (4.5, 4.127)
    """
    return 4 + (8 / group_size + 32 / (256 * group_size) if double_quant else 32 / group_size)


def qlora_memory(base_bytes: float, adapter: int, numbers: str = "float32") -> dict[str, int]:
    """Bytes that QLoRA training holds all the time: the frozen base, and everything that Adam needs for the adapters.

    With 7 billion weights in NF4 and bfloat16 adapters of rank 16 on every layer this is 4 GB. Full fine-tuning needs
    84 GB (`training_memory`), 21 times as much.

    >>> adapter = lora_parameters(GPTConfig(n_layer=32, n_embd=4096, n_head=32), r=16, layers=LAYERS)
    >>> memory = qlora_memory(7e9 * nf4_bits() / 8, adapter, "bfloat16")
    >>> f"{adapter:,} numbers, {sum(memory.values()) / 1e9:.1f} GB, {84e9 / sum(memory.values()):.0f} times less"
    '33,554,432 numbers, 4.0 GB, 21 times less'
    """
    memory = training_memory(adapter, weights=numbers, gradients=numbers)
    return {**memory, "weights": math.ceil(base_bytes) + memory["weights"]}


# --- arithmetic intensity ---------------------------------------------------------------------------------------------


def matmul_intensity(m: int, k: int, n: int, dtype: str = "float32") -> float:
    """FLOPs per byte moved of an (m, k) @ (k, n) product: 2 m k n / (bytes (m k + k n + m n)).

    A layer 768 -> 768 for one token, and for 1,024 tokens:

    >>> [round(matmul_intensity(m, 768, 768, "bfloat16"), 1) for m in (1, 1024)]
    [1.0, 279.3]
    """
    return 2 * m * k * n / (bytes_per_number(dtype) * (m * k + k * n + m * n))


def ridge_point(flops_per_second: float, bytes_per_second: float) -> float:
    """The arithmetic intensity below which memory limits a machine, and above which arithmetic does.

    The roofline model (Williams et al. 2009). An A100: 312 TFLOP/s in bfloat16, 2 TB/s:

    >>> ridge_point(312e12, 2e12)
    156.0
    """
    return flops_per_second / bytes_per_second


def generation_bound(config: Config, bytes_per_second: float, dtype: str = "float32", context: int = 0) -> float:
    """An upper bound of the tokens per second for one sequence: each token reads all weights and the KV cache.

    >>> round(generation_bound(GPTConfig(), 68e9))  # two cores of a server
    138
    """
    read = weight_bytes(matrix_weights(config), dtype) + kv_cache_bytes(config, 1, context, dtype)
    return bytes_per_second / read


# --- scaling laws -----------------------------------------------------------------------------------------------------


def chinchilla_optimal(flops: float) -> tuple[float, float]:
    """The best (parameters N, tokens D) for a budget of training FLOPs: 6 N D = budget, and D = 20 N.

    Both grow with the square root of the budget: "scale both, not just one" (Hoffmann et al. 2022, table 3). Gopher
    spent its budget on 280 billion parameters. With the same budget they trained a quarter of that size on more tokens:

    >>> parameters, tokens = chinchilla_optimal(5.76e23)
    >>> f"{parameters / 1e9:.0f} billion parameters, {tokens / 1e12:.1f} trillion tokens"
    '69 billion parameters, 1.4 trillion tokens'
    """
    parameters = math.sqrt(flops / (6 * 20))
    return parameters, 20 * parameters


def chinchilla_loss(parameters: float, tokens: float) -> float:
    """The loss that N parameters reach on D tokens: 1.69 + 406.4 / N^0.34 + 410.7 / D^0.28, in nats per token.

    The terms are the entropy of text, the cost of a finite model and the cost of finite data (Hoffmann et al. 2022,
    equation 10; fitted to their data and tokenizer).

    >>> f"Gopher {chinchilla_loss(280e9, 300e9):.3f}, Chinchilla {chinchilla_loss(70e9, 1.4e12):.3f}"
    'Gopher 1.993, Chinchilla 1.937'
    """
    return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28


def compute_loss(flops: float) -> float:
    """The loss that an optimally spent budget of training FLOPs reaches: (3.1e8 PF-days / budget)^0.050.

    This is a power law: ten times the compute reduces the loss by 11 % (Kaplan et al. 2020, figure 1; their data and
    tokenizer).

    >>> f"{1 - compute_loss(1e21) / compute_loss(1e20):.0%}"
    '11%'
    """
    petaflop_day = 1e15 * 24 * 3600
    return (3.1e8 * petaflop_day / flops) ** 0.050
