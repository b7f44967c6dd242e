"""What the page of a recorded step (step.js) asks of Python: to record another one, with the reader's settings."""

from pathlib import Path
from typing import Any

import numpy as np

from gpt import GPTConfig
from gpt.files import write_text
from minigrad.autograd import Function
from minigrad.gradcheck import GradcheckError, gradcheck
from minigrad.nn.layers import ACTIVATIONS
from scripts.explain import prepared, take_step, title_of
from scripts.pages.explain_data import explain_data
from scripts.pages.site.in_browser import shown

CODE = Path("/tmp/my_op.py")  # where the source of the reader's op is found
LARGEST = 2_000_000  # parameters of the tiny GPT: a step of more takes too long in a browser


def start() -> dict[str, Any]:
    """The data of the page as it is opened: the step of scripts/step.py."""
    return record("", "3 1 4 1", "pretraining", 0.1, {}, "")["data"] | {"lines": "../debugger/step.html"}


def record(model: str, text: str, stage: str, lr: float, sizes: dict[str, int], code: str) -> dict[str, Any]:
    """The data of a step and what gradcheck says about the reader's op, or {"error": why there is no step}.

    model: a NAME of the site; "" for a tiny GPT of these sizes, which reads token ids. code: of an op that the MLPs use
    as their activation function; "" for GELU.
    """
    try:
        count = GPTConfig.from_dict(sizes).num_parameters() if sizes else 0
        if count > LARGEST:
            raise ValueError(f"these sizes make {count:,} parameters; choose sizes with at most {LARGEST:,}")
        net, parts, vocabulary = prepared(model and f"/models/{model}", text, stage, **sizes)
        op, said = own_op(code) if code else (None, "")
        if op:
            ACTIVATIONS["own"] = op.apply
            for block in net.transformer.h:
                block.mlp.activation = "own"
        recording, ids = take_step(net, stage, parts, lr)
        if not np.isfinite(recording.norm):
            raise ValueError(f"a gradient is not finite, so there is no step to show.\n{said}")
        names = [function.__name__ for function in {call.function for call in recording.calls}]
        if op and names.count(op.__name__) > 1:
            raise ValueError(f"the step has another op named {op.__name__}; give yours a name of its own")
        title = title_of(stage, model and f"the {model} model")
        return {"data": explain_data(recording, title, ids, vocabulary), "said": said, "op": op and op.__name__}
    except (Exception, KeyboardInterrupt) as error:
        return {"error": shown(error, str(CODE))}


def own_op(code: str) -> tuple[type[Function], str]:
    """The op that the reader has written, and what gradcheck says about its gradient."""
    write_text(CODE, code)
    names: dict[str, Any] = {"__name__": CODE.stem}
    exec(compile(code, str(CODE), "exec"), names)
    ops = [x for x in names.values() if isinstance(x, type) and issubclass(x, Function) and x is not Function]
    if not ops:
        raise ValueError("the code defines no op: a subclass of Function with forward and backward")
    try:
        return ops[-1], str(gradcheck(ops[-1].apply, np.random.default_rng(0).standard_normal(7))).partition("\n")[0]
    except GradcheckError as error:
        return ops[-1], "\n".join(["The gradient is wrong.", *str(error).split("\n")[:2]])
