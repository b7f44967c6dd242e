// A lesson's cells: each can be changed and run where it stands. A cell is a .cell with its first line in data-line; what it
// shows stands in the .result of that line, which may be behind a question, and below the cell once it has run.
const lesson = location.pathname.split("/").at(-1).replace(".html", "");
const keyOfCell = (cell) => `minigrad cell ${lesson} ${cell.line}`; // under which a changed cell stays in this browser
const cells = [...document.querySelectorAll(".cell")].map((place) => {
  const text = [...place.querySelectorAll("pre.code")].map((pre) => pre.textContent).join("");
  const { line } = place.dataset;
  const result = document.querySelector(`.result[data-of="${line}"]`);
  return { place, text, line: Number(line), result, editor: null, hasRun: false };
});
const state = element("span", { role: "status" });
let running = 0; // calls of runAll

// Run a cell, and before it those above that nobody has run yet.
async function runFrom(cell) {
  for (const above of cells.slice(0, cells.indexOf(cell))) {
    if (!above.hasRun && !(await run(above))) return;
  }
  await run(cell);
}

// Returns whether the next cell can run: also after a check that fails because the numbers were changed.
async function run(cell) {
  const name = `cell ${cells.indexOf(cell) + 1} of ${cells.length}`;
  const text = cell.editor ? cell.editor.get() : cell.text;
  const output = element("pre", { class: "output" });
  let printed = "";
  const draws = /\blesson\.picture\(/.test(text);
  state.textContent = python.started ? `running ${name} ...` : "Python is on its way (12 MB, once) ...";
  if (draws && !cells.some((other) => other.hasDrawn)) state.textContent += " and what draws pictures (10 MB, once)";
  cell.result.replaceChildren(output);
  if (cell.result.closest(".answer")) cell.place.after(cell.result);
  const said = (part) => {
    printed += part;
    output.textContent = printed;
  };
  try {
    const packages = draws ? ["matplotlib"] : [];
    const { html, error } = await python.call("cells.run", { lesson, text, line: cell.line }, { said, packages });
    const shown = printed ? await python.call("cells.show", { printed }) : { html: "" };
    cell.result.innerHTML = shown.html + (html ?? ""); // made by our own code from text, which it escapes
    if (error) cell.result.append(element("pre", { class: "output error" }, error));
    const isOfOld = error?.includes("\nAssertionError") && text !== cell.text;
    if (isOfOld) cell.result.append(element("p", { class: "soft" }, "The check belongs to the original numbers: with yours, something else holds."));
    if (typeof startWidgets === "function") startWidgets();
    state.textContent = error ? `${error === "stopped" ? "stopped" : "an error"} in ${name}` : "done";
    Object.assign(cell, { hasRun: true, hasDrawn: draws });
    return !error || isOfOld;
  } catch (error) {
    cell.result.append(element("pre", { class: "output error" }, error.message));
    state.textContent = "";
    return false;
  }
}

async function runAll() {
  running += 1;
  for (const cell of cells) {
    cell.place.scrollIntoView({ block: "nearest" });
    if (!(await run(cell))) break;
  }
  running -= 1;
}

async function restart() {
  await python.call("cells.forget", { lesson });
  for (const cell of cells) cell.hasRun = false;
  state.textContent = "What the cells had defined is forgotten; your changes to them stay.";
}

function button(text, onclick) {
  return element("button", { type: "button", onclick }, text);
}

function prepare(cell) {
  const code = element("div", {}, ...cell.place.childNodes);
  const edit = button("Edit", () => {
    cell.editor ??= editor(code, localStorage.getItem(keyOfCell(cell)) ?? cell.text, () => runFrom(cell));
    cell.editor.onchange(() => localStorage.setItem(keyOfCell(cell), cell.editor.get()));
    cell.result.prepend(element("p", { class: "soft" }, "From before your change:"));
    edit.textContent = "As it was";
    edit.onclick = () => cell.editor.set(cell.text);
  });
  cell.place.prepend(code, element("div", { class: "tools no-print" }, button("Run", () => runFrom(cell)), edit));
}

const missing = python.missing();
const bar = element("div", { class: "tools all no-print" });
document.querySelector("main h1").after(bar);
if (missing) bar.append(missing);
else {
  cells.forEach(prepare);
  const ran = document.querySelector(".kind").textContent.match(/ran in (\d+) s/)?.[1];
  if (ran) bar.after(element("p", { class: "soft no-print" }, `What you see was saved. All cells took ${ran} s on a laptop, and take several times as long here.`));
  bar.append(button("Run all", runAll), button("Stop", () => python.stop()), button("Restart", restart), state);
  for (const cell of cells) if (localStorage.getItem(keyOfCell(cell)) !== null) cell.place.querySelector(".tools button:last-child").click();
}
