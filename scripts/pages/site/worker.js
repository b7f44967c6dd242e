// Python in a Web Worker. {number, call, given, packages, model} calls a function (in_browser.py) once the packages and
// the model are there. It may say things, {number, said}, and ends with {number, result} or {number, error}.
importScripts("pyodide/pyodide.js");
const ASK_EVERY = 200; // milliseconds between two questions whether to stop
const TELL_EVERY = 100; // milliseconds, at least, between two messages of what was printed
const SIGINT = 2;
let current = 0, asked = 0;

// Pyodide looks here, every few lines of Python, whether to stop. A static host has no memory that a page shares with
// its worker, so the question goes to the service worker, which the page has told (service.js).
const interrupt = new Proxy([0], {
  get: (target, name) => (name === "0" ? signal() : Reflect.get(target, name)),
  set: () => true,
});

function signal() {
  if (performance.now() - asked < ASK_EVERY) return 0;
  asked = performance.now();
  return isStopped(current) ? SIGINT : 0;
}

function isStopped(number) {
  const question = new XMLHttpRequest();
  question.open("GET", `stop/${number}`, false);
  try {
    question.send();
  } catch {
    return false; // offline, and without the service worker
  }
  return question.status === 200 && question.responseText === "yes";
}

async function start() {
  const python = await loadPyodide({ indexURL: "pyodide/" });
  await python.loadPackage(["numpy", "threadpoolctl"], { messageCallback: () => {} });
  const project = await (await fetch("project.zip")).arrayBuffer();
  python.unpackArchive(project, "zip", { extractDir: "/project" });
  python.runPython("import sys; sys.path.insert(0, '/project')");
  python.setInterruptBuffer(interrupt);
  return { python, calls: python.pyimport("scripts.pages.site.in_browser") };
}

// A model of the site, or the one that this visitor has trained: its folder, as /models/NAME.
async function fetchModel(python, name) {
  const folder = `/models/${name}`;
  if (python.FS.analyzePath(folder).exists) return;
  const response = await fetch(`models/${name}.zip`);
  if (!response.ok) throw new Error(`There is no model "${name}" here.`);
  python.unpackArchive(await response.arrayBuffer(), "zip", { extractDir: folder });
}

const started = start();
started.then(() => postMessage({ ready: true }), (error) => postMessage({ failed: String(error) }));

onmessage = async ({ data: { number, call, given, packages, model } }) => {
  const { python, calls } = await started;
  const decoder = new TextDecoder();
  let text = "", told = 0;
  const tell = () => {
    if (text) postMessage({ number, said: text });
    [text, told] = ["", performance.now()];
  };
  const say = (bytes) => { // a page that is told of every line of a loop without end has no time for its Stop
    text += decoder.decode(bytes, { stream: true });
    if (performance.now() - told > TELL_EVERY) tell();
    return bytes.length;
  };
  try {
    await python.loadPackage(packages, { messageCallback: () => {} });
    if (model) await fetchModel(python, model);
    current = number;
    python.setStdout({ write: say });
    const result = JSON.parse(calls.answer(call, JSON.stringify(given)));
    tell();
    postMessage({ number, result });
  } catch (error) {
    tell();
    postMessage({ number, error: String(error.message ?? error) });
  }
};
