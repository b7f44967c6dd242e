"""PyTorch's own operator samples (OpInfo) through torch and through F: values, shapes, dtypes, gradients.

The samples are those that PyTorch tests itself with: broadcasting, size-0 and size-1 axes, no dimensions, memory that
is not contiguous, extreme values, mixed dtypes. What F leaves out on purpose stands in SKIPPED, with the reason.
"""

import functools
import warnings

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Tensor
from tests.minigrad.test_ops_torch import as_tuple, assert_equal

pytestmark = pytest.mark.oracle("torch")

# F's name -> the names of its OpInfos, with the variant behind a dot; equal names are not repeated.
OPINFOS = {
    "clip": ["clamp"],
    "div": ["div.no_rounding_mode"],
    "getitem": ["__getitem__"],
    "matmul": ["matmul", "__rmatmul__"],
    "max": ["max.reduction_no_dim", "max.reduction_with_dim"],
    "min": ["min.reduction_no_dim", "min.reduction_with_dim"],
    "pad": ["nn.functional.pad.constant"],
    "split": ["split", "split.list_args", "split_with_sizes"],
    "squeeze": ["squeeze", "squeeze.multiple"],
    "std": ["std", "std.unbiased"],
    "var": ["var", "var.unbiased"],
    "linear_cross_entropy": [],  # our own, as the next five; its parts are here
    "linear_gelu": [],
    "merge_heads": [],
    "rotary_embedding": [],
    "split_heads": [],
    "swiglu": [],
    "to": [],  # PyTorch's has memory formats and non-blocking copies, ours a device and a dtype
}
IN_NN_FUNCTIONAL = (
    "binary_cross_entropy_with_logits cross_entropy dropout embedding gelu kl_div layer_norm linear "
    "logsigmoid mse_loss nll_loss one_hot relu rms_norm scaled_dot_product_attention silu softplus"
)
OPINFOS |= {name: [f"nn.functional.{name}"] for name in IN_NN_FUNCTIONAL.split()}

# How F is called where the sample's own order (input, *args, **kwargs) is not F's.
CALLS = {
    "__rmatmul__": lambda x, y: F.matmul(y, x),
    "einsum": lambda operands, equation: F.einsum(equation, *operands),
    "nn.functional.embedding": lambda weight, ids, **options: F.embedding(ids, weight, **options),
    "where": lambda x, condition, y: F.where(condition, x, y),
}


def has(*keywords):
    return lambda sample: any(keyword in sample.kwargs for keyword in keywords)


def integers(sample):
    operands = sample.input if isinstance(sample.input, list) else [sample.input]
    return not any(x.dtype.is_floating_point for x in operands)


def negative_power(sample):
    x = sample.input
    y = sample.args[0]
    both_integers = all(hasattr(v, "dtype") and not v.dtype.is_floating_point for v in (x, y))
    return both_integers and bool((y < 0).any())


def complex_number(sample):
    return any(isinstance(x, complex) for x in (sample.input, *sample.args))


def equal_elements(sample):
    return not sample.kwargs.get("stable") and sample.input.unique().numel() < sample.input.numel()


def drops_some(sample):
    return sample.kwargs.get("training", True) and sample.kwargs.get("p", 0.5) not in (0.0, 1.0)


def two_numbers(sample):
    return not any(hasattr(x, "dtype") for x in (sample.input, *sample.args))


# (OpInfos, which of their samples, why)
SKIPPED = [
    ("sub", has("alpha"), "alpha=: multiply"),
    (
        "add",
        lambda s: s.kwargs.get("alpha", 0) < 0 and "uint8" in str(getattr(s.input, "dtype", "")),
        "NumPy has no uint8 -3",
    ),
    ("add sub mul", two_numbers, "no tensor among the operands"),
    ("where", complex_number, "complex numbers: only for complex-step differentiation"),
    ("sort", equal_elements, "their order is not specified; ours is stable"),
    ("topk", integers, "which of several equal elements come out is not specified"),
    ("einsum", integers, "PyTorch's result of integers is int64 or theirs, depending on the equation; ours is theirs"),
    ("pow", negative_power, "NumPy refuses negative integer powers of integers, PyTorch rounds them to 0"),
    ("nn.functional.embedding", has("max_norm", "scale_grad_by_freq", "sparse"), "options that no transformer uses"),
    ("nn.functional.dropout", drops_some, "random"),
    ("nn.functional.scaled_dot_product_attention", lambda s: s.kwargs["dropout_p"] > 0, "random"),
    ("", lambda s: hasattr(s.input, "numel") and s.input.numel() > 50_000, "large: adds time, not cases"),
]
NAMES = [(name, opinfo) for name in F.__all__ for opinfo in OPINFOS.get(name, [name])]


@functools.cache
def database():
    pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {".".join(filter(None, (op.name, op.variant_test_name))): op for op in op_db}


def find(opinfo):
    if opinfo not in database():
        pytest.skip(f"this version of PyTorch has no OpInfo {opinfo}")
    return database()[opinfo]


def reason_to_skip(opinfo, sample, table):
    for opinfos, applies, reason in table:
        if (opinfo in opinfos.split() or not opinfos) and applies(sample):
            return reason
    return None


def replaced(value, function):
    """`value` with each torch tensor and dtype in it replaced by what `function` makes of it."""
    if hasattr(value, "requires_grad") or type(value).__name__ == "dtype":
        return function(value)
    if isinstance(value, dict):
        return {key: replaced(item, function) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(replaced(item, function) for item in value)
    return value


def leaf(x):
    """A torch tensor as a leaf of the same memory layout; a dtype as it is."""
    return x.detach().requires_grad_(x.requires_grad) if hasattr(x, "requires_grad") else x


def ours(value, pairs):
    """`value` with Tensors on the same memory for torch tensors; `pairs` collects the differentiable ones."""

    def converted(x):
        if not hasattr(x, "requires_grad"):
            return np.dtype(str(x).removeprefix("torch."))
        tensor = Tensor(x.detach().numpy(), requires_grad=x.requires_grad)
        if x.requires_grad:
            pairs.append((x, tensor))
        return tensor

    return replaced(value, converted)


class Refused(Exception):
    """PyTorch itself raises for this sample."""


def compare(torch, call_torch, call_ours, sample):
    """Raise AssertionError where values, shapes, dtypes or gradients of the two differ on `sample`."""
    inputs = replaced((sample.input, sample.args, sample.kwargs), leaf)
    pairs = []
    x, args, kwargs = ours(inputs, pairs)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            expected = as_tuple(call_torch(inputs[0], *inputs[1], **inputs[2]))
            seeds = [torch.randn_like(e) if e.requires_grad else None for e in expected]
            expected_gradients = gradients(torch, expected, seeds, [leaf for leaf, _ in pairs])
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise Refused from error
        for e, g, seed in zip(expected, as_tuple(call_ours(x, *args, **kwargs)), seeds, strict=True):
            assert_equal(g.numpy(), e.detach().numpy())
            if seed is not None and g.requires_grad:
                g.backward(seed.numpy(), retain_graph=True)
        for wanted, (_, tensor) in zip(expected_gradients, pairs):
            zeros = np.zeros(tensor.shape, tensor.dtype)
            assert_equal(*[zeros if grad is None else np.asarray(grad) for grad in (tensor.grad, wanted)])


def gradients(torch, outputs, seeds, leaves):
    pairs = [(output, seed) for output, seed in zip(outputs, seeds) if seed is not None]
    if not pairs or not leaves:
        return []
    return torch.autograd.grad([output for output, _ in pairs], leaves, [seed for _, seed in pairs], allow_unused=True)


def samples_of(op, dtype):
    """PyTorch's samples, many in 64 bits and few in others, and the small ones with memory that is not contiguous."""
    differentiable = dtype.is_floating_point
    inputs = op.reference_inputs if dtype.itemsize == 8 else op.sample_inputs
    try:
        samples = list(inputs("cpu", dtype, requires_grad=differentiable))
    except ValueError:  # some of its samples mix in integers, which cannot ask for a gradient
        samples = list(inputs("cpu", dtype))
        for sample in samples:
            for x in (sample.input, *sample.args):
                if hasattr(x, "requires_grad") and x.is_floating_point():
                    x.requires_grad_()
    if differentiable:
        samples += [sample.noncontiguous() for sample in op.sample_inputs("cpu", dtype, requires_grad=True)]
    return samples


@pytest.mark.parametrize("name, opinfo", NAMES)
def test_samples(name, opinfo):
    import torch

    op = find(opinfo)
    call_ours = CALLS.get(op.name, getattr(F, name))
    compared = 0
    failures = []
    for dtype in (torch.float64, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool):
        if dtype not in op.dtypes and not dtype.is_floating_point:
            continue
        torch.manual_seed(0)
        for sample in samples_of(op, dtype):
            if reason_to_skip(opinfo, sample, SKIPPED):
                continue
            try:
                compare(torch, op.op, call_ours, sample)
                compared += 1
            except Refused:
                continue
            except Exception as error:
                failures.append(f"{sample.summary()}: {type(error).__name__}: {error}")
    assert not failures, f"{len(failures)} samples differ from PyTorch:\n" + "\n".join(failures[:10])
    assert compared
