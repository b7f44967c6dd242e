// A lesson's cells: each can be changed and run where it stands. A cell is a .cell with its first line in data-line; what it
// shows stands in the .result of that line, which may be behind a question, and below the cell once it has run. data-seconds
// is how long it took where the page was written, for those that took long.
import { startWidgets, button, element, storage } from "../widgets/common.js";
import { python, editor } from "./python.js";
const SLOWER = 7; // a cell that trains takes so many times as long in a tab (measured: 5 to 9)
const MOST_PRINTED = 100_000; // characters of a cell: one that prints without end must leave time to press Stop
const LONG = 30; // seconds here, from which a cell says how long it takes
const KEYS = "In an editor, Shift+Enter or Ctrl+Enter runs the cell";
const lesson = location.pathname.split("/").at(-1).replace(".html", "");
const keyOfCell = (cell) => `minigrad cell ${lesson} ${cell.line}`; // under which a changed cell stays in this browser
const cells = [...document.querySelectorAll(".cell")].map((place) => {
  const text = [...place.querySelectorAll("pre.code")].map((pre) => pre.textContent).join("");
  const { line } = place.dataset;
  const result = document.querySelector(`.result[data-of="${line}"]`);
  return { place, text, now: text, line: Number(line), seconds: Number(place.dataset.seconds ?? 0), result, editor: null, hasRun: false, ran: text };
});
// What the result of a cell would be from, if it ran now: the code that the cells above it ran, and its own.
const codeOf = (cell) => cells.slice(0, cells.indexOf(cell)).map(({ ran }) => ran).join("") + cell.now;
for (const cell of cells) cell.saved = { nodes: [...cell.result.childNodes], from: (cell.from = codeOf(cell)) };
const state = element("span", { role: "status" });
const stopper = button({ onclick: stop, disabled: true }, "Stop");
let running = false;

// "about 40 s", the time that cells take here; "" if they are quick, or were changed.
function time(some) {
  const seconds = SLOWER * some.reduce((sum, cell) => sum + (cell.now === cell.text ? cell.seconds : 0), 0);
  if (!seconds) return "";
  return seconds < 100 ? `about ${10 * Math.ceil(seconds / 10)} s` : `about ${Math.ceil(seconds / 60)} minutes`;
}

// Run a cell, and before it those above that have not run as they stand. follow: keep the one that runs in sight.
async function runTo(last, follow = false) {
  if (running) return;
  [running, stopper.disabled] = [true, false];
  for (const cell of cells) if (cell === last || cell.now !== cell.ran) cell.hasRun = false;
  const waiting = () => cells.slice(0, cells.indexOf(last) + 1).filter((cell) => !cell.hasRun);
  for (let some = waiting(); some.length; some = waiting()) {
    if (follow) some[0].place.scrollIntoView({ block: "nearest" });
    if (!(await run(some[0], time(some)))) break;
  }
  [running, stopper.disabled] = [false, true];
}

// Say above a result whether it is from other code: the cell was edited since, or one above it was changed and run.
function mark(cell) {
  cell.result.querySelector(":scope > .old")?.remove();
  if (cell.from !== codeOf(cell) && cell.result.childElementCount) cell.result.prepend(element("p", { class: "old" }, "From before your change:"));
}

// Returns whether the next cell can run.
async function run(cell, toGo) {
  const place = cells.indexOf(cell);
  const name = `cell ${place + 1} of ${cells.length}`;
  const text = cell.now;
  const output = element("pre", { class: "output" });
  let printed = "";
  const draws = /\blesson\.picture\(/.test(text);
  python.say(state, `running ${name} ...${toGo && ` ${toGo} to go`}`);
  if (draws && !cells.some((other) => other.hasDrawn)) state.textContent += " and loading matplotlib (10 MB, once)";
  cell.result.replaceChildren(output);
  if (cell.result.closest(".answer")) cell.place.after(cell.result);
  cell.place.querySelector(".saved")?.remove();
  if (text !== cell.ran) forget(place);
  Object.assign(cell, { ran: text, from: codeOf(cell) });
  cells.forEach(mark);
  const changed = cells.slice(0, place + 1).some((above) => above.ran !== above.text);
  const said = (part) => {
    if (printed.length < MOST_PRINTED) output.textContent = printed += part;
  };
  try {
    const given = { lesson, text, cell: place + 1, changed }, packages = draws ? ["matplotlib"] : [];
    const { html, error, failed } = await python.call("cells.run", given, { said, packages });
    const shown = printed ? await python.call("cells.show", { printed }) : { html: "" };
    cell.result.innerHTML = shown.html + (html ?? ""); // made by our own code from text, which it escapes
    if (error) cell.result.append(element("pre", { class: "output error" }, error));
    startWidgets();
    mark(cell); // it may have been edited meanwhile
    state.textContent = error === "stopped" ? `stopped in ${name}` : error ? `Error in ${name}.` : failed ?? "done";
    if (error) cell.result.scrollIntoView({ block: "nearest" });
    return Object.assign(cell, { hasRun: !error, hasDrawn: draws }).hasRun;
  } catch (error) {
    cell.result.append(element("pre", { class: "output error" }, error.message));
    state.textContent = "";
    return false;
  }
}

async function runAll() {
  if (!running) forget();
  await runTo(cells.at(-1), true);
}

function forget(from = 0) {
  for (const cell of cells.slice(from)) cell.hasRun = false;
}

async function stop() {
  if (!(await python.stop())) forget();
}

async function restart() {
  if (running) await stop();
  await python.call("cells.forget", { lesson });
  forget();
  state.textContent = "Everything that the cells defined is gone; your edits are kept.";
}

function prepare(cell) {
  const code = element("div", {}, ...cell.place.childNodes), lines = [...code.childNodes], kept = storage.get(keyOfCell(cell));
  const change = (text) => {
    storage.set(keyOfCell(cell), (cell.now = text));
    restore.hidden = text === cell.text;
    mark(cell);
  };
  const open = (isOpen) => {
    edit.textContent = isOpen ? "Close" : "Edit";
    cell.editor = isOpen ? editor(code, cell.now, () => runTo(cell)) : null;
    cell.editor?.onchange(() => change(cell.editor.get()));
    if (!isOpen) code.replaceChildren(...(cell.now === cell.text ? lines : [element("pre", { class: "code" }, cell.now)]));
  };
  const edit = button({ onclick() {
    open(!cell.editor);
    cell.editor?.focus();
    code.scrollIntoView({ block: "nearest" });
  } }, "Edit");
  const restore = button({ onclick() { // the lesson's own code and result
    change(cell.text);
    open(false);
    if (running) return;
    forget(cells.indexOf(cell));
    Object.assign(cell, { ran: cell.text, from: cell.saved.from }).result.replaceChildren(...cell.saved.nodes);
    cells.forEach(mark);
  } }, "Restore");
  const tools = element("div", { class: "tools no-print" }, button({ onclick: () => runTo(cell), title: KEYS }, "Run"), edit, restore);
  if (SLOWER * cell.seconds > LONG) tools.append(element("span", { class: "soft saved" }, `This result was saved. Running it here takes ${time([cell])}; to shorten it, reduce the number of steps or samples, here or in the cell above that sets it.`));
  cell.place.prepend(tools, code);
  restore.hidden = kept === null || kept === cell.text;
  if (restore.hidden) return;
  change(kept);
  open(true);
}

const missing = python.missing();
const bar = element("div", { class: "tools all no-print" });
document.querySelector("main h1").after(bar);
if (missing) bar.append(missing);
else {
  cells.forEach(prepare);
  const all = time(cells);
  bar.after(element("p", { class: "soft no-print" }, `You can change any code here: press Edit above it, then Run. These results are saved ones. ${all && `Running all of it here takes ${all}. `}${KEYS}; Esc, then Tab, leaves it.`));
  bar.append(button({ onclick: runAll, class: "primary" }, "Run all"), stopper, button({ onclick: restart }, "Restart"), state);
  new ResizeObserver(() => document.body.style.setProperty("--bar", `${bar.offsetHeight}px`)).observe(bar);
}
