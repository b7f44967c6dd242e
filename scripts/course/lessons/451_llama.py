"""Lesson 4.5.1: from GPT-2 to Llama

Many open models since 2023 (Llama, Mistral, SmolLM2) are GPT-2 with five changes. (The first Llama had four: grouped
queries came with the largest models of Llama 2.) One is small: the linear layers have no biases. This lesson shows each
of the other four with its reason and its price. Then a small GPT-2 without biases becomes a small Llama, one change at
a time. Finally a real model answers, if its package is installed: SmolLM2, 135 million parameters in 4 bits.
Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021 (rotary positions); Shazeer 2020 (SwiGLU); Ainslie et al. 2023 (grouped
queries); Touvron et al. 2023 (Llama).
"""

import dataclasses
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate
from gpt import GPTConfig, KVCache, Llama, LlamaConfig, accounting
from gpt.model.language_model import init_weights
from gpt.model.llama import LlamaMLP, rotations
from gpt.training.loading import load_model
from gpt.weights import hub
from gpt.weights.gguf_file import GGUFError, GGUFFile, dequantize, unpack
from minigrad import Tensor, manual_seed, nn, use_kernels
from scripts.course.lessons.small_gpt import english, train, validation_loss
from scripts.course.pictures import Lesson

lesson = Lesson("451_llama", __doc__)
rng = np.random.default_rng(lesson.seed)
REAL = LlamaConfig()  # SmolLM2's shape
C, H, K, D, I = REAL.n_embd, REAL.n_head, REAL.n_kv_head, REAL.head_size, REAL.n_inner

# %% 1. RMSNorm instead of LayerNorm: why subtract the mean?
# LayerNorm subtracts the mean of a token's C numbers and divides by their standard deviation. RMSNorm only divides:
#
#     RMSNorm(x) = x / sqrt(mean(x²) + eps) · weight
#
# It has no bias either.
#
# Predict: is there anything that a model with LayerNorm can compute, and one with RMSNorm cannot?

# %%
x = rng.standard_normal((4, C)) + 0.5
by_hand = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
assert np.allclose(F.rms_norm(Tensor(x), C, eps=1e-5).data, by_hand)
centered = x - x.mean(axis=1, keepdims=True)
assert np.allclose(F.layer_norm(Tensor(x), C).data, F.rms_norm(Tensor(centered), C, eps=1e-5).data)
written, writer = rng.standard_normal((4, C)), rng.standard_normal((C, C))
centered_writer = writer - writer.mean(axis=0)
by_rms_norm = F.rms_norm(Tensor(written @ centered_writer.T), C, eps=1e-5).data
assert np.allclose(F.layer_norm(Tensor(written @ writer.T), C).data, by_rms_norm)
norms = nn.RMSNorm(C).num_parameters(), nn.LayerNorm(C).num_parameters()
print(f"parameters per norm: RMSNorm {norms[0]}, LayerNorm {norms[1]}")

# %% [markdown]
# Answer: no. LayerNorm(x) = RMSNorm(x - mean(x)), without the bias. Subtracting the mean is linear, so the layers that
# write x can do it: if the columns of their matrix have mean 0, so has all that they write, and the two norms are
# equal.

# %% 2. Rotary positions: rotate queries and keys, add nothing
# GPT-2 learns a vector for each position and adds it to the embedding; its table ends at 1024. Llama adds nothing. It
# takes the numbers of a query or a key in pairs, as points in the plane, and turns each around the origin: at position
# t by the angle t a.
#
# Predict: a query at position m and a key at position n are turned in this way. On what does their product depend? And
# what would go wrong if all pairs turned at the same speed, one radian a token?


# %%
def turned(vector: np.ndarray, position: int) -> np.ndarray:
    """A query or key (D), rotated by its position. A number of its first half and one of its second are a pair."""
    x1, x2 = vector[: D // 2], vector[D // 2 :]
    angles = position / REAL.rope_theta ** (np.arange(0, D, 2) / D)  # (D/2): pair i turns by t / theta^(2i/D)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos])


query, key = rng.standard_normal((2, D))
theirs = F.rotary_embedding(Tensor(query[None]), *rotations(np.array([7]), D, REAL.rope_theta, np.float64))
assert np.allclose(turned(query, 7), theirs.data[0])
for apart in (0, 3, 50):
    scores = [turned(query, n + apart) @ turned(key, n) for n in (0, 7, 1000, 8000)]
    assert np.allclose(scores, scores[0])
    print(f"query {apart:2} tokens after a key at 0, 7, 1000 or 8000: q . k = {scores[0]:6.3f} each time")
assert np.isclose(np.linalg.norm(turned(query, 1234)), np.linalg.norm(query))
alike = {apart: turned(query, apart) @ query / (query @ query) for apart in (1, 44, 1000)}
print("a key equal to the query, so many tokens before it:", {apart: round(a, 2) for apart, a in alike.items()})
assert alike[1] > max(alike[44], alike[1000])  # with one speed, 44 tokens (7 turns) would look like none
assert turned(np.eye(D)[4], 26)[4] > 0.95 and turned(np.eye(D)[4], 13)[4] < -0.95  # half a turn: the opposite
print(f"GPT-2's table of positions: {accounting.parameters(GPTConfig())['position embedding']:,} numbers")
with lesson.picture("rotation", "A query, turned by its position", columns=2, size=(8, 4)) as turns:
    for axes, pair in zip(turns, (0, 4)):
        speed = REAL.rope_theta ** (-2 * pair / D)
        for position in range(6):
            tip = np.array([np.cos(position * speed), np.sin(position * speed)])
            axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "->"})
            axes.text(*1.15 * tip, str(position), ha="center", va="center")
        axes.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xlabel=f"number {pair}")
        axes.set(ylabel=f"number {pair + D // 2}", title=f"pair {pair}: {np.degrees(speed):.1f} degrees a token")

# %% [markdown]
# Answer: on their distance only, because a query turned by m a and a key turned by n a differ by the angle (m - n) a.
# Lengths do not change, and there is nothing to learn. With one speed, a distance of 44 tokens, seven full turns, would
# look like none. So each pair has a speed of its own. In the picture, pair 0 comes around in six tokens and tells
# neighbors apart; pair 4 needs 26, and pair 31 has hardly turned after a thousand.

# %% 3. SwiGLU instead of GELU: a gate in the feed-forward network
# GPT-2's feed-forward network is down(gelu(up(x))), with two matrices of C x 4C. Llama's has a third one, the gate:
#
#     down(silu(gate(x)) * up(x))        silu(z) = z sigmoid(z)
#
# Predict: what does the gate do to a value of up(x) where z is 0, 3, or -1? And how wide are three matrices that have
# as many weights as the two of GPT-2?

# %%
gate, up = rng.standard_normal((2, 3, I))
assert np.allclose(F.swiglu(Tensor(gate), Tensor(up)).data, gate / (1 + np.exp(-gate)) * up)
mlp, x = LlamaMLP(REAL), Tensor(rng.standard_normal((1, C)).astype(np.float32))
once, mlp.up_proj.weight.data = mlp(x).data, 2 * mlp.up_proj.weight.data
assert np.allclose(mlp(x).data, 2 * once, atol=1e-5) and once.any()  # the gate multiplies what `up` computes
ours, gpt2s = accounting.block_weights(REAL)["MLP"], accounting.block_weights(GPTConfig(n_embd=C, n_head=H))["MLP"]
assert ours == gpt2s == sum(p.data.size for p in LlamaMLP(REAL).parameters())
print(f"weights: three of {C} x {I}: {ours:,}; two of {C} x {4 * C}: {gpt2s:,}")
print("silu at 0, 3 and -1:", F.silu(Tensor([0.0, 3.0, -1.0])).data)

# %% [markdown]
# Answer: it drops the value, multiplies it by 2.9, or weakens and flips it, by -0.27. So the gate decides, for each
# token, how much of a value passes. Three matrices of width 8/3 C have as many weights as two of width 4 C, so the
# price is nothing.

# %% 4. Grouped-query attention: nine query heads, three heads of keys and values
# Predict: three query heads share one head of keys and values. Which of these shrink: the scores, the KV cache, the
# parameters?
q, k, v = rng.standard_normal((1, H, 5, D)), *rng.standard_normal((2, 1, K, 5, D))
grouped = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v), is_causal=True, enable_gqa=True)
copied = [Tensor(np.repeat(each, H // K, axis=1)) for each in (k, v)]
assert np.allclose(grouped.data, F.scaled_dot_product_attention(Tensor(q), *copied, is_causal=True).data)
print(f"{K} heads of keys and values, each shared by {H // K} query heads: as with copies")
full = dataclasses.replace(REAL, n_kv_head=H)
ungrouped_bytes, grouped_bytes = (accounting.kv_cache_bytes(config, 1, 1) for config in (full, REAL))
assert (ungrouped_bytes, grouped_bytes) == (2 * 30 * 9 * 64 * 4, 2 * 30 * 3 * 64 * 4)
saved = full.num_parameters() - REAL.num_parameters()
assert saved == REAL.n_layer * 2 * C * (H - K) * D
print(f"cache, bytes per token: {ungrouped_bytes:,} -> {grouped_bytes:,}; parameters saved: {saved:,}")

# %% [markdown]
# Answer: the cache, to a third, and the parameters by 9 %. There are as many scores as before: every query head still
# looks for itself.

# %% Together: 134,515,008 parameters
parts = {
    "embedding, also the output layer": REAL.vocab_size * C,
    "attention": REAL.n_layer * (2 * C * C + 2 * C * K * D),
    "feed-forward": REAL.n_layer * 3 * C * I,
    "norms": (2 * REAL.n_layer + 1) * C,
}
for part, count in parts.items():
    print(f"  {part:33} {count:11,}")
print(f"  {'SmolLM2-135M':33} {sum(parts.values()):11,}")
assert sum(parts.values()) == REAL.num_parameters() == 134_515_008

# %% A small GPT-2 becomes a small Llama, one change at a time
# Predict: each model is trained for 200 steps (67 of them warm-up) with ten seeds, at the best of five learning rates.
# Which of these four changes lower the loss, and by more than another seed does?

# %%
tokenizer, train_ids, val_ids = english()
SMALL = LlamaConfig(512, 32, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, n_inner=168, rope_theta=1e4)
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
CHANGES = ("GPT-2, without biases", "+ RMSNorm", "+ rotary positions", "+ SwiGLU", "+ grouped queries = Llama")


class Between(Llama):
    """A Llama in which all but the first `changes` of the four are taken back."""

    def __init__(self, changes: int):
        super().__init__(SMALL if changes == 4 else dataclasses.replace(SMALL, n_kv_head=SMALL.n_head))
        width, blocks = SMALL.n_embd, list(self.model.layers)
        if changes < 3:
            for block in blocks:
                wide, narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
                block.mlp = nn.Sequential(wide, nn.GELU(), narrow)
        self.rotary = changes >= 2
        self.positions = None if self.rotary else nn.Embedding(SMALL.block_size, width)
        if changes < 1:
            self.model.norm = nn.LayerNorm(width)
            for block in blocks:
                block.input_layernorm, block.post_attention_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        init_weights(self, residual_projections=("o_proj.weight", "down_proj.weight", "mlp.2.weight"))

    def hidden_states(self, ids: Any, cache: KVCache | None = None, attention_mask: Any = None) -> Tensor:
        if self.positions is None:
            return super().hidden_states(ids, cache, attention_mask)
        places = np.arange(ids.shape[1])
        x = self.model.embed_tokens(ids) + self.positions(places)
        still = rotations(0 * places, SMALL.head_size, SMALL.rope_theta, x.dtype)  # turned by nothing
        for block in self.model.layers:
            x = block(x, still)
        return self.model.norm(x)


def trained(changes: int, seed: int, rate: float) -> Llama:
    """A model with the first of the four changes, after 200 steps."""
    manual_seed(seed)
    model = Between(changes)
    train(model, train_ids, 200, rate, seed=seed, warmup=67)
    return model


def loss_of(changes: int, seed: int, rate: float) -> float:
    """The validation loss of this model."""
    return round(validation_loss(trained(changes, seed, rate), val_ids), 4)


def with_ten_seeds() -> list[dict[str, Any]]:
    """After each change: the mean validation loss of three seeds by rate, the best rate, the losses of ten with it."""
    found = []
    for changes in range(5):
        by_rate = [float(np.mean([loss_of(changes, seed, rate) for seed in range(3)])) for rate in RATES]
        best = RATES[np.argmin(by_rate)]
        losses = [loss_of(changes, seed, best) for seed in range(10)]
        found.append({"by rate": by_rate, "rate": best, "losses": losses})
    return found


rows = dict(zip(CHANGES, lesson.measured("changes", with_ten_seeds, loss_of, trained)))
today = {}
print("validation loss by rate", RATES, "with three seeds; at the best, ten seeds and today")
for changes, (name, row) in enumerate(rows.items()):
    with use_kernels("fast"):
        model = trained(changes, lesson.seed, row["rate"])
    today[name] = validation_loss(model, val_ids)
    cache_bytes = accounting.kv_cache_bytes(model.config, 1, 1)
    print(f"{name}: {model.num_parameters():,} parameters, {cache_bytes} bytes of cache a token")
    print(f"  {np.array(row['by rate'])}")
    print(f"  {np.array(row['losses'])}, {today[name]:.3f}", flush=True)
    assert row["rate"] not in (RATES[0], RATES[-1])  # not at the edge
    assert max(row["losses"]) < 0.8 * np.log(512)  # all of them learn
losses = {name: np.array(row["losses"]) for name, row in rows.items()}
gpt2, rms_norm, rotary, swiglu, grouped = losses.values()
assert rotary.max() < rms_norm.min()
assert today["+ rotary positions"] < today["+ RMSNorm"]
assert abs(np.median(rms_norm) - np.median(gpt2)) < 0.03
assert swiglu.mean() > rotary.mean() + 0.03
assert rows["+ SwiGLU"]["by rate"][1] < rows["+ rotary positions"]["by rate"][1]  # the other way round at 3e-3
assert grouped.mean() > swiglu.mean() + 0.02
assert model.num_parameters() == SMALL.num_parameters()

# %% [markdown]
# Answer: only rotary positions, with every seed. RMSNorm is as good as the norm that it replaces: the medians are
# equal, and the means differ because two of its ten runs go astray. SwiGLU does not help here: at the best rate of each
# it is worse by 0.09 on average. At 3e-3, it would be better by 0.01: **two models are compared at the best rate of
# each.** Grouped queries halve the cache, and raise the loss by 0.05 on average, about as much as another seed does:
# two heads of keys and values are few. In large models the cost is small (Ainslie et al. 2023).

# %% The real one: SmolLM2
# Its weights are in a GGUF file, in blocks of 32 (lesson 444).
try:
    file = GGUFFile(hub.find("smollm2"))
except (FileNotFoundError, GGUFError) as error:  # without the package, or without the library that reads its file
    print(f"({error})")
else:
    tensor = file.tensors["blk.0.attn_q.weight"]
    real_codes, scales, minimums = unpack(tensor)
    print(f"{tensor.name} is {tensor.kind}; first block: scale {scales[0, 0]:.4f}, codes {real_codes[0, :6]} ...")
    by_hand = scales[0, 0] * real_codes[0, :32] + (0 if minimums is None else minimums[0, 0])
    assert np.allclose(by_hand, dequantize(tensor)[0, :32])
    smollm2, its_tokenizer = load_model("smollm2")
    assert smollm2.num_parameters() == REAL.num_parameters()
    template, question = ChatTemplate(its_tokenizer), "What is the capital of France?"
    ids, _ = template.encode([{"role": "user", "content": question}], add_generation_prompt=True)
    answer = smollm2.generate([ids], 10, temperature=0, stop_tokens=template.stop_tokens)[0]
    print(f"{question} {its_tokenizer.decode(answer, skip_special_tokens=True)}")
    assert "Paris" in its_tokenizer.decode(answer)

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start rms_norm`, llama
# - read: gpt/model/llama.py, a page; minigrad/functional/rotary.py; finetune/data/jinja_template.py
# - try: `python scripts/chat.py --model smollm2`. Expect: answers in sentences, or how to install the package.
# - break: in the section on rotary positions, rotate the query only: `@ key` in place of `@ turned(key, n)`. Expect:
#   `assert np.allclose(scores, scores[0])` fails, because the score now depends on the position of the query.
