// An exercise: an editor with the stub, and the checker. Code and progress stay in this browser, or leave as a zip.
import { at, dataOfPage, element, storage } from "../widgets/common.js";
import { python, editor } from "./python.js";
const { name, file, stub, parts } = dataOfPage(); // parts: for capstone.js
const KEPT = "minigrad exercises";
export const NEEDS = { packages: ["hypothesis"] };
const LONGEST = 30_000; // milliseconds for a check: six times what a terminal gives it, as a tab is slower

// All exercises' files and progress. What cannot be read is put aside, not overwritten.
export function read() {
  const text = storage.get(KEPT);
  try {
    const { files, state } = JSON.parse(text) ?? {};
    return { files: { ...files }, state: { ...state, passed: { ...state?.passed }, hints: { ...state?.hints } } };
  } catch {
    storage.set(`${KEPT}, damaged`, text);
    return { files: {}, state: { passed: {}, hints: {} } };
  }
}

function keep(change) {
  const kept = read();
  change(kept);
  if (!storage.set(KEPT, JSON.stringify(kept))) at("passed").insertAdjacentElement("afterend", full);
}
const full = element("p", { role: "status" }, "This browser cannot store your work (storage is blocked or full): download the zip before you leave.");

// Take over what a check or a hint has found, of this exercise alone: another tab may have written since.
function take(state, text) {
  keep((kept) => {
    const isNewer = (kept.files[file] ?? text) !== text;
    if (!isNewer) delete kept.state.passed[name];
    if (!isNewer && name in state.passed) kept.state.passed[name] = state.passed[name];
    if (name in state.hints) kept.state.hints[name] = state.hints[name];
    kept.state.current = state.current;
  });
}

let verdict = ""; // what the last check said about the code as it is
function markOld() {
  if (verdict) at("said").textContent = at("said").textContent.replace(verdict, "Of your code before the change:\n\n$&");
  verdict = "";
}

async function ask(command) {
  if (!at("stop").disabled) return; // one at a time
  const before = at("said").textContent, runsCode = command === "check" || command === "steps";
  if (runsCode) showPassed(false);
  python.say(at("said"), "Loading the checker ...");
  at("said").scrollIntoView({ block: "nearest" });
  at("stop").disabled = false;
  let clock;
  try {
    await python.call("exercise.ready", {}, NEEDS); // Python is there now
    at("said").textContent = command === "check" ? "Checking your code ..." : `${command} ...`;
    clock = setTimeout(() => python.stop(), LONGEST);
    const text = code.get(), begun = performance.now();
    if (runsCode) take({ passed: {}, hints: {}, current: name }, text); // what has passed was an earlier answer
    const given = { command, name, text, state: read().state };
    const answer = await python.call("exercise.ask", given, NEEDS).catch((error) => {
      if (!python.isStopped) throw error;
      const spent = Math.round((performance.now() - begun) / 1000); // the words are those of processes.py
      const said = `${name}: does not end  (${file})\n\n  it was stopped after ${spent} s: is there a loop that never ends?`;
      return { said, state: given.state };
    });
    take(answer.state, text);
    at("said").textContent = command === "hint" ? `${answer.said}\n\n${before}` : answer.said;
    if (command === "check") verdict = answer.said;
    if (code.get() !== text) markOld();
    if (answer.html) open(URL.createObjectURL(new Blob([answer.html], { type: "text/html" })));
    at("said").scrollIntoView({ block: "nearest" });
  } catch (error) {
    at("said").textContent = error.message;
  } finally {
    clearTimeout(clock);
    showPassed();
    at("stop").disabled = true;
  }
}

function showPassed(passed = name in read().state.passed) {
  at("said").classList.toggle("passed", passed);
  at("passed").hidden = !passed;
  if (parts) at("run").hidden = !parts.every((part) => part in read().state.passed);
}

async function download() {
  const { base64 } = await python.call("exercise.folder", read(), NEEDS);
  element("a", { href: `data:application/zip;base64,${base64}`, download: "my_exercises.zip" }).click();
}

async function takeUp() {
  const bytes = new Uint8Array(await at("upload").files[0].arrayBuffer());
  const found = await python.call("exercise.taken_up", { data: btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), "")) }, NEEDS);
  keep((kept) => {
    Object.assign(kept.files, found.files);
    Object.assign(kept.state, found.state);
  });
  code.set(read().files[file] ?? stub);
  at("said").textContent = `${Object.keys(found.files).length} files were loaded from the zip.`;
}

const missing = python.missing();
const code = editor(at("editor"), read().files[file] ?? stub, () => ask("check"), { fold: "the exercise, as above" });
showPassed();
let isOfOtherTab = false; // what changes in the editor now
code.onchange(() => { markOld(); if (!isOfOtherTab) keep((kept) => { kept.files[file] = code.get(); }); });
addEventListener("storage", () => { // another tab has written
  const text = read().files[file];
  isOfOtherTab = true;
  if (text !== undefined && text !== code.get()) code.set(text);
  isOfOtherTab = false;
  showPassed();
});
if (missing) at("said").textContent = missing;
else {
  for (const command of ["check", "hint", "steps", "solution"]) at(command).addEventListener("click", () => ask(command));
  at("reset").addEventListener("click", () => (confirm("Replace your code with the stub?") ? code.set(stub) : null));
  at("stop").addEventListener("click", () => python.stop());
  at("download").addEventListener("click", download);
  at("upload").addEventListener("change", takeUp);
  python.begin().catch((error) => { at("said").textContent = error.message; });
}
