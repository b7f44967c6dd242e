// Python for a page of the site: `await python.call("cells.run", {...})`, and `python.stop()`.
import { element } from "../widgets/common.js";
export const SITE = document.querySelector("nav.site a")?.href.replace(/[^/]*$/, ""); // where service.js and worker.js are; undefined where the page is not of the site
const PATIENCE = 3000; // milliseconds until a call that does not stop is ended with its worker

export const python = {
  worker: null,
  calls: new Map(), // number -> {resolve, reject, said}
  number: Date.now() % 1e9, // other tabs have other numbers

  // Why there is no Python here, or "".
  missing() {
    if (!location.protocol.startsWith("http")) return "This page was opened as a file: you can read it, but not run it. To run it: python scripts/site.py --fetch --serve";
    if (typeof WebAssembly !== "object" || !navigator.serviceWorker) return "This browser has no WebAssembly or no service workers, so it cannot run Python. You can still read the page.";
    return "";
  },

  // Say in a place of the page what is being done, or, until Python is there, that it is loading.
  say(place, doing, and = "") {
    const waiting = `Loading Python (12 MB, once)${and} ...`;
    place.textContent = this.isReady ? doing : waiting;
    this.begin().then(() => { if (place.textContent === waiting) place.textContent = doing; }, () => {}); // call() tells the error
  },

  // Start Python if nobody has. What fails is tried again at the next call: perhaps the network is back.
  begin() {
    this.started ??= this.start().catch((error) => {
      this.started = null;
      throw new Error(`Python could not be loaded (${error.message}): check the connection and try again.`);
    });
    return this.started;
  },

  async start() {
    await navigator.serviceWorker.register(`${SITE}service.js`);
    const { active } = await navigator.serviceWorker.ready;
    if (!navigator.serviceWorker.controller) { // at the first visit, and after Ctrl-Shift-R
      const controlled = new Promise((now) => navigator.serviceWorker.addEventListener("controllerchange", now, { once: true }));
      active.postMessage({ claim: true });
      await controlled;
    }
    this.worker = new Worker(`${SITE}worker.js`);
    return new Promise((ready, failed) => {
      this.worker.onmessage = ({ data }) => {
        if (data.ready) {
          this.isReady = true;
          ready();
        }
        else if (data.failed) failed(new Error(data.failed));
        else this.heard(data);
      };
      this.worker.onerror = (event) => failed(new Error(event.message));
    });
  },

  heard({ number, said, result, error }) {
    const call = this.calls.get(number);
    if (!call) return;
    if (said !== undefined) return call.said(said);
    this.calls.delete(number);
    if (error === undefined) call.resolve(result);
    else call.reject(new Error(error));
  },

  async call(call, given, { said = () => {}, packages = [], model = null } = {}) {
    this.isStopped = false;
    await this.begin();
    if (this.isStopped) throw new Error("stopped before it started");
    this.number += 1;
    const number = this.number;
    return new Promise((resolve, reject) => {
      this.calls.set(number, { resolve, reject, said });
      this.worker.postMessage({ number, call, given, packages, model });
    });
  },

  // Interrupt what runs, as Ctrl-C does. Returns whether what was defined is still there.
  async stop() {
    this.isStopped = true; // what waits for Python does not begin
    const running = [...this.calls.keys()];
    for (const stop of running) navigator.serviceWorker.controller?.postMessage({ stop });
    await new Promise((later) => setTimeout(later, PATIENCE));
    if (!running.some((number) => this.calls.has(number))) return true;
    this.worker.terminate();
    [this.started, this.isReady] = [null, false];
    for (const number of this.calls.keys()) this.heard({ number, error: "Python had to be stopped, and everything that it had defined is gone." });
    return false;
  },
};

// What an error of a call says, without the traceback.
export const lastLine = ({ message }) => message.trim().split("\n").pop().replace(/^[\w.]+(Error|Exception): /, "");

// An editor in a place: Ace if it can be loaded, with Tab and Escape as its keyboard help says; else a text field.
// Shift-Enter and Ctrl-Enter call run().
// fold: what stands in the place of the text's docstring; lines: the most that are shown at once.
export function editor(place, text, run, { fold = "", lines = 200 } = {}) {
  const field = element("textarea", { spellcheck: "false", "aria-label": "code", rows: text.split("\n").length + 1 }, text);
  field.value = text;
  if (!window.ace) {
    place.replaceChildren(field);
    return { focus: () => field.focus(), goto: () => {}, get: () => field.value, set: (value) => { field.value = value; }, onchange: (f) => field.addEventListener("input", f) };
  }
  const div = element("div");
  place.replaceChildren(div);
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const made = ace.edit(div, {
    mode: "ace/mode/python", theme: dark ? "ace/theme/tomorrow_night" : "ace/theme/textmate", value: text, minLines: 2, maxLines: lines,
    fontSize: 14, useWorker: false, showPrintMargin: false, enableKeyboardAccessibility: true, wrap: true,
  });
  div.style.lineHeight = 1.5; // with less, some fonts lose their underscores
  made.renderer.updateFontSize();
  made.commands.addCommand({ name: "run", bindKey: "Shift-Enter|Ctrl-Enter|Command-Enter", exec: run });
  const end = text.indexOf('"""\n', 3); // what the file begins with stands above the editor already
  if (fold && text.startsWith('"""') && end > 0) {
    const { Range } = ace.require("ace/range"), last = text.slice(0, end).split("\n").length - 1;
    made.session.addFold(fold, new Range(0, 3, last, 0));
  }
  return { focus: () => made.focus(), goto: (line) => made.gotoLine(line, 0, false), get: () => made.getValue(), set: (value) => made.setValue(value, -1), onchange: (f) => made.on("change", f) };
}
