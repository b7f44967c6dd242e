"""PyTorch's names: they work, or the error says what to write; this can be run, and so can the page for its users."""

import pydoc
import re
from pathlib import Path

import numpy as np
import pytest

import gpt
import minigrad as mg
import minigrad.functional as F
from minigrad import nn, optim
from minigrad.autograd import Context
from minigrad.torch_names import INSTEAD, instead_of

CASES = [(place, name) for place in INSTEAD for name in instead_of(place)]


def names(folder):
    """What the table's lines are about."""
    x, y = mg.randn(2, 2), mg.ones(2, 2)
    model = gpt.GPT(gpt.GPTConfig(vocab_size=9, block_size=8, n_layer=1, n_head=1, n_embd=8))
    return {
        **{"mg": mg, "F": F, "nn": nn, "optim": optim, "np": np, "gpt": gpt, "folder": folder},
        **{"x": x, "y": y, "p": mg.softmax(mg.randn(4), 0), "logits": x, "targets": np.array([0, 1]), "array": x.data},
        **{"model": model, "ids": np.array([[1, 2, 3]]), "optimizer": optim.SGD(model.parameters())},
        **{"ctx": Context(), "name": "extra", "layer": nn.Linear(2, 2)},
    }


@pytest.mark.parametrize("place, name", CASES)
def test_what_a_missing_name_says_can_be_written(place, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    variables = names(tmp_path)
    owners = {"Tensor": ["x"], "Module": ["model"], "Context": ["ctx"], "module": ["mg", "F", "nn", "optim"]}[place]
    for owner in owners:
        with pytest.raises(AttributeError, match=f"has no {name}; write ") as caught:
            getattr(variables[owner], name)
        assert not hasattr(variables[owner], name)
    programs = re.findall("`(.*?)`", str(caught.value))
    assert programs
    with mg.use_kernels("textbook"):  # afterwards, the kernels that were chosen before
        for program in programs:
            exec(program, variables)


WORKS = """
mg.cat([x, y]); mg.stack([x, y]); mg.tril(x); mg.softmax(x, dim=-1); mg.matmul(x, y); mg.where(x > 0, x, y); mg.exp(x)
mg.clamp(x, 0, 1); mg.cumsum(x, 0); mg.zeros(2, dtype=mg.float32); mg.arange(2, dtype=mg.int64); mg.manual_seed(0)
x.size() == x.shape; x.size(-1); x.numel(); x.tolist(); x.clamp(min=0); x.log_softmax(-1); x.add(y, alpha=2); x.pow(2)
x.view(4); x.view(-1, 2); x.permute(1, 0); x.unsqueeze(0); x.masked_fill(x > 0, 0.0); x.expand(3, 2, 2)
x.numpy(); x.detach(); x.sum().item(); x.to("cpu"); x.to(mg.float64); nn.functional.relu(x); F.mse_loss(x, y)
nn.Identity()(x) is x; optim.Adam(model.parameters(), lr=0.1, betas=(0.9, 0.95)); model.train(); model.eval()
mg.no_grad()(len)(x); optim.clip_grad_norm_(model.parameters(), 1.0, norm_type=2)
"""


@pytest.mark.parametrize("program", re.split(r"; |\n", WORKS.strip()))
def test_a_name_that_works(program, tmp_path):
    assert eval(program, names(tmp_path)) is not False


def test_other_missing_names():
    with pytest.raises(AttributeError, match=r"NumPy has np\.allclose: give it x\.numpy\(\)"):
        mg.allclose(1, 1)
    for owner in (mg, F, nn, optim, mg.ones(1)):
        with pytest.raises(AttributeError, match="has no attribute 'typo'"):
            owner.typo()
    assert "Tensor has no clone; write `mg.tensor(x)`" in pydoc.render_doc(mg.Tensor)


def test_values_of_the_names_that_are_more_than_an_alias():
    x = mg.tensor([[1.0, 2.0]], requires_grad=True)
    x.add(x, alpha=2).sum().backward()
    assert x.grad.tolist() == [[3, 3]] and x.tolist() == [[1, 2]] and mg.add(x, 2, alpha=3).tolist() == [[7, 8]]
    assert (x.size(), x.size(1), x.numel()) == ((1, 2), 2, 2)
    with pytest.raises(ValueError, match="norm_type must be 2"):
        optim.clip_grad_norm_(x, 1.0, norm_type=1)
    optimizer = optim.SGD([{"params": [x], "lr": 0.5}, {"params": [mg.ones(1), mg.ones(2)]}], lr=0.1)
    others = "momentum=0.0, weight_decay=0.0, nesterov=False"
    assert repr(optimizer) == f"SGD\n  lr=0.5, {others}, params=1 tensors\n  lr=0.1, {others}, params=2 tensors"


PAGE = (Path(mg.__file__).parent / "for_pytorch_users.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (`.+?`) \| (`.+?`) \| ", PAGE, re.MULTILINE)
OF_THE_PAGE = """
nn, optim, F = here.nn, here.optim, here.nn.functional
x = here.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]], requires_grad=True); y = here.ones(2, 3); loss = (x * x).sum()
logits, targets, array, tokens, ctx = x, here.tensor([0, 2]), np.ones(2), np.arange(99), Context()
q, mask = here.arange(24).reshape(1, 2, 3, 4) / 10, here.tensor([[True, False, True], [True] * 3, [False] * 3])
layer = nn.Linear(3, 3); model, blocks = nn.Sequential(layer), nn.ModuleList([layer]); optimizer = optim.SGD([x], 0.1)
"""


def column(which, **variables):
    """Each program in a column of the page's tables, with the value of its last expression, or x after a statement."""
    for program in (code for row in ROWS for code in re.findall("`(.+?)`", row[which])):
        exec(OF_THE_PAGE, variables := {"mg": mg, "np": np, "gpt": gpt, **variables})
        *first, last = program.split("; ")
        exec("; ".join(first), variables)
        exec(last if re.search(r"^with|\w = ", last) else f"x = {last}", variables)
        yield program, np.asarray(getattr(variables["x"], "detach", lambda: variables["x"])())


@pytest.mark.filterwarnings("ignore")
def test_both_columns_of_the_page_compute_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with mg.use_kernels("textbook"):
        ours = list(column(1, here=mg, Context=Context))
    assert len(ours) > 35
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `oracle`) is missing; our column has run")
    theirs = column(0, here=torch, torch=torch, Context=torch.autograd.function.FunctionCtx)
    for (program, expected), (_, got) in zip(theirs, ours, strict=True):
        if {expected.dtype.kind, got.dtype.kind} <= set("bif"):
            np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=program)
            assert got.dtype == expected.dtype, program
