// A lesson's cells: each can be changed and run where it stands. A cell is a .cell with its first line in data-line; what it
// shows goes into the .result of that line, which may be behind a question.
const lesson = location.pathname.split("/").at(-1).replace(".html", "");
const cells = [...document.querySelectorAll(".cell")].map((place) => {
  const text = [...place.querySelectorAll("pre.code")].map((pre) => pre.textContent).join("");
  const { line } = place.dataset;
  return { place, text, line: Number(line), result: document.querySelector(`.result[data-of="${line}"]`), editor: null };
});
const state = element("span", { role: "status" });
let running = 0; // calls of runAll
let pictures = false;

async function run(cell) {
  const text = cell.editor ? cell.editor.get() : cell.text;
  const output = element("pre", { class: "output" });
  let printed = "";
  state.textContent = python.started ? "running ..." : "Python is on its way (12 MB, once) ...";
  cell.result.replaceChildren(output);
  const closed = cell.result.closest("details");
  if (closed) closed.open = true;
  const said = (part) => {
    printed += part;
    output.textContent = printed;
  };
  try {
    const packages = pictures ? ["matplotlib"] : [];
    const { html, error } = await python.call("run", { lesson, text, line: cell.line }, { said, packages });
    const shown = printed ? await python.call("show", { printed }) : { html: "" };
    cell.result.innerHTML = shown.html + (html ?? ""); // made by our own code from text, which it escapes
    if (error) cell.result.append(element("pre", { class: "output error" }, error));
    if (typeof startWidgets === "function") startWidgets();
    state.textContent = error ? "" : "done";
    return !error;
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

function button(text, onclick) {
  return element("button", { type: "button", onclick }, text);
}

function prepare(cell) {
  const code = element("div", {}, ...cell.place.childNodes);
  const edit = button("Edit", () => {
    cell.editor ??= editor(code, cell.text);
    edit.textContent = "As it was";
    edit.onclick = () => cell.editor.set(cell.text);
  });
  cell.place.prepend(code, element("div", { class: "tools no-print" }, button("Run", () => run(cell)), edit));
}

const missing = python.missing();
const bar = element("div", { class: "tools all no-print" });
document.querySelector("main h1").after(bar);
if (missing) bar.append(missing);
else {
  cells.forEach(prepare);
  const withPictures = checkbox("pictures (10 MB more)", false, () => { pictures = withPictures.get(); });
  const ran = document.querySelector(".kind").textContent.match(/ran in (\d+) s/)?.[1];
  state.textContent = ran ? `What you see was saved: it took ${ran} s on a laptop, and takes several times as long here.` : "";
  bar.append(button("Run all", runAll), button("Stop", () => python.stop()), button("Forget everything", () => python.call("forget", { lesson })), withPictures.label, state);
}
