// A lesson's cells: each can be changed and run where it stands. A cell is a .cell with its first line in data-line; what it
// shows stands in the .result of that line, which may be behind a question, and below the cell once it has run. data-seconds
// is how long it took where the page was written, for those that took long.
import { startWidgets, element, storage } from "../widgets/common.js";
import { python, editor } from "./python.js";
const SLOWER = 7; // a cell that trains takes so many times as long in a tab (measured: 5 to 9)
const MOST_PRINTED = 100_000; // characters of a cell: one that prints without end must leave time to press Stop
const LONG = 30; // seconds here, from which a cell says how long it takes
const lesson = location.pathname.split("/").at(-1).replace(".html", "");
const keyOfCell = (cell) => `minigrad cell ${lesson} ${cell.line}`; // under which a changed cell stays in this browser
const cells = [...document.querySelectorAll(".cell")].map((place) => {
  const text = [...place.querySelectorAll("pre.code")].map((pre) => pre.textContent).join("");
  const { line } = place.dataset;
  const result = document.querySelector(`.result[data-of="${line}"]`);
  return { place, text, line: Number(line), seconds: Number(place.dataset.seconds ?? 0), result, editor: null, hasRun: false, ran: text, isOld: false };
});
const textOf = (cell) => (cell.editor ? cell.editor.get() : cell.text);
const state = element("span", { role: "status" });
let running = false;

// "about 40 s", the time that cells take here; "" if they are quick, or were changed.
function time(some) {
  const seconds = SLOWER * some.reduce((sum, cell) => sum + (textOf(cell) === cell.text ? cell.seconds : 0), 0);
  if (!seconds) return "";
  return seconds < 100 ? `about ${10 * Math.ceil(seconds / 10)} s` : `about ${Math.ceil(seconds / 60)} minutes`;
}

// Run a cell, and before it those above that have not run as they stand. follow: keep the one that runs in sight.
async function runTo(last, follow = false) {
  if (running) return;
  running = true;
  for (const cell of cells) if (cell === last || textOf(cell) !== cell.ran) cell.hasRun = false;
  const waiting = () => cells.slice(0, cells.indexOf(last) + 1).filter((cell) => !cell.hasRun);
  for (let some = waiting(); some.length; some = waiting()) {
    if (follow) some[0].place.scrollIntoView({ block: "nearest" });
    if (!(await run(some[0], time(some)))) break;
  }
  running = false;
}

// Say above a result whether it is from other code: the cell was edited since, or one above it was changed and run.
function mark(cell) {
  const isOld = cell.isOld || textOf(cell) !== cell.ran;
  cell.result.querySelector(":scope > .old")?.remove();
  if (isOld && cell.result.childElementCount) cell.result.prepend(element("p", { class: "old" }, "From before your change:"));
}

// Returns whether the next cell can run: also after a check that fails because the numbers were changed.
async function run(cell, toGo) {
  const place = cells.indexOf(cell);
  const name = `cell ${place + 1} of ${cells.length}`;
  const text = textOf(cell);
  const output = element("pre", { class: "output" });
  let printed = "";
  const draws = /\blesson\.picture\(/.test(text);
  python.say(state, `running ${name} ...${toGo && ` ${toGo} to go`}`);
  if (draws && !cells.some((other) => other.hasDrawn)) state.textContent += " and loading what draws pictures (10 MB, once)";
  cell.result.replaceChildren(output);
  if (cell.result.closest(".answer")) cell.place.after(cell.result);
  cell.place.querySelector(".saved")?.remove();
  for (const below of text === cell.ran ? [] : cells.slice(place + 1)) {
    Object.assign(below, { hasRun: false, isOld: true });
    mark(below);
  }
  Object.assign(cell, { ran: text, isOld: false });
  let isDrawn = true;
  const said = (part) => {
    if (printed.length < MOST_PRINTED) printed += part;
    if (isDrawn) requestAnimationFrame(() => {
      output.textContent = printed;
      isDrawn = true;
    });
    isDrawn = false;
  };
  try {
    const packages = draws ? ["matplotlib"] : [];
    const { html, error } = await python.call("cells.run", { lesson, text, cell: place + 1 }, { said, packages });
    const shown = printed ? await python.call("cells.show", { printed }) : { html: "" };
    cell.result.innerHTML = shown.html + (html ?? ""); // made by our own code from text, which it escapes
    if (error) cell.result.append(element("pre", { class: "output error" }, error));
    const isOfOld = error?.includes("\nAssertionError") && cells.slice(0, place + 1).some((above) => above.ran !== above.text);
    if (isOfOld) cell.result.append(element("p", { class: "soft" }, "This check is about the original numbers, so it need not hold for yours."));
    startWidgets();
    state.textContent = error ? (error === "stopped" ? `stopped in ${name}` : `Error in ${name}: see below its code.`) : "done";
    if (error) cell.result.scrollIntoView({ block: "nearest" });
    Object.assign(cell, { hasRun: !error || isOfOld, hasDrawn: draws });
    return cell.hasRun;
  } catch (error) {
    cell.result.append(element("pre", { class: "output error" }, error.message));
    state.textContent = "";
    return false;
  }
}

async function runAll() {
  for (const cell of running ? [] : cells) cell.hasRun = false;
  await runTo(cells.at(-1), true);
}

function forget() {
  for (const cell of cells) cell.hasRun = false;
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

function button(text, onclick) {
  return element("button", { type: "button", onclick }, text);
}

function prepare(cell) {
  const code = element("div", {}, ...cell.place.childNodes);
  const edit = button("Edit", (event) => {
    if (cell.editor) { // the button says Restore
      cell.editor.set(cell.text);
      return;
    }
    cell.editor = editor(code, storage.get(keyOfCell(cell)) ?? cell.text, () => runTo(cell));
    mark(cell);
    cell.editor.onchange(() => {
      storage.set(keyOfCell(cell), cell.editor.get());
      mark(cell);
    });
    edit.textContent = "Restore";
    if (!event.isTrusted) return; // the page opens an editor again
    cell.editor.focus();
    code.scrollIntoView({ block: "nearest" });
  });
  const tools = element("div", { class: "tools no-print" }, button("Run", () => runTo(cell)), edit);
  if (SLOWER * cell.seconds > LONG) tools.append(element("span", { class: "soft saved" }, `This result was saved. Running it here takes ${time([cell])}; to shorten it, reduce the number of steps or samples, here or in the cell above that sets it.`));
  cell.place.prepend(code, tools);
}

const missing = python.missing();
const bar = element("div", { class: "tools all no-print" });
document.querySelector("main h1").after(bar);
if (missing) bar.append(missing);
else {
  cells.forEach(prepare);
  const all = time(cells);
  bar.after(element("p", { class: "soft no-print" }, `You can change any code here: press Edit below it, then Run. These results are saved ones. ${all && `Running all of it here takes ${all}. `}In an editor, Ctrl+Enter runs the cell; Esc, then Tab, leaves it.`));
  bar.append(element("button", { type: "button", class: "primary", onclick: runAll }, "Run all"), button("Stop", stop), button("Restart", restart), state);
  for (const cell of cells) if (storage.get(keyOfCell(cell)) !== null) cell.place.querySelector(".tools button:nth-child(2)").click();
}
