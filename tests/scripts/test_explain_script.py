"""scripts/explain.py: every number in a page's data is that of the run, and each stage's step becomes a page."""

import base64
import json
import re
import runpy
import sys
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from gpt import Llama, LlamaConfig
from gpt.training.loading import load_model
from minigrad import optim
from minigrad.autograd import Context
from minigrad.kernels.dispatch import textbook_functions
from scripts import explain
from scripts.pages.explain_data import LIMITS, explain_data
from scripts.pages.formula import formulas, mathml
from tests.scripts.running import run_here


def data_of(path):
    text = re.search(r'<script type="application/json">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return json.loads(text[1])


def unpacked(value, key="data", shape="shape"):
    numbers = np.frombuffer(base64.b64decode(value[key][1:]), {"4": "<f4", "8": "<f8"}[value[key][0]])
    return numbers.reshape(value[shape])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explain")
    assert run_here(explain.main, "--out-dir", folder) == 0
    return folder / "step.html"


def test_the_page_is_that_of_step_py(page, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["step.py"])
    run = runpy.run_path("scripts/step.py")
    data = data_of(page)
    assert page.stat().st_size < 5_000_000
    loss = next(call for call in data["calls"] if call["order"] == 0)
    assert unpacked(data["values"][loss["outputs"][0]]) == run["loss"].data
    parameters = dict(run["model"].named_parameters())
    assert [update["name"] for update in data["updates"]] == list(parameters)
    assert np.float32(data["norm"]) == run["norm"]
    for update in data["updates"]:
        p = parameters[update["name"]]
        state = run["optimizer"].state[list(parameters).index(update["name"])]
        for key, wanted in {"after": p.data, "clipped": p.grad}.items():
            assert np.array_equal(unpacked(data["values"][update[key]]), wanted), (update["name"], key)
        for key in ("exp_avg", "exp_avg_sq"):
            assert np.array_equal(unpacked(data["values"][update["state"][key]]), state[key])
    before = next(update for update in data["updates"] if update["name"] == "transformer.wte.weight")["before"]
    assert np.array_equal(unpacked(data["values"][before]), run["before"])


def test_the_numbers_of_every_op_are_those_of_the_run(page):
    data = data_of(page)
    recording, _ = explain.take_step(explain.tiny_gpt(), "pretraining", [[3, 1, 4, 1]], 0.1)
    for call, recorded in zip(data["calls"], recording.calls, strict=True):
        for kind in ("inputs", "outputs", "douts", "dinputs"):
            for i, value in zip(call[kind], getattr(recorded, kind), strict=True):
                assert (i is None) == (value is None)
                assert i is None or np.array_equal(unpacked(data["values"][i]), value.array), (call["op"], kind)
        assert call["where"][0]["path"].startswith("gpt/model/") and call["where"][0]["text"]
        assert data["functions"][call["op"]]["forward"]["line"] > 1
        if call["terms"] is not None:
            sizes = [unpacked({"d": text, "s": -1}, "d", "s").size for text in call["jacobian"].values()]
            assert all(size % recorded.outputs[0].array.size == 0 for size in sizes)
    terms = {call["op"]: call["terms"] for call in data["calls"]}
    assert terms["Add"] == [0, 1] and terms["Linear"] is not None and terms["ScaledDotProductAttention"] == [2]
    assert terms["Gelu"] is None and terms["CrossEntropy"] is None


@pytest.mark.parametrize(
    "stage, text, op",
    [
        ("pretraining", "the cat sat", "CrossEntropy"),
        pytest.param("sft", "the cat| sat", "Div", marks=pytest.mark.slow),
        ("dpo", "the cat| sat| ran", "Logsigmoid"),
        pytest.param("ppo", "the cat| sat", "Minimum", marks=pytest.mark.slow),
    ],
)
def test_any_model_text_and_stage(stage, text, op, given, tmp_path, capsys):
    own = ["--model", given / "wide", "--text", text]
    for folder, options in ((tmp_path / "own", own), (tmp_path / "tiny", [])):
        assert run_here(explain.main, "--stage", stage, "--out-dir", folder, *options) == 0
        (path,) = folder.iterdir()
        data = data_of(path)
        assert path.stat().st_size < 5_000_000 and op in [call["op"] for call in data["calls"]]
        assert data["updates"] and all(call["order"] is not None for call in data["calls"] if call["jacobian"])
    assert "MB" in capsys.readouterr().out


def test_what_does_not_fit_is_summarized(given):
    model, tokenizer = load_model(given / "wide")
    recording, ids = explain.take_step(model, "pretraining", [tokenizer.encode("the cat sat")], 0.1)
    data = explain_data(recording, "title", ids, range(len(tokenizer)))
    assert data["limit"] in LIMITS
    large = [value for value in data["values"] if np.prod(value["shape"]) > data["limit"]]
    assert large
    for value in large:
        assert value["statistics"]["norm"] >= 0 and unpacked(value, "data", "corner").size
    shown = sum(np.prod(v["shape"]) for v in data["values"] if "corner" not in v)
    assert shown * 16 / 3 < 5_000_000


def test_the_formulas_of_every_op_are_well_formed():
    found = {name: formulas(function) for name, function in textbook_functions().items()}
    assert sum(bool(forward or backward) for forward, backward in found.values()) > 50
    for name, (forward, backward) in {**found, "adam": formulas(optim.Adam)}.items():
        names = [[part.text for part in fromstring(line).iter("mi")] for line in (*forward, *backward)]
        for i, (defined, *_) in enumerate(names):
            used_before = {used for earlier in names[:i] for used in earlier[1:]}
            known = {earlier[0] for earlier in names[:i]}
            assert defined in known or defined not in used_before - {"m", "v", "p"}, (name, defined)
    assert "<mfrac><mi>dout</mi><mi>x</mi></mfrac>" in found["log"][1][0]
    lines = ["".join(fromstring(line).itertext()) for line in found["scaled_dot_product_attention"][0]]
    assert lines == ["scale=1D", "scores=qkTscale+mask", "probs=softmax(scores)", "out=probsv"]
    lines = ["".join(fromstring(line).itertext()) for line in found["layer_norm"][1]]
    assert [line.partition("=")[0] for line in lines] == ["dx\u0302", "dx"]
    assert mathml("out = x_").startswith("<p")  # somebody's own op may say anything


@pytest.mark.parametrize("kind", ["gpt", "llama", "dpo"])
def test_the_matrices_inside_attention_are_those_of_the_op(kind):
    """Of GPT, of a Llama whose heads share keys, and of two sequences."""
    shape = {"vocab_size": 8, "n_embd": 8, "block_size": 4, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_inner": 12}
    model = Llama(LlamaConfig(**shape)) if kind == "llama" else explain.tiny_gpt()
    stage, parts = ("dpo", [[3], [1, 4], [2, 5]]) if kind == "dpo" else ("pretraining", [[3, 1, 4, 1]])
    recording, _ = explain.take_step(model, stage, parts, 0.1)
    data = explain_data(recording, "title", [], "01234567")
    ops = [(call, recorded) for call, recorded in zip(data["calls"], recording.calls) if call["inside"][0]]
    assert len(ops) == (2 if kind == "llama" else 1)
    for call, recorded in ops:
        function = recorded.function
        ctx = Context()
        function.forward(ctx, *[value and value.array for value in recorded.inputs], **recorded.options)
        scores, probs = (unpacked(data["values"][call["inside"][0][name]]) for name in ("scores", "probs"))
        assert np.array_equal(probs, ctx.probs)
        assert np.array_equal(np.isinf(scores), np.broadcast_to(~np.tri(*scores.shape[-2:], dtype=bool), scores.shape))
        dprobs, dscores = (unpacked(data["values"][call["inside"][1][name]]) for name in ("dprobs", "dscores"))
        assert np.array_equal(dprobs, recorded.douts[0].array @ recorded.inputs[2].array.swapaxes(-1, -2))
        dq = dscores @ recorded.inputs[1].array * recorded.options["scale"]
        assert np.allclose(dq, recorded.dinputs[0].array, rtol=1e-6) and dq.any()
