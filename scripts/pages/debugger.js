// A debugger over a recording (stepping.py): moments, each in a call, before a line, with the names that had changed.
import { at, button, dataOfPage, decoded, element, show, sourceLine } from "./widgets/common.js";
import { listen, matrices, rowsOf } from "./step_page.js";
export const data = dataOfPage();
export const [CALL, LINE, CHANGES, RETURNED] = [0, 1, 2, 3]; // of a moment
export let calls, moments, values, arrays, files, marks, printed; // the recording
let momentsOf, everything, changesOf; // call -> its moments; all moments; array -> the moments after a change
export let now; // the moment that is shown
let chosen; // the call whose names are shown, if it is not the one that runs
let shown, isSeen, depth; // moments that are not left out; of each call: is it seen, and calls above it that are
export let drawnFile;

// Scroll the pane of a name, and not the page.
function bringIntoSight(place) {
  const pane = place?.closest(".of-names, .of-right-names");
  if (pane && (place.offsetTop < pane.scrollTop || place.offsetTop + place.offsetHeight > pane.scrollTop + pane.clientHeight)) pane.scrollTop = place.offsetTop - 40;
}

export function load(recording) {
  ({ calls, moments, values, arrays, files, marks, printed } = recording);
  momentsOf = calls.map(() => []);
  moments.forEach((moment, i) => momentsOf[moment[CALL]].push(i));
  everything = moments.map((_, i) => i);
  changesOf = new Map();
  const contents = new Map();
  moments.forEach(([, , changes], i) => {
    for (const [thing, content] of Object.values(changes).flatMap(arraysIn)) {
      if (!changesOf.has(thing)) changesOf.set(thing, []);
      else if (contents.get(thing) !== content) changesOf.get(thing).push(i);
      contents.set(thing, content);
    }
  });
  [now, chosen, drawnFile] = [0, null, null];
  decoded.clear();
  for (const name of ["op", "engine"]) at(name).closest("label").hidden = !calls.some(({ part }) => part === name);
  at("marks").replaceChildren(...at("marks").querySelectorAll(".kept"), ...marks.map(([text, moment]) => button({ onclick: () => go(moment) }, text)));
  leaveOut();
  draw();
}

// --- which moments ---

function leaveOut() {
  isSeen = calls.map(({ part }) => !part || at(part).checked);
  depth = [];
  calls.forEach(({ parent }, i) => { depth[i] = parent < 0 ? 0 : depth[parent] + Number(isSeen[parent]); });
  shown = moments.flatMap(([call], i) => (isSeen[call] ? [i] : []));
  at("time").max = shown.length - 1;
}

const fileOf = (call) => files[calls[call].file];
const reveal = (call) => { // what is found where the reader has not looked is shown all the same
  const { part } = calls[call];
  if (!part || at(part).checked) return "";
  at(part).checked = true;
  leaveOut();
  return part === "op" ? "The ops are shown now." : "The engine is shown now.";
};

// The next moment, or with by = -1 the last one before, for which a condition holds; among those that are shown.
function find(by, holds, among = shown) {
  const start = by > 0 ? among.findIndex((i) => i > now) : among.findLastIndex((i) => i < now);
  for (let i = start; i >= 0 && i < among.length; i += by) if (holds(among[i])) return among[i];
  return null;
}

// --- steps ---

function go(moment, said = "") {
  at("state").textContent = said;
  at("state").classList.remove("error");
  if (moment !== null) [now, chosen] = [moment, null];
  draw();
}

// Go on or back, or say why not.
function move(by, holds, why) {
  const found = find(by, holds);
  go(found, found === null ? why : "");
}

const depthOf = (moment) => depth[moments[moment][CALL]];
const step = {
  into: () => move(1, () => true, "This is the end."),
  back: () => move(-1, () => true, "This is the beginning."),
  over: () => move(1, (i) => depthOf(i) <= depthOf(now), "This is the end."),
  "back-over": () => move(-1, (i) => depthOf(i) <= depthOf(now), "This is the beginning."),
  out: () => move(1, (i) => depthOf(i) < depthOf(now), "Nothing here has called the script."),
};

export function runTo(file, line) {
  if (files[file] === fileOf(moments[now][CALL]) && moments[now][LINE] === line) return go(now, "This line runs next.");
  const isThere = (i) => calls[moments[i][CALL]].file === file && moments[i][LINE] === line;
  const later = find(1, isThere), earlier = later ?? find(-1, isThere);
  go(earlier, later !== null ? "" : earlier !== null ? "It does not run after this: you have gone back to the last time that it did." : "This line did not run.");
}

// The arrays in a value: [thing, content].
function arraysIn(value) {
  const { array, of, parts } = values[value] ?? {};
  if (array !== undefined) return [[of, array]];
  return parts ? Object.values(parts).flatMap(arraysIn) : [];
}

// To where a name of a call has got another value, or an array in it other numbers, next or last before.
function change(by, call, name, value) {
  const given = momentsOf[call].filter((i) => name in moments[i][CHANGES]).slice(1);
  const all = new Set([...given, ...arraysIn(value).flatMap(([thing]) => changesOf.get(thing))]);
  const found = find(by, (i) => all.has(i), everything);
  if (found === null) return go(null, `Nothing changes ${name} ${by > 0 ? "after" : "before"} this moment.`);
  // The line that ran before this moment did it, if the same call had held the name or the array before.
  const where = moments[found][CALL], before = momentsOf[where].findLast((i) => i < found);
  const things = arraysIn(value).map(([thing]) => thing), held = before === undefined ? [] : namesAt(where, before);
  const isSure = where === call || held.some(([, other]) => arraysIn(other).some(([thing]) => things.includes(thing)));
  go(found, `${isSure && before !== undefined ? `Line ${moments[before][LINE]} has changed it.` : "It has changed before this."} ${reveal(where)}`.trim());
}

function search(text) {
  const has = (i) => {
    const [call, , changes] = moments[i];
    const names = Object.entries(changes).flatMap(([name, value]) => [name, ...Object.keys(values[value]?.parts ?? {})]);
    return names.includes(text) || (momentsOf[call][0] === i && calls[call].name.split(".").includes(text));
  };
  const later = find(1, has, everything), found = later ?? everything.find(has) ?? null;
  go(found, found === null ? `Nothing here is called ${text}.` : [later === null ? "From the beginning again." : "", reveal(moments[found][CALL])].join(" ").trim());
}

// --- the page ---

// The calls that are running at a moment, the innermost first: [call, the last of its moments].
function stackAt(moment) {
  const stack = [];
  for (let call = moments[moment][CALL]; call >= 0; call = calls[call].parent) {
    if (isSeen[call]) stack.push([call, momentsOf[call].findLast((i) => i <= moment)]);
  }
  return stack;
}

// The names of a call at one of its moments: name -> value.
function namesAt(call, moment) {
  const names = {};
  for (const i of momentsOf[call]) {
    if (i > moment) break;
    Object.assign(names, moments[i][CHANGES]);
  }
  return Object.entries(names).filter(([, value]) => value >= 0);
}

const nameOf = (call) => (calls[call].name === "<module>" ? "the script" : calls[call].name);

// The calls of the same function of an op.
const alike = (name) => calls.flatMap((call, i) => (call.name === name && call.part === "op" ? [i] : []));

function draw(choice = chosen) {
  chosen = choice;
  const stack = stackAt(now), [call, moment] = stack.find(([other]) => other === chosen) ?? stack[0];
  drawSource(call, moments[moment][LINE], moments[momentsOf[call].findLast((i) => i < moment)]?.[LINE]);
  at("stack").replaceChildren(...stack.map(([other, last]) => {
    const where = element("span", { class: "soft" }, `${fileOf(other).path}:${moments[last][LINE]}`);
    return element("li", {}, button({ "aria-pressed": String(other === call), onclick: () => draw(other) }, `${nameOf(other)} `, where));
  }));
  const half = calls[call].name.match(/^\w+\.(forward|backward)$/) && calls[call].part === "op";
  at("card").replaceChildren(half && data.ops ? element("a", { href: `${data.ops}#${calls[call].name},${alike(calls[call].name).indexOf(call)}` }, "This op as a card") : "");
  at("whose").textContent = `Names in ${nameOf(call)}`;
  const changed = momentsOf[call][0] === moment ? {} : moments[moment][CHANGES], returned = moments[moment][RETURNED];
  const held = namesAt(call, moment), withArrays = held.filter(([, value]) => arraysIn(value).length), others = held.filter(([, value]) => !arraysIn(value).length);
  const rows = [...withArrays, ...others].map(([name, value]) => named(call, name, value, name in changed));
  if (returned !== undefined) rows.unshift(named(call, "returns", returned, true));
  at("names").replaceChildren(...(rows.length ? rows : [element("p", { class: "soft" }, "None yet.")]));
  bringIntoSight(at("names").querySelector(".new"));
  at("printed").textContent = printed.filter(([before]) => before < now).map(([, text]) => text).join("");
  at("time").value = Math.max(shown.findLastIndex((i) => i <= now), 0);
  at("time").setAttribute("aria-valuetext", `${fileOf(call).path}, line ${moments[moment][LINE]}`);
  if (data.beside) drawBeside();
  const mark = marks.findLast(([, first]) => first <= now);
  for (const button of at("marks").children) button.setAttribute("aria-pressed", String(mark !== undefined && button.textContent === mark[0]));
}

function drawSource(call, line, before) {
  const { file } = calls[call], place = at("source");
  at("file").replaceChildren(sourceLine(files[file].path, line, files[file].path));
  if (drawnFile !== file) {
    place.innerHTML = rowsOf(files[file].lines);
    drawnFile = file;
  }
  for (const old of place.querySelectorAll(".now, .ran")) old.classList.remove("now", "ran");
  if (before) place.children[before - 1].classList.add("ran");
  const row = place.children[line - 1];
  row.classList.add("now");
  const top = row.offsetTop - place.offsetTop;
  if (top < place.scrollTop + 40 || top > place.scrollTop + 0.6 * place.clientHeight) place.scrollTop = top - place.clientHeight / 3;
}

function named(call, name, value, isNew) {
  const things = name === "returns" ? [] : arraysIn(value);
  const follow = (by, sign, text) => button({ title: `${text} line that changes ${name}`, "aria-label": `${text} line that changes ${name}`, onclick: () => change(by, call, name, value) }, sign);
  return element("section", { class: `name${isNew ? " new" : ""}` }, element("h3", {}, name, " ", ...(things.length && value >= 0 ? [follow(-1, "◂", "the last"), follow(1, "▸", "the next")] : [])), whole(value));
}

function whole(value, from = { values, arrays }) {
  const { text, array, parts } = from.values[value];
  if (array !== undefined) return numbers(from.arrays[array]);
  if (!parts) return element("code", {}, text);
  return element("div", {}, element("span", { class: "soft" }, text), ...Object.entries(parts).map(([name, part]) => element("div", { class: "part" }, element("span", {}, `${name}: `), whole(part, from))));
}

// A right solution at the same point, beside an exercise (exercise_steps.py).
function drawBeside() {
  const { recording, places, differs, line } = data.beside, place = places[now], [call, row, , returned] = recording.moments[place];
  const held = Object.assign({}, ...recording.moments.slice(0, place + 1).filter((moment) => moment[CALL] === call).map((moment) => moment[CHANGES]));
  const rows = Object.entries({ ...(returned === undefined ? {} : { returns: returned }), ...held }).filter(([, value]) => value >= 0);
  at("right").innerHTML = rowsOf(recording.files[0].lines, row);
  at("right").scrollTop = at("right").children[row - 1].offsetTop - at("right").offsetTop - at("right").clientHeight / 3;
  at("right-names").replaceChildren(...rows.map(([name, value]) => element("section", { class: `name${name === data.beside.name ? " differing" : ""}` }, element("h3", {}, name), whole(value, recording))));
  bringIntoSight(at("right-names").querySelector(".differing"));
  if (line) at("source").children[line - 1].classList.add("differs");
  at("differs").textContent = differs === null ? "Every name that both have holds the same value: look for what is missing." : `The first line with a different result is underlined: ${data.beside.name} differs.`;
}

function numbers(array) {
  const { shape, dtype, corner, range } = array;
  const cells = matrices(array, (x, style) => element("td", { style }, dtype === "bool" ? String(Boolean(x)) : show(x)));
  const left = corner ? `, ${range.map((end) => (typeof end === "number" ? show(end) : end)).join(" to ")}; its first ${corner.join(" × ")} numbers` : "";
  return element("div", {}, element("span", { class: "soft" }, `${dtype} (${shape.join(", ")})${left}`), element("div", { class: "tables scroll", tabindex: 0 }, ...cells));
}

// --- what a reader does ---

for (const [name, f] of Object.entries(step)) at(name).addEventListener("click", f);
for (const name of ["op", "engine"]) {
  at(name).addEventListener("change", () => {
    leaveOut();
    go(isSeen[moments[now][CALL]] ? now : find(-1, () => true) ?? shown[0]);
  });
}
at("time").addEventListener("input", () => go(shown[Number(at("time").value)]));
at("find").addEventListener("keydown", (event) => (event.key === "Enter" && at("find").value.trim() ? search(at("find").value.trim()) : null));
at("source").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row && String(getSelection()) === "") runTo(drawnFile, Number(row.dataset.line));
});
listen({
  ArrowRight: step.into, F11: step.into, ArrowLeft: step.back, ArrowDown: step.over, F10: step.over, ArrowUp: step["back-over"],
  o: step.out, "Shift+F11": step.out, Home: () => go(shown[0]), End: () => go(shown.at(-1)),
});
at("how").open = innerWidth > 768; // a phone has no room for it
if (data.beside) {
  document.querySelector("main").classList.add("beside");
  at("marks").append(...(data.beside.differs === null ? [] : [button({ class: "kept", onclick: () => go(data.beside.differs) }, "the first difference")]));
}
load(data);
const [, name, number] = location.hash.match(/^#([\w.]+),(\d+)$/) ?? [];
const asked = alike(name)[number];
if (asked !== undefined) go(momentsOf[asked][0]);
if (data.beside?.differs) go(data.beside.differs);
