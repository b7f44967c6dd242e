"""The model on one page is the library's: the same loss, gradients and steps; its words are new."""

import ast

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gpt import GPT, GPTConfig
from minigrad.optim import Adam
from scripts import efficiency, one_page
from tests.test_size import ROOT

SOURCE = ROOT / "scripts" / "one_page.py"


@pytest.fixture
def weights(monkeypatch):
    """Random weights in float64, far enough from 0 that every part counts."""
    monkeypatch.setattr(one_page, "rng", np.random.default_rng(3))
    weights = one_page.new_weights(11, np.float64)
    for weight in weights.values():
        weight.data += one_page.rng.normal(0, 0.1, weight.data.shape)
    return weights


def in_the_library(p, kind):
    """The arrays of the page (kind: "data" or "grad") by the names of our GPT."""
    p = {name: getattr(weight, kind) for name, weight in p.items()}
    found = {
        "wte.weight": p["tokens"],
        "wpe.weight": p["positions"],
        "ln_f.weight": p["norm"],
        "ln_f.bias": p["norm.bias"],
    }
    for i in range(one_page.LAYERS):
        qkv = [f"{i}.query", f"{i}.key", f"{i}.value"]
        found[f"h.{i}.attn.c_attn.weight"] = np.hstack([p[name] for name in qkv]).T
        found[f"h.{i}.attn.c_attn.bias"] = np.hstack([p[f"{name}.bias"] for name in qkv])
        for ours, name in {"attn.c_proj": "project", "mlp.c_fc": "up", "mlp.c_proj": "down"}.items():
            found[f"h.{i}.{ours}.weight"] = p[f"{i}.{name}"].T
            found[f"h.{i}.{ours}.bias"] = p[f"{i}.{name}.bias"]
        for n in (1, 2):
            found[f"h.{i}.ln_{n}.weight"] = p[f"{i}.norm{n}"]
            found[f"h.{i}.ln_{n}.bias"] = p[f"{i}.norm{n}.bias"]
    return {f"transformer.{name}": array for name, array in found.items()}


def test_loss_gradients_and_ten_steps_are_the_librarys(weights):
    model = GPT(GPTConfig(11, one_page.CONTEXT, one_page.LAYERS, one_page.HEADS, one_page.WIDTH, dropout=0.0))
    ours = dict(model.named_parameters())
    for name, array in in_the_library(weights, "data").items():
        ours[name].data = array.copy()
    optimizer = Adam(ours.values(), lr=0.01, betas=(0.9, 0.99))
    windows = np.random.default_rng(0).integers(0, 11, (10, 4, one_page.CONTEXT + 1))
    moments = {}
    for step, batch in enumerate(windows, 1):
        loss = one_page.loss_of(batch, weights)
        loss.backward()
        model.zero_grad()
        expected = model.loss(batch[:, :-1], batch[:, 1:])
        expected.backward()
        if step == 1:
            assert_allclose(loss.data, expected.data, rtol=1e-9)
            assert in_the_library(weights, "grad").keys() == ours.keys()
            for name, gradient in in_the_library(weights, "grad").items():
                assert_allclose(gradient, ours[name].grad, rtol=1e-9, atol=1e-12, err_msg=name)
        one_page.adam(weights, moments, step, rate=0.01)
        optimizer.step()
    for name, array in in_the_library(weights, "data").items():
        assert_allclose(array, ours[name].data, rtol=1e-6, atol=1e-9, err_msg=name)


def test_finite_differences_agree(weights):
    windows = np.random.default_rng(1).integers(0, 11, (2, one_page.CONTEXT + 1))
    one_page.loss_of(windows, weights).backward()
    for name, weight in weights.items():
        direction = np.random.default_rng(2).normal(size=weight.data.shape)
        losses = []
        for sign in (1, -1):
            weight.data += sign * 1e-6 * direction
            losses.append(one_page.loss_of(windows, weights).data)
            weight.data -= sign * 1e-6 * direction
        assert_allclose(
            (losses[0] - losses[1]) / 2e-6, (weight.grad * direction).sum(), rtol=1e-5, atol=1e-8, err_msg=name
        )


def test_number_by_number_it_learns_the_same(monkeypatch):
    for name, value in {"LAYERS": 1, "HEADS": 2, "WIDTH": 4, "CONTEXT": 3}.items():
        monkeypatch.setattr(one_page, name, value)
    losses = []
    for way in (efficiency.with_arrays, efficiency.number_by_number):
        monkeypatch.setattr(one_page, "rng", np.random.default_rng(3))
        step = way(5)
        losses.append([step(np.array([[3, 1, 4, 1]]), t) for t in range(1, 6)])
    assert_allclose(*losses, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_it_is_one_page_of_numpy():
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"sys", "pathlib", "pydoc_data.topics", "numpy"}
    code = ast.unparse(tree)  # without comments
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            code = code.replace(f'"""{ast.get_docstring(node, clean=False)}"""', "")
    assert len([line for line in code.splitlines() if line.strip()]) <= 150


def test_words_come_out(monkeypatch, capsys):
    monkeypatch.setattr(one_page, "rng", np.random.default_rng(1337))
    one_page.main(steps=51, batch=4)
    lines = capsys.readouterr().out.splitlines()
    first, second = (float(line.split("loss ")[1].split(":")[0]) for line in lines[:2])
    assert second < first - 0.3 and " new ones in 50, not among the 2," in lines[-1]


def test_a_text_that_is_missing_or_too_short_is_named(tmp_path):
    (tmp_path / "short.txt").write_text("five words of no use", encoding="utf-8")
    for name, words in {"short.txt": "has too few words", "none.txt": "there is no file"}.items():
        with pytest.raises(SystemExit, match=words):
            one_page.main(tmp_path / name)
