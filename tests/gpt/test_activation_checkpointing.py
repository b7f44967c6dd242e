"""Activation checkpointing: the same numbers to the last bit, with less memory."""

import copy

import numpy as np
import pytest

import minigrad.functional as F
from finetune import LoRAConfig, apply_lora
from gpt import GPT, GPTConfig, accounting
from gpt.model.moe import balance_loss, mixtures, use_experts
from minigrad import Tensor, autocast, backend, inspection, manual_seed, nn, no_grad, switches, use_kernels
from tests.gpt.small import assert_same, gradients_of, random_ids, small_gpt, small_llama


def loss_and_gradients(model, precision="float32"):
    manual_seed(3)
    losses = []
    for seed in range(2):  # two batches, whose gradients add up
        ids = random_ids((3, 8), seed)
        with autocast("bfloat16", enabled=precision == "bfloat16"):
            loss = model.loss(ids, ids)
        loss.backward()
        losses.append(loss.item())
    return losses, gradients_of(model)


def frozen(model):
    """With LoRA, the first block's input needs no gradient, and most parameters have none."""
    apply_lora(model, LoRAConfig(r=2))
    return model


@pytest.mark.parametrize("kernels, precision", [("textbook", "float32"), ("fast", "bfloat16")])
@pytest.mark.parametrize(
    "build",
    [lambda: small_gpt(dropout=0.3), lambda: small_gpt(norm="post"), small_llama, lambda: frozen(small_gpt())],
    ids=["gpt with dropout", "post-norm", "llama", "lora"],
)
def test_loss_and_gradients_are_the_same_to_the_last_bit(build, kernels, precision):
    with use_kernels(kernels):
        manual_seed(0)
        plain = build()
        manual_seed(0)
        saving = build()
        nn.checkpoint_activations(saving)
        (losses, gradients), (again, recomputed) = (loss_and_gradients(m.train(), precision) for m in (plain, saving))
        assert losses == again
        assert_same(recomputed, gradients)
        assert list(saving.state_dict()) == list(plain.state_dict())
        copied = copy.deepcopy(saving)
        copied.zero_grad()
        own = loss_and_gradients(copied, precision)[1]  # those of the copy's blocks, not of the original's
        assert own.keys() == gradients.keys()


def test_the_memory_is_what_accounting_says(kernels):
    config = GPTConfig(vocab_size=64, block_size=32, n_layer=6, n_head=2, n_embd=32)
    model = GPT(config)
    nn.checkpoint_activations(model)
    ids = random_ids((2, 32), vocab_size=64)
    with use_kernels(kernels), inspection.memory() as report:
        model.loss(ids, ids).backward()
    expected = accounting.activation_bytes(config, 2, 32, kernels=kernels, checkpointed=True)
    assert report.peak == pytest.approx(expected, rel=0.1)
    assert expected < accounting.activation_bytes(config, 2, 32, kernels=kernels) / 2


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="has no ModuleList"):
        nn.checkpoint_activations(nn.Linear(2, 2))


# --- what happens between forward and backward must not reach the second forward ---


def mlp(model):
    return model.transformer.h[0].mlp


def halve(module, arguments, output):
    return output * 0.5


def set_dropout(model, p):
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p


BETWEEN = {
    "eval": lambda model: model.eval(),
    "dropout": lambda model: set_dropout(model, 0.9),
    "another array": lambda model: setattr(mlp(model).c_fc.weight, "data", mlp(model).c_fc.weight.data * 2),
    "another parameter": lambda model: setattr(mlp(model).c_fc, "weight", nn.Parameter(np.ones((32, 8), np.float32))),
    "another module": lambda model: setattr(mlp(model), "c_proj", nn.Linear(32, 8)),
    "a hook more": lambda model: mlp(model).register_forward_hook(halve),
    "a hook less": lambda model: model.hook.remove(),
    "frozen": lambda model: model.requires_grad_(False),
    "another seed": lambda model: manual_seed(9),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_backward_repeats_the_forward_that_was(between):
    """Whatever somebody changes before backward, gradients are of the forward that ran, as without checkpointing."""
    found = []
    for checkpointed in (False, True):
        manual_seed(0)
        model = small_gpt(dropout=0.3).train()
        model.hook = model.transformer.h[1].mlp.register_forward_hook(halve)
        if checkpointed:
            nn.checkpoint_activations(model)
        ids = random_ids((2, 8))
        loss = model.loss(ids, ids)
        parameters = dict(model.named_parameters())
        between(model)
        now = {module: (vars(module).copy(), module._forward_hooks.copy()) for module in model.modules()}
        random = backend.random_state()
        loss.backward()
        found.append({name: p.grad for name, p in parameters.items()})
        assert now == {module: (vars(module), module._forward_hooks) for module in model.modules()}
        assert random == backend.random_state()
    for name, gradient in found[0].items():
        assert np.array_equal(found[1][name], gradient), name


def test_weights_of_a_block_changed_in_place_are_noticed():
    model = small_gpt()
    nn.checkpoint_activations(model)
    ids = random_ids((2, 8))
    loss = model.loss(ids, ids)
    mlp(model).load_state_dict({name: 2 * array for name, array in mlp(model).state_dict().items()})
    with pytest.raises(RuntimeError, match="<Recompute> saved a tensor .* and it was changed in place"):
        loss.backward()


class Witness(nn.Module):
    """Notes under which switches it runs, draws a random number, and has a frozen weight."""

    def __init__(self):
        self.seen = []
        self.recorded = []
        self.frozen = nn.Parameter(np.float32([1]), requires_grad=False)

    def forward(self, x):
        numbers = switches.autocast.get(), switches.tf32.get(), backend.next_stream()
        self.seen.append((*numbers, self.frozen.requires_grad))
        self.recorded.append(switches.is_recording())
        return x * x * self.frozen


class Blocks(nn.Module):
    def __init__(self, *blocks):
        self.blocks = nn.ModuleList(blocks)


@pytest.mark.parametrize("dtype", ["bfloat16", "tf32"])
def test_the_switches_of_forward_hold_in_the_second_one(dtype):
    model, x, held = Blocks(Witness()), Tensor([2.0], requires_grad=True), backend.generator()
    nn.checkpoint_activations(model)
    with autocast(dtype):
        loss = model.blocks[0](x).sum()
    with no_grad():
        loss.backward()
    first, second = model.blocks[0].seen
    assert first == second and x.grad == 4
    assert model.blocks[0].recorded == [False, True]
    assert not switches.tf32.get() and switches.autocast.get() is None
    assert held is backend.generator()  # who holds it and who asks for it anew still draw from one stream


# --- what goes in and out beside x and the result ---


class Conditioned(nn.Module):
    """A block that also reads a tensor that it is given, one in an attribute, and leaves some in others."""

    def __init__(self):
        self.lin = nn.Linear(3, 3)
        self.penalty = 0.0
        self.unused = None

    def forward(self, x, memory):
        h = self.lin(x * memory)
        self.penalty = self.penalty + (h * h).mean()
        self.unused = h.exp()
        return x + F.tanh(h) * self.scale


def test_tensors_that_a_block_reads_and_leaves_have_gradients():
    found = []
    for checkpointed in (False, True):
        manual_seed(1)
        model, rng = Blocks(Conditioned(), Conditioned()), np.random.default_rng(0)
        leaves = [Tensor(rng.standard_normal((2, 3)), requires_grad=True) for _ in range(3)]
        model.to("float64")
        if checkpointed:
            nn.checkpoint_activations(model)
        loss = 0.0
        for _ in range(2):  # two passes in one graph
            x, memory, scale = map(F.tanh, leaves)
            for block in model.blocks:
                block.scale = scale
                block.penalty = 0.0
                x = block(x, memory)
                loss = loss + block.penalty
            loss = loss + x.sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append([loss.data, *(leaf.grad for leaf in leaves), *(p.grad for p in model.parameters())])
    assert len(found[0]) == 8
    for plain, again in zip(*found, strict=True):
        np.testing.assert_allclose(again, plain, rtol=1e-12)


def test_a_block_that_adds_to_what_it_left_earlier_is_refused():
    model = Blocks(Conditioned())
    nn.checkpoint_activations(model)
    (block,) = model.blocks
    x = Tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    block.scale = 1.0
    block(x, x)
    block(x, x)
    with pytest.raises(TypeError, match="add: expected .*, got TensorOfAnEarlierCall"):
        block.penalty.backward()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_balance_loss_has_its_gradient(kernels, weight):
    found = []
    for checkpointed in (False, True):
        manual_seed(0)
        model = small_gpt(dropout=0.3).train()
        use_experts(model, 4)
        if checkpointed:
            nn.checkpoint_activations(model)
        for _ in range(2):
            loss = 0.0
            with use_kernels(kernels):
                with no_grad():  # an evaluation, which leaves a balance without a graph
                    model.loss(random_ids((2, 8)), random_ids((2, 8)))
                for seed in range(2):  # two batches in one graph; the mixtures hold what they left in the second
                    ids = random_ids((2, 8), seed)
                    loss = loss + model.loss(ids, ids)
                    loss = loss + weight * balance_loss(model) if weight else loss
                counts = [mixture.counts.tolist() for mixture in mixtures(model)]
                copy.deepcopy(model)  # and with it the graph
                with no_grad():
                    loss.backward()
            assert counts == [mixture.counts.tolist() for mixture in mixtures(model)]
        found.append((gradients_of(model), loss.item(), balance_loss(model).item()))
    assert_same(found[1][0], found[0][0])
    assert found[0][1:] == found[1][1:]


def test_a_block_may_have_no_gradient_at_all():
    class Fixed(nn.Linear):
        def forward(self, x):
            with no_grad():
                return super().forward(x)

    model = Blocks(Fixed(3, 3))
    nn.checkpoint_activations(model)
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True)
    (model.blocks[0](x) + x).sum().backward()
    assert np.array_equal(x.grad, np.ones((2, 3))) and model.blocks[0].weight.grad is None
