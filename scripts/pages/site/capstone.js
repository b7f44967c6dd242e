// The capstone in this tab: exercises become one program, which takes a trained model's weights (exercise.py).
import { at } from "../widgets/common.js";
import { NEEDS, read } from "./exercise.js";
import { python } from "./python.js";
import { fetchWeights, megabytes, sentence, start } from "./weights.js";
const { kind, model, text, bytes } = start;
const said = (part) => at("said").append(part);

at("run").addEventListener("click", async () => {
  if (!at("stop").disabled) return; // a check is running, or this
  at("stop").disabled = false;
  [at("said").textContent, at("said").className] = ["", "output"];
  python.isStopped = false;
  try {
    if (kind === "Llama") await fetchWeights();
    python.say(at("fetched"), "Running ...");
    if (!python.isStopped) await python.call("exercise.whole", { kind, model, text, ...read() }, { ...NEEDS, model, said });
  } catch (error) {
    if (!python.isStopped) said(sentence(error));
  }
  if (python.isStopped) said("\nStopped.");
  at("fetched").textContent = "";
  at("stop").disabled = true;
});
if (kind === "Llama") at("run").append(` with SmolLM2's weights (${megabytes(bytes)})`);
