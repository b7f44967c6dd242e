// An exercise: an editor with the stub, and the checker. Code and progress stay in this browser, and leave it as a zip only.
const { name, file, stub } = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const at = (id) => document.getElementById(id);
const KEPT = "minigrad exercises";
const read = () => JSON.parse(localStorage.getItem(KEPT) ?? '{"files": {}, "state": {}}');
const NEEDS = { packages: ["hypothesis"] };
const LONGEST = 30_000; // milliseconds for a check

function keep(change) {
  const kept = read();
  change(kept);
  localStorage.setItem(KEPT, JSON.stringify(kept));
}

async function ask(command) {
  const before = at("said").textContent;
  python.say(at("said"), `${command} ...`);
  let clock;
  try {
    await python.call("exercise.ready", {}, NEEDS); // Python is there now
    clock = setTimeout(() => python.stop(), LONGEST);
    const answer = await python.call("exercise.ask", { command, name, text: code.get(), state: read().state }, NEEDS);
    keep((kept) => { kept.state = answer.state; });
    at("said").textContent = command === "hint" ? `${answer.said}\n\n${before}` : answer.said;
    showPassed(answer.passed);
    if (answer.html) open(URL.createObjectURL(new Blob([answer.html], { type: "text/html" })));
    at("said").scrollIntoView({ block: "nearest" });
  } catch (error) {
    at("said").textContent = error.message;
  } finally {
    clearTimeout(clock);
  }
}

function showPassed(passed) {
  at("said").classList.toggle("passed", passed);
  at("passed").hidden = !passed;
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
  at("said").textContent = `${Object.keys(found.files).length} files were taken from the zip.`;
}

const missing = python.missing();
const code = editor(at("editor"), read().files[file] ?? stub, () => ask("check"), { fold: "the exercise, as above" });
showPassed(name in (read().state.passed ?? {}));
code.onchange(() => keep((kept) => { kept.files[file] = code.get(); }));
if (missing) at("said").textContent = missing;
else {
  for (const command of ["check", "hint", "steps", "solution"]) at(command).addEventListener("click", () => ask(command));
  at("reset").addEventListener("click", () => (confirm("Begin again with the stub?") ? code.set(stub) : null));
  at("stop").addEventListener("click", () => python.stop());
  at("download").addEventListener("click", download);
  at("upload").addEventListener("change", takeUp);
  python.started = python.start();
}
