"""A new architecture is one class: all but the files of other libraries accept it without an edit."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from finetune import LoRAConfig, ModelWithHead, QuantizationConfig, apply_lora, apply_qlora, merge_lora, quantize
from finetune.quantization.folder import load_quantized, save_quantized
from gpt import LanguageModel, load_checkpoint, save_checkpoint
from gpt.interpretability import ablated, attention_patterns, logit_lens, patch_effects
from gpt.model.language_model import init_weights
from gpt.model.positions import positions_and_mask
from gpt.model.structure import Names, SharedInput
from gpt.model_config import Settings
from minigrad import nn, use_kernels
from tests.finetune.small import small_tokenizer
from tests.gpt.small import logits_of, random_ids

IDS = random_ids((24, 12))


@dataclasses.dataclass(frozen=True)
class ParallelConfig(Settings):
    """The shape of a `Parallel`."""

    vocab_size: int = 37
    block_size: int = 12
    n_layer: int = 2
    n_head: int = 2
    n_embd: int = 8
    tied: bool = True
    slope: float = 0.5  # a setting that neither GPT-2 nor Llama has
    n_kv_head = property(lambda self: self.n_head)
    head_size = property(lambda self: self.n_embd // self.n_head)

    def parameters(self):
        C = self.n_embd
        return {"token embedding": self.vocab_size * C, "blocks": self.n_layer * (8 * C * C + C), "norm": C}


class Attention(nn.Module):
    def __init__(self, config):
        C = config.n_embd
        self.n_head = config.n_head
        self.qkv = nn.Linear(C, 3 * C, bias=False)
        self.out = nn.Linear(C, C, bias=False)

    def forward(self, x, layer, cache, mask):
        q, k, v = F.split_heads(self.qkv(x), self.n_head, parts=3)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        causal = mask is None and x.shape[1] > 1
        return self.out(F.merge_heads(F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal)))


class Block(nn.Module):
    """Attention and the MLP beside each other, behind one norm, as in GPT-J and PaLM."""

    def __init__(self, config):
        C = config.n_embd
        self.norm, self.attention = nn.RMSNorm(C), Attention(config)
        self.ffn = nn.Sequential(nn.Linear(C, 2 * C, bias=False), nn.SiLU(), nn.Linear(2 * C, C, bias=False))

    def forward(self, x, layer=0, cache=None, mask=None):
        normed = self.norm(x)
        return x + self.attention(normed, layer, cache, mask) + self.ffn(normed)


class Trunk(nn.Module):
    def __init__(self, config):
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.last_norm = nn.RMSNorm(config.n_embd)

    def forward(self, ids, cache=None, attention_mask=None):
        positions, mask = positions_and_mask(ids, cache, attention_mask, self.config.block_size)
        x = self.tokens(ids) * (1 + self.config.slope * positions)[..., None].astype("float32")
        for layer, block in enumerate(self.layers):
            x = block(x, layer, cache, mask)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.last_norm(x)


class Parallel(LanguageModel):
    model_type = family = "parallel"
    config_class = ParallelConfig
    names = Names(
        body="trunk", embeddings=("tokens",), blocks="layers", norm="last_norm",
        attention="attention", projection="attention.out", mlp="ffn", lora_targets=("qkv",),
        inputs=(
            SharedInput(("attention.qkv", "ffn.0"), "norm"),
            SharedInput(("attention.out",), "attention.qkv"),
            SharedInput(("ffn.2",), None),
        ),
    )  # fmt: skip

    def __init__(self, config):
        self.config = config
        self.trunk = Trunk(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.trunk.tokens.weight
        init_weights(self, residual_projections=("out.weight", "ffn.2.weight"))

    def forward(self, ids, cache=None, attention_mask=None):
        return self.lm_head(self.hidden_states(ids, cache, attention_mask))

    def hidden_states(self, ids, cache=None, attention_mask=None):
        ids, attention_mask = self.checked(ids, attention_mask)
        return self.trunk(ids, cache, attention_mask)


def parallel(**changes):
    model = Parallel(ParallelConfig(**changes)).eval()
    for parameter in model.parameters():
        parameter.data *= 8 if parameter.ndim == 2 else 1  # far from a uniform distribution
    return model


def test_it_writes_and_comes_back_from_a_checkpoint(tmp_path):
    class Unfinished(LanguageModel):
        """It declares nothing, and does not disturb the others."""

    model = parallel()
    with use_kernels("fast"):
        cached, plain = (model.generate([[1, 2, 3], [4]], 8, temperature=0, use_cache=cache) for cache in (True, False))
    assert cached == plain
    save_checkpoint(tmp_path, model)
    assert_array_equal(logits_of(load_checkpoint(tmp_path).model, IDS), logits_of(model, IDS))


def test_adapters_fit_and_merge():
    model = parallel()
    layers = apply_lora(model, LoRAConfig(r=2))
    assert list(layers) == [f"trunk.layers.{i}.attention.qkv" for i in range(2)]
    for layer in layers.values():
        layer.lora_B.data[...] = 0.1
    adapted = logits_of(model, IDS)
    merge_lora(model)
    assert_allclose(logits_of(model, IDS), adapted, atol=1e-4)
    assert list(apply_qlora(model, LoRAConfig(r=2), QuantizationConfig("nf4", group_size=4))) == list(layers)


@pytest.mark.parametrize("method", ["absmax", "gptq", "awq"])
def test_it_can_be_quantized_and_stored(tmp_path, method):
    tokenizer, config = small_tokenizer(), QuantizationConfig(method, 4, group_size=4)
    model = parallel(vocab_size=len(tokenizer))
    before = logits_of(model, IDS)
    report = quantize(model, config, IDS)
    assert len(report.layers) == 8 and all(layer.error < 0.5 for layer in report.layers)
    assert 0 < np.abs(logits_of(model, IDS) - before).std() < before.std()
    save_quantized(tmp_path, model, config, tokenizer)
    assert_array_equal(logits_of(load_quantized(tmp_path)[0], IDS), logits_of(model, IDS))


def test_a_new_head_fits():
    model = parallel()
    classifier = ModelWithHead.from_language_model(model, ["no", "yes"])
    assert classifier.trunk is model.trunk and classifier(IDS, [12] * 24).shape == (24, 2)
    assert_array_equal(logits_of(classifier.language_model(), IDS), logits_of(model, IDS))


def test_one_can_look_inside():
    model = parallel()
    assert attention_patterns(model, IDS).shape == (2, 24, 2, 12, 12)
    assert_array_equal(logit_lens(model, IDS)[-1], logits_of(model, IDS))
    with ablated(model, heads=[(0, 0), (0, 1)]):
        off = logits_of(model, IDS)
    with ablated(model, attention=[0]):
        assert_allclose(logits_of(model, IDS), off, atol=1e-5)
    assert patch_effects(model, [1, 2, 3], [4, 2, 3], lambda rows: rows[-1, 0], part="mlp").shape == (2, 3)
