"""PyTorch's names that minigrad does not have, and what to write instead: the error for such a name says it.

    >>> import minigrad as mg
    >>> mg.nn.CrossEntropyLoss
    Traceback (most recent call last):
    AttributeError: minigrad.nn has no CrossEntropyLoss; write `F.cross_entropy(logits, targets)`
    >>> hasattr(mg.Tensor, "clone")
    False

In the table, mg is minigrad and F is minigrad.functional.
"""

import functools
from typing import Any, Never

import numpy as np

# Where they are missing -> the names -> what to write.
INSTEAD: dict[str, dict[str, str]] = {
    "module": {  # minigrad, F, nn and optim
        "save load": "`model.save_pretrained(folder)` and `gpt.LanguageModel.from_pretrained(folder)`; without gpt "
        '`np.savez("model.npz", **model.state_dict())` and `model.load_state_dict(np.load("model.npz"))`',
        "rand randint": "`nn.init.uniform_(mg.zeros(3))`, or `mg.tensor(np.random.default_rng().integers(10, size=3))`",
        "zeros_like ones_like": "`mg.zeros(x.shape, dtype=x.dtype)` or `mg.ones(x.shape, dtype=x.dtype)`",
        "full eye linspace from_numpy as_tensor": "`mg.tensor(array)`, of an array such as `np.eye(3)`",
        "float double half long int bool": "the dtype, as in `mg.float32`, `mg.int64`, `np.bool_`",
        "device cuda": '`mg.backend.resolve_device("auto")`, which is "cuda:0" if a GPU can be used, else "cpu"',
        "compile": '`mg.use_kernels("fast")`',
        "mm bmm": "`x @ y`",
        "norm": "`(x**2).sum().sqrt()`",
        "set_grad_enabled inference_mode": "`with mg.no_grad(): y = x * 2`",
        "enable_grad": "`with mg.switches.enable_grad(): y = x * 2`",
        "Muon": "`mg.muon.Muon`",
        "CrossEntropyLoss": "`F.cross_entropy(logits, targets)`",
        "MSELoss": "`F.mse_loss(x, y)`",
        "NLLLoss BCEWithLogitsLoss KLDivLoss Softmax LogSoftmax": "the function of F, as in `F.softmax(x, dim=-1)`",
        "ModuleDict": "`setattr(model, name, layer)` for each layer, and `getattr(model, name)`",
        "utils": "`mg.optim.clip_grad_norm_(model.parameters(), 1.0)`; `gpt.get_batch` draws batches",
        "lr_scheduler": "`mg.optim.WarmupCosine(optimizer, warmup_steps=100, total_steps=1000)`",
    },
    "Tensor": {
        "clone": "`mg.tensor(x)`, a copy outside the graph; inside it none is needed, as ops never change their inputs",
        "repeat": "`mg.cat([x, x], dim=0)`, or `x.expand(4, 2, 2)` along a new axis",
        "cpu cuda float double half long int bool": '`x.to("cpu")`, `x.to(mg.float32)`: any device or dtype',
        "mm bmm": "`x @ y`",
        "__and__ __or__ __xor__ __invert__": "`mg.tensor((x.numpy() > 0) & (y.numpy() > 0))`, or with |, ^ and ~",
        "__floordiv__ __mod__": "`mg.tensor(x.numpy() // 2)`, or with %, without a gradient",
        "gather cumsum logsumexp flip neg erf where maximum minimum": "the function of F, as in `F.cumsum(x, dim=0)`",
        "index_select": "`x[:, targets]`, with an array of numbers",
        "register_hook": "`mg.nn.Module.register_forward_hook`, or `x.retain_grad()` and `x.grad` after backward()",
        "eq ne lt le gt ge": "the operator, as in `x == 1`",
        "norm": "`(x**2).sum().sqrt()`",
        "contiguous": "nothing: `x.view(4)` takes any layout",
        "dim": "`x.ndim`",
        "mul_ add_ zero_ copy_": "`with mg.no_grad(): x *= y` or `with mg.no_grad(): x[...] = 0`",
        "any all argsort nonzero round": "NumPy's method, without a gradient, as in `x.numpy().any()`",
    },
    "Module": {"cpu cuda float double half": '`model.to("cpu")`, `model.to(mg.float64)`: any device or dtype'},
    "Context": {
        "needs_input_grad": "`ctx.needs_grad[0]`",
        "save_for_backward saved_tensors": "`ctx.x = x` in forward, and `ctx.x` in backward",
    },
}


def instead_of(place: str) -> dict[str, str]:
    """The table of one place, with an entry for each name."""
    return {name: instead for names, instead in INSTEAD[place].items() for name in names.split()}


def answer_in(*places: Any) -> None:
    """Make modules and classes answer for the names in their tables. `hasattr` still finds none of them.

    A module gets a `__getattr__`, which Python calls for names that are not there. In a class, Python 3.11 would then
    look up all attributes four times as slowly, so each name becomes an attribute, which raises when it is read.
    """
    for place in places:
        if not isinstance(place, type):
            place.__getattr__ = functools.partial(_missing, place.__name__)
            continue
        for name, instead in instead_of(place.__name__).items():
            setattr(place, name, _Missing(f"{place.__name__} has no {name}; write {instead}"))


def _missing(module: str, name: str) -> Never:
    instead = instead_of("module").get(name)
    if instead:
        raise AttributeError(f"{module} has no {name}; write {instead}")
    if name in np.__all__ and callable(getattr(np, name)):
        raise AttributeError(f"{module} has no {name}; NumPy has np.{name}: give it x.numpy() for a tensor x")
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


class _Missing:
    def __init__(self, message: str):
        self.__doc__ = message  # help() shows it

    def __get__(self, instance: Any, owner: type) -> Never:
        raise AttributeError(self.__doc__)
