"""A user's program, checked with `mypy --strict`: what the packages give it has types, and its mistakes are found."""

import re
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PROGRAM = """
from typing import Any
import numpy as np
import minigrad as mg
import minigrad.functional as F
from finetune import LoRAConfig, apply_lora
from gpt import GPT, GPTConfig, load_model
from minigrad import nn

class Doubled(mg.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, dout: Any) -> Any:
        return (2 * dout,)

class Net(nn.Module):
    def __init__(self) -> None:
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return Doubled.apply(self.layers(x))

@mg.no_grad()
def length(text: str) -> int:
    return len(text)

x = mg.tensor([-1.0, 0.5, 2.0], dtype="float64", requires_grad=True)
mg.use_kernels({"gelu": Doubled})
model = GPT(GPTConfig(vocab_size=8, n_layer=1, n_head=2, n_embd=16, block_size=8))
optimizer = mg.optim.AdamW(model.parameters(), lr=1e-2)
ids = np.arange(9)[None] % 4
loss = model.loss(ids[:, :-1], ids[:, 1:])
optimizer.zero_grad()
loss.backward()
print(f"{loss.item():.2f}", model.generate([[1, 2]], 5), length("text"))
"""

TENSOR, ARRAY = "minigrad.tensor.Tensor", "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]"
REVEALED = {  # expression -> its type
    **dict.fromkeys(["x * 2", "2 - x", "x[0]", "x == x", "x.sum()", "x.topk(1).values"], TENSOR),
    **dict.fromkeys(["F.softmax(x, -1)", "mg.cat([x, x])", "mg.clamp(x, 0, 1)", "mg.zeros(2, 3)"], TENSOR),
    **dict.fromkeys(["Doubled.apply(x)", "Net()(x)", "Net().layers(x)", "model(ids)", "loss"], TENSOR),
    "F.split(x, 1)": f"tuple[{TENSOR}, ...]",
    "x.shape": "tuple[int, ...]",
    "x.dtype": "numpy.dtype[Any]",
    "x.numpy()": ARRAY,
    "x.grad": f"{ARRAY} | None",
    "mg.gradcheck(Doubled.apply, x)": "minigrad.gradcheck.report.Report",
    "length": "def (text: str) -> int",
    "optimizer.step": "def ()",
    "model.config": "gpt.model_config.GPTConfig",
    "model.eval()": "gpt.model.gpt2.GPT",
    "model.state_dict()": f"dict[str, {ARRAY}]",
    "model.generate(ids, 5)": "list[list[int]]",
    "apply_lora(model, LoRAConfig())": "dict[str, finetune.adapters.lora.LoRALinear]",
    "load_model('gpt2')": "tuple[gpt.model.language_model.LanguageModel, gpt.tokenizer.tokenizer.Tokenizer]",
}
MISTAKES = {  # statement -> a part of what mypy says
    "GPTConfig(n_layer='12')": 'Argument "n_layer" to "GPTConfig" has incompatible type "str"',
    "mg.optim.AdamW(model.parameters(), lr='x')": 'Argument "lr" to "AdamW" has incompatible type "str"',
    "mg.optim.AdamW(model)": 'Argument 1 to "AdamW" has incompatible type "GPT"',
    "x + 'text'": "Unsupported operand types",
    "nn.Linear(3, 4)(x, 3)": 'Argument 2 to "__call__" of "Module" has incompatible type "int"',
    "F.softmx(x)": 'Module has no attribute "softmx"',
    "model.confg": '"GPT" has no attribute "confg"',
}


@pytest.mark.oracle("mypy")
@pytest.mark.filterwarnings("ignore::EncodingWarning")  # mypy opens its own files without naming it
def test_mypy_knows_the_types_and_finds_mistakes(tmp_path, monkeypatch):
    from mypy import api

    # An environment where the packages are installed as with `pip install -e`. mypy believes them only with py.typed.
    venv.create(tmp_path / "venv")
    base = {"base": str(tmp_path / "venv")}
    packages, programs = (sysconfig.get_path(which, "venv", base) for which in ("purelib", "scripts"))
    (Path(packages) / "editable.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    lines = [*PROGRAM.splitlines(), *(f"reveal_type({expression})" for expression in REVEALED), *MISTAKES]
    (tmp_path / "program.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options = ["--strict", "--config-file=", "--cache-dir=cache", f"--python-executable={programs}/python"]
    said, trouble, _ = api.run([*options, "program.py"])
    found = re.findall(r"^program\.py:(\d+): (?:error|note): (.*)$", said, re.MULTILINE)
    messages = {lines[int(number) - 1]: message for number, message in found}
    expected = {f"reveal_type({name})": f'Revealed type is "{type}"' for name, type in REVEALED.items()} | MISTAKES
    assert messages.keys() == expected.keys(), said + trouble
    assert {line: message for line, message in messages.items() if expected[line] not in message} == {}
