"""scripts/quantize.py as its users meet it."""

import re
from unittest import mock

import pytest

from finetune.quantization.folder import load_quantized
from scripts import generate, quantize
from tests.gpt.small import files_of
from tests.scripts.running import output_of, refusal, run_here


def quantized(given, out, *arguments):
    source = ["--model", given / "wide", "--calibration", given / "story.txt"]
    return run_here(quantize.main, *source, "--out-dir", out, *arguments)


@pytest.mark.parametrize("method", ["zeropoint", "gptq"])  # the others: in the table below
def test_every_method_says_its_cost_and_leaves_a_model(given, tmp_path, capsys, method):
    more = ["--sequences", 20] if method in ("gptq", "awq") else []
    assert quantized(given, tmp_path / "q", "--method", method, *more) == 0
    text = capsys.readouterr().out
    rows = {match[0].strip(): float(match[1]) for match in re.findall(r"^([a-z/, ]+?)  .* (\d+\.\d{3})$", text, re.M)}
    assert list(rows) == ["perplexity", "size on disk", "weights in memory", "memory while generating", "tokens/s"]
    assert rows["perplexity"] == pytest.approx(1, abs=0.02)
    assert rows["size on disk"] < 0.5 and rows["weights in memory"] < 0.5
    assert re.search(r"took \d+\.\d s and at most [\d.]+ MB of memory, -?[\d.]+ MB more than before", text)
    assert ("transformer.h.1.mlp.c_proj" in text) == (method in ("gptq", "awq"))
    model, _ = load_quantized(tmp_path / "q")
    assert model.transformer.h[0].attn.c_attn.weight.bits == (8 if method in ("absmax", "zeropoint") else 4)
    assert run_here(generate.main, "--model", tmp_path / "q", "--prompt", "the cat", "--max-new-tokens", 5) == 0
    assert capsys.readouterr().out.startswith("the cat")


def test_the_options_reach_the_quantizer(given, tmp_path):
    options = ["--method", "gptq", "--bits", 8, "--group-size", 32, "--desc-act", "--zero-point", "--float-embedding"]
    assert quantized(given, tmp_path / "q", *options, "--sequences", 5) == 0
    weight = load_quantized(tmp_path / "q")[0].transformer.h[1].mlp.c_fc.weight
    assert weight.bits == 8 and weight.groups == 2 and weight.order is not None and weight.zeros is not None


def test_a_run_is_measured_on_its_own_tokens(finished, tmp_path):
    run = finished("train")[0]
    output = output_of(quantize.main, "--model", run, "--method", "nf4", "--out-dir", tmp_path / "q")
    assert "4 bits, group size 16\n" in output and f"held-out tokens of {run.as_posix()}/data " in output


def test_all_methods_in_one_table(given, tmp_path, capsys):
    options = ["--compare", "--model", given / "wide", "--calibration", given / "story.txt", "--sequences", 10]
    options += ["--out-dir", tmp_path / "all"]
    with mock.patch.object(quantize, "_measure", side_effect=[{}, {}, KeyboardInterrupt]):
        assert run_here(quantize.main, *options) == 130
    table = output_of(quantize.main, *options).partition("perplexity over float32")[2]
    rows = {match[0]: match[1:] for match in re.findall(r"^(\w+) +([\d.,]+) +([\d.]+) MB +([\d.]+) MB", table, re.M)}
    assert list(rows) == ["float32", *quantize.COMPARED]
    perplexities = {name: float(row[0].replace(",", "")) for name, row in rows.items()}
    for name in quantize.COMPARED:
        assert perplexities[name] == pytest.approx(perplexities["float32"], rel=0.02)
        assert float(rows[name][1]) < 0.5 * float(rows["float32"][1])
        load_quantized(tmp_path / "all" / name)
    assert "choose another --out-dir" in refusal(quantize.main, capsys, *options)


def test_a_model_is_neither_overwritten_nor_quantized_twice(given, tmp_path, capsys):
    model = given / "wide"
    before = files_of(model)
    assert "is the folder of --model" in refusal(quantize.main, capsys, "--model", model, "--out-dir", f"{model}/.")
    assert files_of(model) == before
    assert quantized(given, tmp_path / "q") == 0
    sentence = refusal(quantize.main, capsys, "--model", tmp_path / "q", "--out-dir", tmp_path / "again")
    assert "does not describe a minigrad-gpt" in sentence or "quantize" in sentence
