"""Modules: the tree, names, switches, saving and loading, and the layers' initial weights."""

import copy
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import minigrad.functional as F
from minigrad import Tensor, manual_seed, nn, optim, use_kernels
from minigrad.nn.layers import activate
from tests.gpt.small import assert_same, weights_of


class Block(nn.Module):
    def __init__(self, size, bias=True):
        super().__init__()
        self.layer = nn.Linear(size, size, bias)
        self.dropout = nn.Dropout(0.5)
        self.scale = nn.Parameter(np.ones(size, np.float32))

    def forward(self, x):
        return self.dropout(self.layer(x)) * self.scale


class Model(nn.Module):
    """Two blocks, a tied output layer, a saved and an unsaved buffer; without super().__init__()."""

    def __init__(self):
        self.embedding = nn.Embedding(5, 3)
        self.blocks = nn.ModuleList([Block(3), Block(3, bias=False)])
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("mean", np.zeros(3, np.float32))
        self.register_buffer("positions", np.arange(4), persistent=False)

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x - self.mean)


NAMES = [  # as in PyTorch, a module's own parameters come before those of its children
    "embedding.weight",
    "blocks.0.scale",
    "blocks.0.layer.weight",
    "blocks.0.layer.bias",
    "blocks.1.scale",
    "blocks.1.layer.weight",
]


# --- the tree ---


def test_parameters_in_order_of_assignment_tied_ones_once():
    model = Model()
    assert [name for name, _ in model.named_parameters()] == NAMES
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert [name for name, _ in model.named_modules()][:5] == ["", "embedding", "blocks", "blocks.0", "blocks.0.layer"]
    assert [name for name, _ in model.blocks[0].named_children()] == ["layer", "dropout"]
    assert dict(model.named_buffers()).keys() == {"mean", "positions"}
    assert model.num_parameters() == 15 + 3 + 9 + 3 + 3 + 9
    assert list(model.modules())[0] is model


def test_attributes_can_be_reassigned_and_deleted():
    model = Model()
    model.blocks[1] = nn.GELU()
    del model.head
    model.embedding = nn.Parameter([1.0])
    assert [name for name, _ in model.named_parameters()] == ["embedding", *NAMES[1:4]]
    del model.mean
    assert list(model.state_dict()) == ["embedding", *NAMES[1:4]]
    model.to(np.float64)
    model.mean = np.ones(2, np.float32)
    assert list(model.state_dict())[-1] == "mean"


def test_a_module_used_twice_counts_once():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.GELU(), shared)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    assert len(list(model.modules())) == 3 == len(model)


def test_get_and_set_submodule():
    model, new = Model(), nn.Linear(3, 3)
    assert model.get_submodule("") is model and model.get_submodule("blocks.1.layer") is model.blocks[1].layer
    for name in ("blocks.0.layer", "head"):
        model.set_submodule(name, new)
        assert model.get_submodule(name) is new
    assert [name for name, _ in model.named_parameters()].count("blocks.0.layer.weight") == 1
    for name, part in [("blocks.2", "2"), ("blocks.0.scale", "scale"), ("no.where", "no"), ("forward", "forward")]:
        for use in (model.get_submodule, lambda name: model.set_submodule(name, new)):
            with pytest.raises(AttributeError, match=f"no submodule '{name}': .* has no child '{part}'"):
                use(name)
    for name, value in (("", new), ("head", np.ones(3))):
        with pytest.raises(ValueError):
            model.set_submodule(name, value)


def test_apply_visits_children_first():
    visited = []
    model = nn.Sequential(nn.GELU(), nn.Sequential(nn.Dropout(0.1)))
    assert model.apply(lambda module: visited.append(type(module).__name__)) is model
    assert visited == ["GELU", "Dropout", "Sequential", "Sequential"]


# --- calling ---


def test_hooks_see_and_may_replace_the_output():
    layer = nn.Linear(2, 2)
    seen = []
    x = Tensor(np.ones((1, 2), np.float32))
    plain = layer(x)
    first = layer.register_forward_hook(lambda module, args, out: seen.append((module, args, out.shape)))
    second = layer.register_forward_hook(lambda module, args, out: out * 2)
    layer.register_forward_hook(lambda module, args, out: out + 1)
    assert_allclose(layer(x).data, plain.data * 2 + 1)
    for hook in (second, second, first):
        hook.remove()
    assert_allclose(layer(x).data, plain.data + 1)
    assert seen == [(layer, (x,), (1, 2))]
    assert not nn.Linear(2, 2)._forward_hooks  # hooks belong to one module


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_with_activation_function_or_loss(kernels, bias):
    layer = nn.Linear(3, 5, bias=bias).to(np.float64)
    x, targets = Tensor(np.linspace(-1, 1, 12).reshape(4, 3)), Tensor(np.array([0, 4, -1, 2]))
    logits = F.linear(x, layer.weight, layer.bias)
    with use_kernels(kernels):
        for activation, approximate in (("gelu", "none"), ("gelu_tanh", "tanh")):
            assert_allclose(layer(x, activation).data, F.gelu(logits, approximate).data, atol=1e-14)
            assert_array_equal(activate(logits, activation).data, F.gelu(logits, approximate).data)
        for reduction in ("mean", "none"):
            expected = F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction).data
            assert_allclose(layer.cross_entropy(x, targets, -1, reduction).data, expected, atol=1e-14)
        for activation, function in (("relu", F.relu), ("silu", F.silu)):
            assert_array_equal(layer(x, activation).data, function(logits).data)
    assert activate(x, None) is x
    with pytest.raises(ValueError, match="'gelu' or 'gelu_tanh' or 'relu' or 'silu', got 'elu'"):
        layer(x, "elu")


def test_a_module_without_forward_is_named():
    with pytest.raises(TypeError, match="Module must define forward"):
        nn.Module()(1)


# --- switches ---


def test_train_and_eval_reach_every_module():
    model = Model()
    assert model.training and model.eval() is model
    assert not any(module.training for module in model.modules())
    ids = np.array([[0, 1]])
    assert_array_equal(model(ids).data, model(ids).data)
    assert model.train().blocks[1].dropout.training
    assert (model(ids).data != model(ids).data).any()


def test_freezing():
    model = Model()
    assert model.requires_grad_(False) is model
    assert not model.eval()(np.array([1])).requires_grad and model.num_parameters(trainable_only=True) == 0
    model.blocks[0].requires_grad_()
    model(np.array([1])).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == NAMES[1:4]
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    with pytest.raises(RuntimeError, match="only real floating-point"):
        nn.Parameter([1, 2])
    assert nn.Parameter([1, 2], requires_grad=False).dtype == np.int64


def test_casting_keeps_ties_and_integers():
    model = Model()
    model(np.array([1])).sum().backward()
    weight = model.head.weight
    assert model.to(np.float64) is model
    assert model.head.weight is model.embedding.weight is weight
    assert weight.dtype == weight.grad.dtype == model.mean.dtype == np.float64 and model.positions.dtype == np.intp
    assert model(np.array([1])).dtype == np.float64
    data = weight.data
    assert model.to("float64", "cpu").to("cpu", dtype="float64").head.weight.data is data
    assert model.to(device="cpu", dtype=np.float32).head.weight.dtype == np.float32


@pytest.mark.parametrize(
    "target, error, message",
    [
        ("gpu", TypeError, "'gpu' is neither a device .* nor a dtype"),
        (np.int64, TypeError, "only be cast to a floating-point dtype, not int64"),
        ("cuda:x", ValueError, "unknown device 'cuda:x'"),
    ],
)
def test_what_to_refuses(target, error, message):
    for model in (Model(), nn.GELU()):  # the second one has nothing to move
        with pytest.raises(error, match=message):
            model.to(target)


# --- saving and loading ---


def test_a_state_can_be_loaded_into_another_model():
    model, other = Model(), Model()
    model.mean += 1
    assert list(model.state_dict()) == [*NAMES, "mean"]
    assert all(model.state_dict()[name] is p.data for name, p in model.named_parameters())  # the arrays themselves
    weight, version = other.head.weight.data, other.head.weight.version
    assert other.load_state_dict(model.state_dict()) == ([], [])
    for name, array in model.state_dict().items():
        assert_array_equal(other.state_dict()[name], array)
        assert not np.shares_memory(other.state_dict()[name], array)
    assert other.head.weight.data is weight and other.head.weight.version > version
    ids = np.array([[1, 2]])
    assert_array_equal(model.eval()(ids).data, other.eval()(ids).data)


def test_what_a_state_may_hold():
    layer = nn.Linear(2, 1)
    layer.load_state_dict({"weight": Tensor([[1.0, 2.0]]), "bias": [3.0]})
    assert layer.state_dict()["weight"].tolist() == [[1.0, 2.0]] and layer.bias.item() == 3.0
    layer.load_state_dict({"weight": np.array([[1, 2]], np.float16), "bias": np.array([7], np.int64)})
    assert layer.weight.dtype == np.float32 and layer.bias.item() == 7.0


def test_loading_in_part():
    model = Model()
    before = model.embedding.weight.data.copy()
    missing, unexpected = model.load_state_dict({"blocks.0.scale": np.full(3, 7.0), "no": np.ones(1)}, strict=False)
    assert unexpected == ["no"] and missing == [name for name in [*NAMES, "mean"] if name != "blocks.0.scale"]
    assert model.blocks[0].scale.data.tolist() == [7.0, 7.0, 7.0]
    assert_array_equal(model.embedding.weight.data, before)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"positions": np.ones(4), "blocks.0.scale": None},
            "the state does not fit Model; missing: blocks.0.scale; unexpected: positions",
        ),
        ({"mean": np.zeros(4)}, r"mean has shape \(4,\) in the state, \(3,\) in the model"),
        ({"mean": np.zeros(3, complex)}, "mean is complex128 in the state, float32 in the model"),
        ({"mean": np.array(["a", "b", "c"])}, "mean in the state: cannot make a tensor .* of dtype <U1"),
        ({f"x{i}": np.ones(1) for i in range(9)}, "unexpected: x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    model, other = Model(), Model()
    before = weights_of(model)
    state = {**other.state_dict(), **change}
    with pytest.raises(ValueError, match=message):
        model.load_state_dict({name: array for name, array in state.items() if array is not None})
    assert_same(model, before)


def test_a_buffer_is_an_array():
    with pytest.raises(TypeError, match="a buffer is an array, not a Tensor; of a Tensor, pass tensor.data"):
        nn.Module().register_buffer("mask", Tensor([1.0]))
    first, second = Model(), Model()
    first.register_buffer("more", np.zeros(1))
    assert "more" not in dict(second.named_buffers())


def test_deepcopy_makes_an_independent_model():
    model, ids = Model(), np.array([[1, 2]])
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    assert reference.head.weight is reference.embedding.weight is not model.head.weight  # ties are kept
    before = reference(ids).data.copy()
    assert_array_equal(before, model.eval()(ids).data)
    model(ids).sum().backward()
    optim.SGD(model.parameters(), lr=1.0).step()
    assert_array_equal(reference(ids).data, before)
    assert model(ids).requires_grad and not reference(ids).requires_grad
    assert [n for n, _ in reference.named_parameters()] == NAMES and "positions" in dict(reference.named_buffers())


# --- containers ---


def test_module_list():
    layers = [nn.Linear(i, 1) for i in (1, 2, 3)]
    modules = nn.ModuleList(layers)
    assert len(modules) == 3 and list(modules) == layers and len(nn.ModuleList()) == 0
    assert modules[0] is layers[0] and modules[-1] is modules[np.int64(2)] is layers[2]
    for index in (3, -4):
        for use in (modules.__getitem__, lambda index: modules.__setitem__(index, layers[0])):
            with pytest.raises(IndexError, match=f"module {index} of 3"):
                use(index)
    part = modules[1:]
    assert type(part) is nn.ModuleList and list(part) == layers[1:] and list(modules[::-1]) == layers[::-1]
    assert [name for name, _ in part.named_parameters()][:2] == ["0.weight", "0.bias"]
    modules[-1] = layers[0]
    assert modules.append(layers[2]) is modules and [m.in_features for m in modules] == [1, 2, 1, 3]
    with pytest.raises(TypeError, match="ModuleList holds modules, not Tensor"):
        modules.append(Tensor(1.0))


def test_sequential():
    x = Tensor(np.ones((2, 3), np.float32))
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    assert_array_equal(model(x).data, model[2](F.gelu(model[0](x))).data)
    head = model[:2]
    assert type(head) is nn.Sequential and head(x).shape == (2, 4) and head[0] is model[0]
    assert nn.Sequential()(x) is x


# --- printing ---


def test_print_shows_shapes_and_counts():
    text = repr(Model()).splitlines()
    assert text[0].split() == ["Model", "42"]
    assert text[1].split("  ")[1:3] == ["embedding: Embedding", "weight (5, 3)"] and text[1].endswith(" 15")
    assert any("layer: Linear  weight (3, 3), bias (3,)" in line and line.endswith(" 12") for line in text)
    assert "head: Linear  weight (5, 3) (tied)" in text[-1] and not text[-1].endswith("15")
    assert any("dropout: Dropout  p=0.5" in line for line in text)
    with pytest.raises(ValueError, match="probability must be in 0..1, got 1.5"):
        nn.Dropout(1.5)
    assert repr(nn.GELU("tanh")) == "GELU  approximate='tanh'"


# --- layers and their initial weights ---


@pytest.mark.parametrize("layer", [nn.ReLU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.GELU])
def test_activation_functions_as_layers(layer):
    x = Tensor(np.linspace(-2, 2, 6))
    assert_array_equal(layer()(x).data, getattr(F, layer.__name__.lower())(x).data)
    assert repr(layer()).startswith(layer.__name__)


@pytest.mark.parametrize("shape", [(100, 400), (400, 100)])
def test_linear_starts_uniform_in_one_over_root_fan_in(shape):
    layer = nn.Linear(*shape)
    bound = 1 / math.sqrt(shape[0])
    for values in (layer.weight.data, layer.bias.data):
        assert values.dtype == np.float32 and np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.9 * bound
        assert_allclose(values.std(), bound / math.sqrt(3), rtol=0.2)
    assert layer.weight.shape == shape[::-1] and nn.Linear(2, 3, bias=False).bias is None


def test_other_layers_start_as_in_torch():
    table = nn.Embedding(300, 200).weight.data
    norms = [nn.LayerNorm((4, 5)), nn.RMSNorm(5)]
    assert table.dtype == np.float32 and abs(table.mean()) < 0.02 and abs(table.std() - 1) < 0.02
    assert all((p.data == name.endswith("weight")).all() for norm in norms for name, p in norm.named_parameters())


def test_the_seed_decides_the_initial_weights():
    manual_seed(1)
    first, other = Model().state_dict(), Model().state_dict()
    manual_seed(1)
    assert_same(Model(), first)
    assert not np.array_equal(first["embedding.weight"], other["embedding.weight"])


@pytest.mark.parametrize(
    "initialize, low, high",
    [
        (lambda w: nn.init.uniform_(w, 2.0, 4.0), 2, 4),
        (nn.init.xavier_uniform_, -math.sqrt(6 / 500), math.sqrt(6 / 500)),
        (nn.init.kaiming_uniform_, -math.sqrt(6 / 300), math.sqrt(6 / 300)),
        (lambda w: nn.init.constant_(w, 2.0), 2, 2),
        (nn.init.ones_, 1, 1),
        (nn.init.zeros_, 0, 0),
    ],
)
def test_initializers(initialize, low, high):
    weight = nn.Parameter(np.empty((200, 300)))
    assert initialize(weight) is weight and weight.dtype == np.float64 and weight.version > 0
    assert_allclose([weight.data.min(), weight.data.max()], [low, high], rtol=0.01)
    with nn.init.skipped():
        nn.init.normal_(weight)
    assert low <= weight.data.min() <= weight.data.max() <= high
    nn.init.normal_(weight, mean=3.0, std=0.5)
    assert abs(weight.data.mean() - 3) < 0.02 and abs(weight.data.std() - 0.5) < 0.02


def test_embedding_with_padding():
    table = nn.Embedding(4, 2, padding_idx=-1)
    assert (table.weight.data[3] == 0).all() and (table.weight.data[:3] != 0).any()
    table(np.array([3, 0, 3])).sum().backward()
    assert_array_equal(table.weight.grad, [[1, 1], [0, 0], [0, 0], [0, 0]])
    with pytest.raises(IndexError):
        nn.Embedding(4, 2, padding_idx=4)
    with pytest.raises(IndexError, match="embedding: index 4"):
        table(np.array([4]))


@pytest.mark.oracle("torch")
def test_layers_equal_torch():
    import torch

    pairs = [
        (nn.Linear(4, 3), torch.nn.Linear(4, 3)),
        (nn.Linear(4, 3, bias=False), torch.nn.Linear(4, 3, bias=False)),
        (nn.LayerNorm(4, 1e-3), torch.nn.LayerNorm(4, 1e-3)),
        (nn.LayerNorm([3, 4], bias=False), torch.nn.LayerNorm([3, 4], bias=False)),
        (nn.RMSNorm(4), torch.nn.RMSNorm(4)),
        (nn.GELU(), torch.nn.GELU()),
        (nn.GELU("tanh"), torch.nn.GELU("tanh")),
        (nn.Dropout(0.3).eval(), torch.nn.Dropout(0.3).eval()),
    ]
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for ours, theirs in pairs:
        for p in ours.parameters():
            nn.init.normal_(p)
        theirs.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in ours.state_dict().items()})
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        assert_allclose(ours(Tensor(x)).data, expected, rtol=1e-5, atol=1e-6)
