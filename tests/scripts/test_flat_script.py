"""scripts/pages/flat_script.py: a recorded step as a NumPy script is right to the last bit, or it is refused."""

import ast
import contextlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad.functional as F
from finetune.adapters.lora import LoRAConfig, apply_lora
from gpt.model.moe import balance_loss, use_experts
from minigrad import Tensor, autocast, manual_seed, nn, optim, use_kernels
from minigrad.dtypes import is_floating
from minigrad.inspection import record
from minigrad.muon import Muon, muon_groups
from scripts import explain
from scripts.pages.flat_script import flat_script
from tests.gpt.small import small_gpt, small_llama
from tests.minigrad.test_ops_gradients import CASES, as_tuple
from tests.scripts.running import refusal

V, T = 12, 4
SHAPE = {"vocab_size": V, "block_size": T, "n_layer": 1}
IDS, TARGETS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]]), np.array([1, 4, 1, 5, 9, 2, 6, 5])


def numbers_of(text):
    """What a script has computed. It may import the standard library and NumPy, and nothing else."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert set(modules) <= {"numpy", *sys.stdlib_module_names}, modules
    found = {}
    exec(text, found)
    return found


def recorded(model, optimizer, loss_fn, trait=None, max_norm=1.0):
    """A recorded step that has `trait`, and what it computed: {"loss": ..., "gradients": {name: array}, ...}."""
    in_bfloat16 = autocast() if trait == "autocast" else contextlib.nullcontext()
    with use_kernels("fast" if trait == "fast kernels" else "textbook"), in_bfloat16:
        if trait == "a later step":
            loss_fn().backward()
            optimizer.step()
            optimizer.zero_grad()
        if trait == "a gradient from before":
            loss_fn().backward()
        with record() as recording:
            loss = loss_fn()
            loss.backward(retain_graph=trait == "a second backward()")
            if trait == "a second backward()":
                loss.backward()
            if trait == "gradient accumulation":
                loss_fn().backward()
        parameters = {name: p for name, p in model.named_parameters() if p.grad is not None}
        truth = {"loss": loss.data, "gradients": {name: p.grad.copy() for name, p in parameters.items()}}
        recording.update(optimizer, model, max_norm)
    truth["clipped"] = {name: p.grad for name, p in parameters.items()}
    truth["after"] = {name: p.data for name, p in parameters.items()}
    return recording, truth


def check(text, truth):
    found = numbers_of(text)
    assert found["loss"] == truth["loss"] and found["loss"].dtype == truth["loss"].dtype
    for what in ("gradients", "clipped", "after"):
        assert found[what].keys() == truth[what].keys()
        for name, array in truth[what].items():
            assert np.array_equal(found[what][name], array) and found[what][name].dtype == array.dtype, (what, name)


def adamw(model, **options):
    return optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, **options)


# --- models and steps ---


def sequential(middle):
    manual_seed(0)
    return nn.Sequential(nn.Embedding(V, 8), nn.Linear(8, 8), middle, nn.Linear(8, V))


@st.composite
def models(draw):
    """A small model of some kind, and the terms of its loss beside the cross-entropy."""
    kind, flag = draw(st.sampled_from(["gpt", "mixture", "llama", "adapter", "sequential"])), st.booleans()
    dtype = draw(st.sampled_from(["float32", "float64"]))
    if kind == "gpt":
        shape = {
            "activation": draw(st.sampled_from(["gelu", "gelu_tanh", "relu", "silu"])),
            "norm": draw(st.sampled_from(["pre", "post"])),
            "positions": draw(st.sampled_from(["learned", "sinusoidal"])),
            "tied": draw(flag),
            "dropout": draw(st.sampled_from([0.0, 0.2])),
        }
        return small_gpt(dtype=dtype, **SHAPE, **shape), None
    if kind == "sequential":
        middle = draw(st.sampled_from([nn.GELU(), nn.ReLU(), nn.Sigmoid(), nn.LayerNorm(8), nn.RMSNorm(8)]))
        return sequential(middle).to(dtype), None
    if kind == "mixture":
        model = small_gpt(**SHAPE)
        use_experts(model, 4, 2)
        return model.to(dtype), balance_loss if draw(flag) else None
    options = {"qkv_bias": draw(flag), "qk_norm": draw(flag), "tied": draw(flag)}
    model = small_llama(dtype=dtype, **SHAPE, n_kv_head=draw(st.sampled_from([1, 4])), **options)
    if kind == "adapter":
        for layer in apply_lora(model, LoRAConfig(r=2, dropout=draw(st.sampled_from([0.0, 0.2])))).values():
            layer.lora_B.data += 0.1
    return model, None


@given(data=st.data())
def test_a_step_of_any_model_is_right_to_the_last_bit(data):
    model, extra = data.draw(models())
    if data.draw(st.booleans()):
        for parameter in list(model.parameters())[1::3]:
            parameter.requires_grad = False
    dtype = next(model.parameters()).dtype
    losses = [
        {"label_smoothing": 0.1},
        {"weight": Tensor(np.linspace(0.5, 1.5, V).astype(dtype))},
        {"ignore_index": 1},
        {"reduction": "sum"},
        {},
    ]
    options = data.draw(st.sampled_from(losses))

    def loss():
        of_tokens = F.cross_entropy(model(IDS).reshape(-1, V), TARGETS, **options)
        return of_tokens if extra is None else of_tokens + 0.01 * extra(model)

    optimizer = adamw(model, weight_decay=data.draw(st.sampled_from([0.0, 0.1])))
    max_norm = data.draw(st.sampled_from([0.01, 1.0, float("inf")]))
    recording, truth = recorded(model, optimizer, loss, max_norm=max_norm)
    check(flat_script(recording), truth)


def checkpointed():
    model = small_gpt(**SHAPE)
    nn.checkpoint_activations(model)
    return model


def muon(model):
    return Muon(muon_groups(model.named_parameters(), model.transformer.h.parameters(), 0.1))


class Elsewhere(nn.Module):
    """A module without the parameters that the step changes."""


REFUSED = {
    "Muon": (small_gpt, muon, "a step of AdamW, but the recording has one of Muon"),
    "Adam": (small_gpt, lambda model: optim.Adam(model.parameters()), "the recording has one of Adam"),
    "two groups": (
        small_gpt,
        lambda model: optim.AdamW(optim.decay_groups(model.named_parameters(), 0.3)),
        "a single group of parameters, but this optimizer has several",
    ),
    "SGD": (small_gpt, lambda model: optim.SGD(model.parameters()), "the recording has one of SGD"),
    "a later step": (small_gpt, adamw, "this optimizer had taken steps before"),
    "a second backward()": (small_gpt, adamw, "another gradients['transformer.wte.weight']: it has a single back"),
    "gradient accumulation": (small_gpt, adamw, "it has a single backward()"),
    "a gradient from before": (small_gpt, adamw, "it has a single backward()"),
    "autocast": (small_gpt, adamw, "Linear of minigrad.dtypes has no flat form: take the step with textbook"),
    "fast kernels": (small_gpt, adamw, "FastEmbedding of minigrad.kernels.cpu.embedding has no flat form"),
    "checkpointing": (lambda **_: checkpointed(), adamw, "Recompute of minigrad.nn.activation_checkpointing has no"),
}


@pytest.mark.parametrize("trait", REFUSED)
def test_a_step_that_has_no_flat_form_is_refused_by_name(trait):
    make_model, make_optimizer, words = REFUSED[trait]
    model = make_model(**SHAPE)
    recording, _ = recorded(model, make_optimizer(model), lambda: model.loss(IDS, TARGETS.reshape(2, T)), trait)
    with pytest.raises(ValueError) as caught:
        flat_script(recording)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_incomplete_recording_is_refused():
    model = sequential(nn.Tanh())
    with record() as recording:
        loss = F.cross_entropy(model(IDS).reshape(-1, V), TARGETS)
        loss.backward()
    with pytest.raises(ValueError, match="the recording has one of None"):
        flat_script(recording)
    recording.update(adamw(model), nn.Module())
    with pytest.raises(ValueError, match="needs a name for each parameter"):
        flat_script(recording)
    model.zero_grad()
    with record() as recording:
        loss = F.cross_entropy(model(IDS).reshape(-1, V), TARGETS)
    recording.update(adamw(model), model)  # which have no gradients
    with pytest.raises(ValueError, match="needs a name for each parameter"):
        flat_script(recording)
    with record(largest=50) as recording:
        F.cross_entropy(model(IDS).reshape(-1, V), TARGETS).backward()
    recording.update(adamw(model), model)
    with pytest.raises(ValueError, match="did not fit into the recording"):
        flat_script(recording)


def test_the_script_does_not_write_what_is_refused(monkeypatch, tmp_path, capsys):
    model = small_gpt(**SHAPE)
    recording, _ = recorded(model, adamw(model), lambda: model.loss(IDS, TARGETS.reshape(2, T)), "a later step")
    monkeypatch.setattr(explain, "take_step", lambda *_: (recording, [0]))
    assert "had taken steps before" in refusal(explain.main, capsys, "--as-script", "--out-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- ops ---


def step_of(function, inputs, dtype):
    """A recorded step on the sum of the squares of what `function` returns, and what it computed; None, None if that
    has no gradient."""
    model = nn.Module()
    tensors = [nn.Parameter(x.astype(dtype, "C")) if x.dtype == np.float64 else Tensor(x) for x in inputs]
    for i, x in enumerate(tensors):
        if isinstance(x, nn.Parameter):
            setattr(model, f"x{i}", x)

    def loss():
        return sum((out * out).sum() for out in as_tuple(function(*tensors)) if is_floating(out.dtype))

    if not getattr(loss(), "requires_grad", False):
        return None, None
    return recorded(model, adamw(model), loss)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=settings.default.max_examples // 4)
@given(data=st.data())
def test_every_op_has_a_flat_form_but_std(name, data):
    recording, truth = step_of(*CASES[name](data.draw), data.draw(st.sampled_from(["float32", "float64"])))
    if name == "std" and recording:
        with pytest.raises(ValueError, match=r"^Std.forward has no flat form: it calls Var$"):
            flat_script(recording)
    elif recording:
        check(flat_script(recording), truth)


MORE = {
    "erf": F.erf,
    "max": lambda x: x - F.max(x, 1, keepdim=True).values,
    "another dtype": lambda x: (x.to(np.float64).exp() * 0.1).to(np.float32),
    "infinity": lambda x: F.softmax(F.masked_fill(x, np.tri(2, 3) == 0, float("-inf")), 1),
    "an infinite mask": lambda x: F.softmax(x + Tensor(np.where(np.tri(2, 3), 0, -np.inf).astype(np.float32)), 1),
    "einsum": lambda x: F.einsum("ij,kj,kl->il", x, x, x),
    "no elements": lambda x: F.cat([x, Tensor(np.zeros((0, 3), np.float32))]),
}


@pytest.mark.parametrize("name", MORE)
def test_what_needs_more_than_the_lines_of_an_op(name):
    recording, truth = step_of(MORE[name], [np.linspace(-3, 3, 6).reshape(2, 3)], np.float32)
    check(flat_script(recording), truth)


def test_a_gradient_that_backward_is_given():
    model = sequential(nn.Tanh())
    with record() as recording:
        loss = F.cross_entropy(model(IDS).reshape(-1, V), TARGETS)
        loss.backward(np.float32(0.5))
    recording.update(adamw(model), model)
    found = numbers_of(flat_script(recording))
    for update in recording.updates:
        assert np.array_equal(found["gradients"][update.name], update.gradient.array)


def test_an_array_in_another_memory_order_is_refused():
    w = nn.Module()
    w.x = nn.Parameter(np.random.default_rng(3).standard_normal((40, 30)).astype(np.float32).T)
    recording, _ = recorded(w, adamw(w), lambda: w.x.exp().sum())
    with pytest.raises(ValueError, match="another sum_1: .* not contiguous in memory"):
        flat_script(recording)


class Own(F.activation.Function):
    """An op from elsewhere, whose backward is made by a function that has no source."""

    forward = staticmethod(lambda ctx, x: x * 2)
    backward = staticmethod(eval("lambda ctx, dout: (dout * 2,)"))


def test_an_op_without_source_code_is_refused():
    w = nn.Module()
    w.x = nn.Parameter(np.ones(3, np.float32))
    recording, _ = recorded(w, adamw(w), lambda: Own.apply(w.x).sum())
    with pytest.raises(ValueError, match="has no flat form"):
        flat_script(recording)
