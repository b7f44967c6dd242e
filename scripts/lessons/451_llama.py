"""Lesson 19 (4.5.1): from GPT-2 to Llama

Most open models since 2023 (Llama, Mistral, SmolLM2) are GPT-2 with four changes. Each is made here alone, with its
reason and its price; then a small GPT-2 becomes a small Llama, one change at a time; then the real one speaks, if its
package is installed: SmolLM2, 135 million parameters in 4 bits, on the same engine.
Zhang & Sennrich 2019 (RMSNorm); Su et al. 2021 (rotary positions); Shazeer 2020 (SwiGLU); Ainslie et al. 2023 (grouped
queries); Touvron et al. 2023 (Llama).
"""

from __future__ import annotations

import dataclasses

import numpy as np

import minigrad.functional as F
from finetune.chat import ChatTemplate
from gpt import GPTConfig, KVCache, Llama, LlamaConfig, accounting, hub
from gpt.gguf_file import BLOCKS, GGUFFile, GGUFTensor, dequantize, unpack
from gpt.llama import rotations
from gpt.loading import load_model
from gpt.model import MLP
from minigrad import Tensor, manual_seed, nn, no_grad
from scripts.lessons.pictures import LINES, Lesson, bars
from scripts.lessons.small_gpt import english, smooth, train, validation_loss

lesson = Lesson("451_llama", __doc__)
rng = np.random.default_rng(0)
REAL = LlamaConfig()  # SmolLM2's shape
C, H, K, D, I = REAL.n_embd, REAL.n_head, REAL.n_kv_head, REAL.head_size, REAL.n_inner

# %% 1. RMSNorm
lesson.part("1. RMSNorm for LayerNorm: why take out the mean?")

x = rng.standard_normal((4, C)) + 0.5
by_hand = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + REAL.rms_norm_epsilon)
assert np.allclose(F.rms_norm(Tensor(x), C, eps=REAL.rms_norm_epsilon).data, by_hand)
centred = x - x.mean(axis=1, keepdims=True)
assert np.allclose(F.layer_norm(Tensor(x), C).data, F.rms_norm(Tensor(centred), C, eps=1e-5).data)
print(
    "LayerNorm(x) = RMSNorm(x - mean(x)): asserted. What keeps training stable is the scale; without the mean there is"
)
print(
    f"one pass less over the numbers, and one vector less to learn: {C} parameters a norm, where LayerNorm has {2 * C}"
)

# %% 2. Rotary positions
lesson.part("2. rotary positions: turn queries and keys, add nothing")


def turned(vector: np.ndarray, position: int) -> np.ndarray:
    """A query or key (D) as attention sees it at a position."""
    cos, sin = rotations(np.array([position]), len(vector), REAL.rope_theta, np.float64)
    return F.rotary_embedding(Tensor(vector[None]), cos, sin).data[0]


query, key = rng.standard_normal((2, D))
for apart in (0, 3, 50):
    scores = [turned(query, n + apart) @ turned(key, n) for n in (0, 7, 1000, 8000)]
    assert np.allclose(scores, scores[0])
    print(f"query {apart:2} tokens after the key, which is at 0, 7, 1000, 8000: q . k = {scores[0]:6.3f}, always")
assert np.isclose(np.linalg.norm(turned(query, 1234)), np.linalg.norm(query))
print("only the distance counts, and lengths stay. A pair turned by m a and one by n a meet at the angle (m - n) a")
print(f"price: nothing to learn (GPT-2's table of positions: {1024 * 768:,} parameters), and no last position")
with lesson.picture("rotation", "A query, turned by its position", columns=3, size=(12, 4)) as axes:
    for ax, i in zip(axes[:2], (0, 8)):
        for position in range(6):
            angle = position * REAL.rope_theta ** (-2 * i / D)
            ax.annotate("", (np.cos(angle), np.sin(angle)), (0, 0), arrowprops={"arrowstyle": "->"})
            ax.text(1.15 * np.cos(angle), 1.15 * np.sin(angle), str(position), ha="center", va="center")
        ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xlabel=f"number {i}", ylabel=f"number {i + D // 2}",
               title=f"pair {i}: {np.degrees(REAL.rope_theta ** (-2 * i / D)):.1f} degrees a token")  # fmt: skip
    for theta, line in ((10_000.0, LINES[1]), (REAL.rope_theta, LINES[0])):
        tokens = 2 * np.pi * theta ** (np.arange(0, D, 2) / D)
        axes[2].semilogy(tokens, line, color="black", label=f"theta {theta:,.0f}")
    axes[2].axhline(REAL.block_size, linestyle=":", color="0.4", label=f"the block, {REAL.block_size:,}")
    axes[2].set(xlabel="pair", ylabel="tokens for a whole turn", title="fast pairs see near, slow ones far")
    axes[2].legend(frameon=False, fontsize=8)

# %% 3. SwiGLU
lesson.part("3. SwiGLU for GELU: a gate in the feed-forward network")

gate, up = rng.standard_normal((2, 3, I))
assert np.allclose(F.swiglu(Tensor(gate), Tensor(up)).data, gate / (1 + np.exp(-gate)) * up)
print("down(silu(gate(x)) * up(x)): what one layer computes, another lets pass, weakens or turns round, token by token")
assert 3 * C * I == 2 * C * (4 * C) == 2_654_208
print(f"price: three matrices, so they are narrower: 3 x {C} x {I} = {3 * C * I:,} = 2 x {C} x {4 * C}, as in GPT-2")
with lesson.picture("swiglu", "What comes out of one inner number", columns=2, size=(9, 3.6)) as (left, right):
    z = np.linspace(-4, 4, 200)
    left.plot(z, F.gelu(Tensor(z)).data, color="black", label="GELU(z): z decides alone")
    for value, line in zip((-1.0, 0.5, 2.0), LINES[1:]):
        right.plot(z, F.swiglu(Tensor(z), Tensor(np.full(200, value))).data, line, color="black", label=f"up = {value}")
    left.set(xlabel="z", ylabel="output", title="GPT-2")
    right.set(xlabel="gate", ylabel="output", title="SwiGLU: the gate opens for whatever `up` says")
    left.legend(frameon=False)
    right.legend(frameon=False)

# %% 4. Grouped queries
lesson.part("4. grouped-query attention: nine ask, three answer")

q, k, v = rng.standard_normal((1, H, 5, D)), *rng.standard_normal((2, 1, K, 5, D))
grouped = F.scaled_dot_product_attention(Tensor(q), Tensor(k), Tensor(v), is_causal=True, enable_gqa=True).data
copied = (Tensor(np.repeat(each, H // K, axis=1)) for each in (k, v))
assert np.allclose(grouped, F.scaled_dot_product_attention(Tensor(q), *copied, is_causal=True).data)
print(f"{K} heads of keys and values, each used by {H // K} heads of queries: as if they were there {H // K} times")
full = dataclasses.replace(REAL, n_kv_head=H)
per_token = {heads: accounting.kv_cache_bytes(dataclasses.replace(REAL, n_kv_head=heads), 1, 1) for heads in (H, K)}
assert per_token == {H: 2 * REAL.n_layer * H * D * 4, K: 2 * REAL.n_layer * K * D * 4} == {9: 138_240, 3: 46_080}
saved = full.num_parameters() - REAL.num_parameters()
assert saved == REAL.n_layer * 2 * C * (H - K) * D
print(f"the cache: {per_token[K]:,} bytes a token, not {per_token[H]:,}; and {saved:,} parameters fewer")
with lesson.picture("kv-heads", "The KV cache of grouped against full heads (SmolLM2, float32)", columns=2,
                    size=(10, 3.8)) as (left, right):  # fmt: skip
    length = np.array([0, REAL.block_size])
    for heads, line in zip((H, K), LINES):
        left.plot(length, per_token[heads] * length / 2**20, line, color="black", label=f"{heads} heads")
    left.axhline(4 * REAL.num_parameters() / 2**20, linestyle=":", color="0.4", label="all weights")
    left.set(xlabel="tokens in the text", ylabel="cache (MiB)")
    left.legend(frameon=False)
    for h in range(H):
        right.plot([h, H // K * (h // (H // K)) + 1], [1, 0], color="0.5")
    right.plot(range(H), [1] * H, "o", color="black")
    right.plot([1, 4, 7], [0] * K, "s", color="black", markersize=10)
    right.set(
        yticks=[0, 1], yticklabels=["keys, values", "queries"], xticks=[], ylim=(-0.3, 1.3), title="who asks whom"
    )

# %% The count
lesson.part("together: 134,515,008 parameters")

parts = {
    "embedding, which is the head too": REAL.vocab_size * C,
    "attention": REAL.n_layer * (2 * C * C + 2 * C * K * D),
    "feed-forward": REAL.n_layer * 3 * C * I,
    "norms": (2 * REAL.n_layer + 1) * C,
}
for name, count in parts.items():
    print(f"  {name:33} {count:11,}")
assert sum(parts.values()) == REAL.num_parameters() == 134_515_008
print(f"  {'SmolLM2-135M':33} {sum(parts.values()):11,}")

# %% One change at a time
lesson.part("a small GPT-2 becomes a small Llama, one change at a time")

tokenizer, train_ids, val_ids = english()
SMALL = LlamaConfig(512, 32, n_layer=2, n_head=4, n_kv_head=2, n_embd=64, n_inner=168, rope_theta=10_000.0)
CHANGES = ("GPT-2, without biases", "+ RMSNorm", "+ rotary positions", "+ SwiGLU", "+ grouped queries = Llama")


class Between(Llama):
    """A Llama in which all but the first `changes` of the four are taken back."""

    def __init__(self, changes: int):
        super().__init__(SMALL if changes == 4 else dataclasses.replace(SMALL, n_kv_head=SMALL.n_head))
        width, body = SMALL.n_embd, self.model
        if changes < 3:
            for block in body.layers:
                block.mlp = MLP(GPTConfig(n_embd=width))
                block.mlp.c_fc.bias = block.mlp.c_proj.bias = None
                for layer in (block.mlp.c_fc, block.mlp.c_proj):
                    nn.init.normal_(layer.weight, std=0.02)
        if changes < 2:
            self.positions = nn.Embedding(SMALL.block_size, width)
            nn.init.normal_(self.positions.weight, std=0.02)
        if changes < 1:
            body.norm = nn.LayerNorm(width)
            for block in body.layers:
                block.input_layernorm, block.post_attention_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.rotates = changes >= 2

    def body(self, ids: np.ndarray, cache: KVCache | None, attention_mask: np.ndarray | None) -> Tensor:
        if self.rotates:
            return super().body(ids, cache, attention_mask)
        places = np.arange(ids.shape[1])
        x = self.model.embed_tokens(ids) + self.positions(places)
        still = rotations(0 * places, SMALL.head_size, SMALL.rope_theta, x.dtype)  # turned by nothing
        for block in self.model.layers:
            x = block(x, still)
        return self.model.norm(x)


curves, found = {}, {}
for changes, name in enumerate(CHANGES):
    manual_seed(0)
    model = Between(changes)
    curves[name] = train(model, train_ids, 150)
    found[name] = validation_loss(model, val_ids, 2048)
    cache = accounting.kv_cache_bytes(model.config, 1, 1)
    print(f"  {name:25} {model.num_parameters():8,} parameters, cache {cache:5,} bytes/token, loss {found[name]:.3f}")
assert max(found.values()) < 0.8 * np.log(512)  # all of them learn
assert model.num_parameters() == SMALL.num_parameters()
print("one seed, 38,400 of 150,000 tokens: differences of 0.05 are chance. Grouped queries save, no more")
with lesson.picture("changes", "The same training, change after change", columns=2, size=(11, 4)) as (
    left,
    right,
):
    for (name, losses), line in zip(curves.items(), [*LINES, (0, (5, 1))]):
        left.plot(smooth(losses), linestyle=line, color="black" if name != CHANGES[-1] else "0.6", label=name)
    left.set(xlabel="step", ylabel="training loss (nats per token)")
    left.legend(frameon=False, fontsize=8)
    bars(right, {name.replace(" ", "\n", 2): value for name, value in found.items()}, "validation loss", ".3f")
    right.tick_params(labelsize=7)

# %% Weights in blocks
lesson.part("weights of 4 bits: a block of a GGUF file, by hand")

numbers = rng.normal(0, 0.1, 32).astype(np.float32)
least, step = np.float16(numbers.min()), np.float16((numbers.max() - numbers.min()) / 15)
codes = np.clip(np.round((numbers - np.float32(least)) / np.float32(step)), 0, 15).astype(np.uint8)
block = np.zeros((1, 1), BLOCKS["Q4_1"])
block["scale"], block["minimum"], block["codes"] = step, least, codes[:16] | codes[16:] << 4  # two codes in a byte
back = dequantize(GGUFTensor("block", (1, 32), "Q4_1", block.view(np.uint8)))[0]
assert np.array_equal(back, np.float32(step) * codes + np.float32(least))
assert np.abs(back - numbers).max() < 0.51 * float(step)
print(f"32 numbers from {numbers.min():.3f} to {numbers.max():.3f}: 16 levels, {float(step):.4f} apart")
print(
    f"  number {numbers[0]:7.4f} -> code {codes[0]:2} -> {float(step):.4f} x {codes[0]} + {float(least):.4f} = {back[0]:.4f}"
)
for kind, layout in BLOCKS.items():
    print(f"  {kind}: {layout.itemsize} bytes for 32 numbers, {layout.itemsize * 8 / 32} bits each")
assert [BLOCKS[kind].itemsize for kind in ("Q4_1", "Q8_0")] == [2 + 2 + 16, 2 + 32]

# %% The real one
lesson.part("the real one: SmolLM2")

try:
    path = hub.find("smollm2")
except FileNotFoundError as error:
    print(f"({error})")
else:
    tensor = GGUFFile(path).tensors["blk.0.attn_q.weight"]
    real_codes, scales, minimums = unpack(tensor)
    first = scales[0, 0] * real_codes[0, :32] + (0 if minimums is None else minimums[0, 0])
    assert np.allclose(first, dequantize(tensor)[0, :32])
    print(f"{tensor.name} is {tensor.kind}; its first block: scale {scales[0, 0]:.5f}, codes {real_codes[0, :8]} ...")
    smollm2, its_tokenizer = load_model("smollm2")
    assert smollm2.num_parameters() == REAL.num_parameters()
    template = ChatTemplate(its_tokenizer)
    ids, _ = template.encode(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    with no_grad():
        answer = smollm2.generate([ids], 10, temperature=0, stop_tokens=template.stop_tokens)[0]
    print(f"{question} {its_tokenizer.decode(answer, skip_special_tokens=True)}")

# %% What next
lesson.end("""\
  read      gpt/llama.py, a page; minigrad/functional/rotary.py; gpt/gguf_file.py; finetune/chatml.py
  try       python scripts/chat.py --model smollm2
  break     turn the values too, not only queries and keys: what happens to the loss? Or set rope_theta to 10""")
