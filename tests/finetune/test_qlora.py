"""QLoRA: adapters beside 4-bit weights train, and take the memory that the formulas say."""

import gc
import tracemalloc

import numpy as np
import pytest

from finetune.adapters.adapter_files import load_adapter, save_adapter
from finetune.adapters.applying import apply_lora, remove_lora
from finetune.adapters.lora import LoRAConfig
from finetune.adapters.qlora import NF4, apply_qlora
from finetune.objectives.model_with_head import ModelWithHead
from finetune.quantization import QuantizedLinear, memory
from finetune.quantization.nf4 import nf4
from gpt import GPT, GPTConfig, accounting
from minigrad import optim, use_kernels
from minigrad.nn import init
from scripts.shared.method_comparison import moment_bytes
from tests.finetune.test_lora import randomize, refuse_to_merge, training_of, wants
from tests.gpt.small import assert_same, logits_of, random_ids, small_gpt, weights_of

WIDE = {"n_embd": 64}  # NF4 has groups of 64
ADAPTERS = {
    "c_attn": LoRAConfig(r=4, alpha=8),
    "query and value": LoRAConfig(r=4, alpha=8, slices=("q", "v")),
    "all layers": LoRAConfig(r=2, alpha=4, target_modules="all-linear"),
}


@pytest.fixture
def model():
    return small_gpt(**WIDE)


@pytest.fixture(params=ADAPTERS.values(), ids=ADAPTERS.keys())
def config(request):
    return request.param


def test_only_the_adapters_learn_and_the_codes_stay(model, config, kernels):
    apply_qlora(model, config)
    before = weights_of(model)
    with use_kernels(kernels):
        loss = model.loss(random_ids((2, 7)), random_ids((2, 7), 1))
        assert wants(loss) == {id(p) for name, p in model.named_parameters() if name.endswith(("lora_A", "lora_B"))}
        step, _ = training_of(model)
        losses = [step().loss for _ in range(20)]
    assert losses[-1] < losses[0] - 0.5
    for name, array in model.state_dict().items():
        assert (array != before[name]).any() == name.endswith(("lora_A", "lora_B")), name


def test_merging_into_four_bits_is_refused(model, config):
    apply_qlora(model, config)
    refuse_to_merge(model, "h.0.attn.c_attn is a QuantizedLinear: .* into the model before quant")


def test_an_adapter_beside_four_bits_fits_the_float_model(model, tmp_path):
    apply_qlora(model, ADAPTERS["c_attn"])
    randomize(model)
    save_adapter(model, tmp_path)
    plain = small_gpt(**WIDE)
    with pytest.raises(ValueError, match="trained beside other weights"):
        load_adapter(plain, tmp_path)
    load_adapter(plain, tmp_path, check_base=False)
    again = small_gpt(**WIDE)
    apply_qlora(again, LoRAConfig())
    remove_lora(again)
    load_adapter(again, tmp_path)  # the same 4-bit weights, made again
    ids = random_ids((2, 7))
    expected = logits_of(model, ids)
    np.testing.assert_array_equal(logits_of(again, ids), expected)
    assert 0 < abs(logits_of(plain, ids) - expected).max() < 0.5 * abs(expected).max()


@pytest.mark.parametrize(
    "shape, settings, match",
    [
        (WIDE, {"modules_to_save": ("h.1.mlp.c_fc",)}, "c_fc is in modules_to_save, and a quantized layer cannot be"),
        (WIDE, {"modules_to_save": ("wte",)}, "wte shares its weight with lm_head"),
        ({"n_embd": 9, "n_head": 1}, {}, "rows of 9 cannot be paired"),
    ],
)
def test_what_has_no_place_leaves_the_model_as_it_was(shape, settings, match):
    model = small_gpt(**shape)
    before = weights_of(model)
    with pytest.raises(ValueError, match=match):
        apply_qlora(model, LoRAConfig(r=2, **settings))
    assert_same(model, before)


def test_an_embedding_and_a_head_that_are_trained_stay_float(model):
    apply_qlora(model, LoRAConfig(r=2, modules_to_save=("wte", "lm_head", "ln_f")))
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    assert trained == {"transformer.wte.weight", "transformer.ln_f.weight", "transformer.ln_f.bias"}
    assert model.lm_head.weight is model.transformer.wte.weight
    model = ModelWithHead(small_gpt(**WIDE).transformer, ["no", "yes"])
    apply_qlora(model, LoRAConfig(r=2, modules_to_save=("score",)))
    assert model.score.weight.requires_grad and isinstance(model.transformer.h[0].mlp.c_fc, QuantizedLinear)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_course():
    full = sum(accounting.training_memory(7_000_000_000, weights="bfloat16", gradients="bfloat16").values())
    adapter = accounting.lora_parameters(GPTConfig(n_layer=32, n_embd=4096, n_head=32), 16, accounting.LAYERS)
    qlora = sum(accounting.qlora_memory(7e9 * accounting.nf4_bits() / 8, adapter, "bfloat16").values())
    assert full == 84e9 and round(qlora / 1e9) == 4 and round(full / qlora) == 21


@pytest.mark.parametrize("r", [1, 8])
@pytest.mark.parametrize("layers", [("attn.c_attn",), ("attn.c_proj", "mlp.c_fc"), tuple(accounting.LAYERS)])
def test_adapters_have_as_many_numbers_as_the_formula_says(r, layers):
    model = small_gpt(n_layer=3, n_embd=16)
    apply_lora(model, LoRAConfig(r=r, target_modules=layers))
    assert model.num_parameters(trainable_only=True) == accounting.lora_parameters(model.config, r, layers)


def predicted(shape, r, method):
    """The bytes of weights, gradients and moments, by the formulas, for the types that are in memory."""
    adapter = accounting.lora_parameters(shape, r, accounting.LAYERS)
    if method == "full":
        return accounting.training_memory(shape.num_parameters())
    if method == "lora":
        return accounting.training_memory(shape.num_parameters() + adapter, trainable=adapter)
    matrices, table = 12 * shape.n_layer * shape.n_embd**2, shape.vocab_size * shape.n_embd
    rest = shape.num_parameters() - matrices - table  # positions, biases and norms, in float32
    base = matrices * accounting.nf4_bits() / 8 + table + 4 * shape.vocab_size + 4 * rest
    return accounting.qlora_memory(base, adapter)


SHAPES = [
    GPTConfig(vocab_size=512, block_size=64, n_layer=3, n_head=4, n_embd=128),
    pytest.param(GPTConfig(vocab_size=2000, block_size=64, n_layer=2, n_head=8, n_embd=512), marks=pytest.mark.slow),
    pytest.param(GPTConfig(), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("shape", SHAPES, ids=["small", "of two wide blocks", "of gpt2"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_memory_is_within_a_tenth_of_what_the_formulas_say(shape, method):
    """Measured twice: as the arrays of model and optimizer, and as what NumPy has allocated when a step has run.

    At the end of a step's backward all of it is there at once: weights, gradients, and moments of the step before.
    """
    config = LoRAConfig(r=8, alpha=16, target_modules="all-linear")
    nf4(np.ones((512, 512), np.float32)).dequantize()  # makes a table that all weights use
    gc.collect()
    tracemalloc.start()
    try:
        with init.skipped():
            model = GPT(shape)
        for parameter in model.parameters():
            parameter.data[...] = np.random.default_rng(0).standard_normal(parameter.shape, dtype=np.float32) * 0.02
        if method == "lora":
            apply_lora(model, config)
        elif method == "qlora":
            apply_qlora(model, config, NF4)
        optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad])
        ids = np.zeros((1, 4), np.int64)
        for _ in range(2):
            optimizer.zero_grad()
            model.loss(ids, ids).backward()
            optimizer.step()
        gc.collect()
        arrays_only = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
        allocated = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays_only]).traces)
    finally:
        tracemalloc.stop()
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    held = {"weights": memory(model), "gradients": gradients, "optimizer": moment_bytes(optimizer)}
    expected = predicted(shape, config.r, method)
    for part, size in expected.items():
        assert held[part] == pytest.approx(size, rel=0.02), part
    assert allocated == pytest.approx(sum(expected.values()), rel=0.1)
