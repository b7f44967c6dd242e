// The debugger on the site: a file is changed in an editor (the script, or a copy of an op's file), and recorded again.
import { LINE, calls, data, drawnFile, files, load, moments, now, runTo } from "../debugger.js";
import { at, button, element } from "../widgets/common.js";
import { python, editor } from "./python.js";
const changed = {}; // path -> text
const tools = element("div", { class: "tools no-print" });
const field = element("div", { class: "code-editor", hidden: true });
at("file").after(tools, field);
const tool = (text, onclick) => button({ onclick }, text);
const missingPython = python.missing();
let open = null; // {path, code}: the file in the editor

function textOf({ path, lines }) {
  const place = element("pre");
  place.innerHTML = lines.join("\n");
  return changed[path] ?? place.textContent;
}

// A file that can be changed: the script, or one with a forward, backward or update that ran.
const canChange = (file) => file === calls[0].file || calls.some((call) => call.file === file && /\.(forward|backward|update)$/.test(call.name));

function showTools() {
  const file = drawnFile, { path } = files[file];
  field.hidden = !open;
  at("source").hidden = Boolean(open);
  const buttons = open ? [tool("Record again", record), tool("Cancel", () => { open = null; showTools(); })]
    : [...(canChange(file) ? [tool("Change this file", edit)] : []), ...(path in changed ? [tool("Restore", asItWas)] : [])];
  const said = open && file !== calls[0].file ? "This is your copy of the file. Changes to a forward, backward or update take effect on this page only, not in the library." : "";
  tools.replaceChildren(...(missingPython ? [element("span", { class: "soft" }, missingPython)] : buttons), element("span", { class: "soft" }, said));
}

function edit() {
  const { path } = files[drawnFile];
  open = { path };
  showTools();
  open.code = editor(field, textOf(files[drawnFile]), record, { lines: 30 });
  open.code.goto(moments[now][LINE]);
  open.code.focus();
}

function asItWas() {
  delete changed[files[drawnFile].path];
  record();
}

async function record() {
  const line = moments[now][LINE], { path } = files[drawnFile];
  const texts = open ? { ...changed, [open.path]: open.code.get() } : changed;
  python.say(at("state"), "recording ...");
  tools.replaceChildren(tool("Stop", () => python.stop()));
  try {
    const found = await python.call("debugger.record", { name: data.name, sources: texts });
    if (found.error) throw new Error(found.error);
    Object.assign(changed, texts);
    open = null;
    load(found);
    runTo(files.findIndex((file) => file.path === path), line);
    at("state").textContent = "Recorded again.";
  } catch (error) {
    at("state").textContent = error.message;
    at("state").classList.toggle("error", error.message.includes("\n"));
  }
  showTools();
}

new MutationObserver(() => (open ? null : showTools())).observe(at("file"), { childList: true });
showTools();
