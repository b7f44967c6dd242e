// The form above a recorded step (explain.js): it records another one, with the reader's settings and op (step.py).
import { draw } from "../explain.js";
import { at, storage } from "../widgets/common.js";
import { python, editor } from "./python.js";
const KEPT_OP = "minigrad step op"; // under which the reader's op stays in this browser
const OP = `import numpy as np

from minigrad.autograd import Function


class SquaredRelu(Function):
    """out = max(x, 0)²;  dx = dout * 2 max(x, 0)."""

    @staticmethod
    def forward(ctx, x):
        ctx.positive = np.maximum(x, 0)
        return ctx.positive**2

    @staticmethod
    def backward(ctx, dout):
        return (dout * 2 * ctx.positive,)
`;
// What each stage reads, and an example for the tiny GPT and for another model.
const READS = {
  pretraining: ["", "3 1 4 1", "The girl saw a red ball"],
  sft: ["prompt | reply", "3 | 1 4", "The girl saw| a red ball"],
  dpo: ["prompt | better | worse", "3 | 1 4 | 2 5", "The girl saw| a red ball| the the"],
  ppo: ["prompt | reply", "3 | 1 4", "The girl saw| a red ball"],
};
let code = null; // the editor

function say(text, isError = false) {
  at("said").classList.toggle("error", isError);
  at("said").textContent = text;
}

function drawFields() {
  const isTiny = at("model").value === "", [parts, ...examples] = READS[at("stage").value];
  at("sizes").hidden = !isTiny;
  at("sizes").querySelectorAll("input").forEach((input) => { input.disabled = !isTiny; });
  at("reads").textContent = `${isTiny ? "Token ids" : "Text"}${parts && `: ${parts}`}`;
  at("text").value = examples[isTiny ? 0 : 1];
}

function openEditor() {
  at("editor").hidden = !at("mine").checked;
  if (code) return;
  code = editor(at("editor"), storage.get(KEPT_OP) || OP, () => at("own").requestSubmit());
  code.onchange(() => storage.set(KEPT_OP, code.get()));
}

async function recordAgain() {
  const sizes = Object.fromEntries([...at("sizes").querySelectorAll("input:enabled")].map((input) => [input.name, input.valueAsNumber]));
  const asked = { model: at("model").value, text: at("text").value, stage: at("stage").value, lr: at("lr").valueAsNumber, sizes, code: at("mine").checked ? code.get() : "" };
  [at("record").disabled, at("stop").disabled] = [true, false];
  say("");
  python.say(at("said"), "Recording ...");
  try {
    const { error, data: recorded, said, op } = await python.call("step.record", asked, { model: asked.model || null });
    say(error ? `${error}\nWhat you see below is the previous step.` : `${said}\nRecorded.`.trim(), Boolean(error));
    if (!error) draw(recorded, op);
  } catch (error) {
    say(error.message, true);
  }
  [at("record").disabled, at("stop").disabled] = [false, true];
}

const missing = python.missing();
drawFields();
if (missing) {
  say(missing);
  at("record").disabled = true;
}
for (const name of ["model", "stage"]) at(name).addEventListener("change", drawFields);
at("mine").addEventListener("change", openEditor);
at("stop").addEventListener("click", () => python.stop());
at("own").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!at("record").disabled) recordAgain();
});
if (at("mine").checked) openEditor();
