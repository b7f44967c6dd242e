// Training: Python in this tab (train.py) does some steps a call; between calls it can be paused or told another rate.
import { at, dataOfPage, element, slider } from "../widgets/common.js";
import { SITE, lastLine, python } from "./python.js";
const start = dataOfPage();
const SECONDS = 0.5; // of training in a call
const SMOOTH = 10; // steps whose mean loss is drawn and told
const LARGEST = 4e6; // bytes of a file
const LOADING = "Loading Python (12 MB, once).";
const BASELINES = { uniform: "knows nothing", unigram: "unigrams", bigram: "bigrams" };
let runs = []; // this one, and the one before: what train.begin said, and all that train.go has told since
let isTraining = false, loop = Promise.resolve(), calls = 0;

const say = (text) => { at("state").textContent = text; };
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
const recent = (losses, end) => mean(losses.slice(Math.max(0, end - SMOOTH), end));
const written = (rate) => String(Number(rate.toPrecision(2)));
const rate = slider("Learning rate", { min: -4, max: -1, step: 0.1, value: -2.3 }, (power) => written(10 ** power), () => {});

// --- a run ---

async function begin() {
  pause();
  at("begin").disabled = true;
  try {
    await loop;
    at("pause").disabled = true;
    say(python.isReady ? "Learning the vocabulary ..." : `${LOADING} Then training starts.`);
    const text = at("text").value, size = new FormData(at("form")).get("size"), number = ++calls;
    const run = { number, text, size, rates: [], losses: [], held_out: [], samples: [], ...await python.call("train.begin", { run: number, text, size }) };
    runs = [run, ...runs.filter((other) => other.text === text)].slice(0, 2);
    at("learned").hidden = false;
    at("prompt").textContent = run.prompt.replace(/["\\$`\n]/g, " ");
    at("samples").replaceChildren();
    loop = go();
    if (at("plot").getBoundingClientRect().bottom > innerHeight) at("rate").scrollIntoView();
  } catch (error) {
    say(lastLine(error));
    at("pause").disabled = !runs.length; // the run before is still there
  }
  at("begin").disabled = false;
}

// The call of train.go that runs now is the last one.
function pause() {
  isTraining = false;
  at("pause").disabled = true;
}

async function go() {
  const [run] = runs;
  isTraining = true;
  at("pause").disabled = false;
  at("pause").textContent = "Pause";
  say(`Training on ${run.tokens.toLocaleString("en")} tokens, ${run.vocabulary} different ones; ${run.held.toLocaleString("en")} more are held out.`);
  try {
    while (isTraining) {
      const lr = 10 ** rate.get();
      if (run.rates.at(-1)?.[1] !== lr) run.rates.push([run.losses.length, lr]);
      take(run, await python.call("train.go", { run: run.number, seconds: SECONDS, lr }));
    }
    say(`Paused at step ${run.losses.length}.`);
  } catch (error) {
    say(lastLine(error));
  }
  pause();
  at("pause").textContent = "Resume";
  at("pause").disabled = false;
}

function take(run, { losses, held_out, samples, seconds }) {
  run.losses.push(...losses);
  run.held_out.push(...held_out);
  run.seconds = seconds;
  for (const [step, text] of samples) at("samples").prepend(element("li", {}, element("span", { class: "soft" }, `step ${step}: `), text.replace(/\n+/g, "\n")));
  draw();
}

// --- the plot ---

function draw() {
  const place = at("plot"), width = Math.max(place.clientWidth, 280), height = 320, left = 34, right = 128, bottom = 38, top = 6;
  const [run] = runs, baselines = run?.baselines ?? {};
  const lastStep = Math.max(50, ...runs.map(({ losses }) => losses.length));
  const highest = 1.08 * Math.max(run ? 1 : 6, ...Object.values(baselines), ...runs.map(({ losses }) => Math.max(recent(losses, SMOOTH) || 0, recent(losses, losses.length) || 0)));
  const x = (step) => left + (step / lastStep) * (width - left - right), y = (loss) => top + (1 - loss / highest) * (height - top - bottom);
  const text = (words, attributes) => element("text", attributes, words);
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": run ? `Loss by step. ${told(run)}` : "Loss by step; no run yet" });
  for (const loss of ticks(highest, 6)) svg.append(element("line", { x1: left, x2: width - right, y1: y(loss), y2: y(loss) }), text(loss, { x: left - 6, y: y(loss) + 4, "text-anchor": "end" }));
  for (const step of ticks(lastStep, (width - right) / 70)) svg.append(text(step, { x: x(step), y: height - bottom + 16, "text-anchor": "middle" }));
  svg.append(text("step", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }), text("loss, nats per token", { x: left + 4, y: height - bottom - 6 }));
  runs.map((one, i) => [one, i ? "before" : "now"]).reverse().forEach(([{ losses, held_out }, kind]) => {
    const every = Math.ceil(losses.length / width), ends = losses.map((_, i) => i + 1).filter((end) => end % every === 0 || end === losses.length);
    svg.append(path(ends.map((end) => [x(end), y(Math.min(recent(losses, end), highest))]), `${kind} thin`));
    svg.append(path(held_out.map(([step, loss]) => [x(step), y(Math.min(loss, highest))]), kind));
  });
  let lowest = -Infinity; // of the labels so far: the next is below it
  for (const [name, loss] of Object.entries(baselines).sort((a, b) => b[1] - a[1])) {
    lowest = Math.max(y(loss) + 4, lowest + 16);
    svg.append(element("line", { class: "baseline", x1: left, x2: width - right, y1: y(loss), y2: y(loss) }), text(`${BASELINES[name]} ${loss.toFixed(2)}`, { x: width - right + 5, y: lowest }));
  }
  place.replaceChildren(svg);
  at("runs").tBodies[0].replaceChildren(...runs.map((one, i) => element("tr", {}, element("td", {}, element("i", { class: i ? "cold" : "heat" }), ` ${settings(one)}`),
    ...[one.losses.length, number(recent(one.losses, one.losses.length)), number(one.held_out.at(-1)?.[1]), number(one.seconds)].map((value) => element("td", {}, value)))));
}

const path = (points, kind) => element("path", { class: kind, d: points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("") });
const number = (value) => (Number.isFinite(value) ? value.toFixed(2) : "");
const told = ({ losses, held_out }) => `After ${losses.length} steps: ${number(recent(losses, losses.length))} in training, ${number(held_out.at(-1)?.[1])} on held-out text.`;
const settings = ({ size, parameters, rates }) => `${size}, ${parameters.toLocaleString("en")} parameters, rate ${rates.map(([step, lr], i) => written(lr) + (i ? ` from step ${step}` : "")).join(", ")}`;

// About `count` round numbers from 0 to a limit.
function ticks(limit, count) {
  const power = 10 ** Math.floor(Math.log10(limit / count));
  const step = power * [1, 2, 5, 10].find((factor) => limit / (factor * power) <= count);
  return Array.from({ length: Math.floor(limit / step) + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}

// --- the text, and the model ---

async function read(file) {
  try {
    if (file.size > LARGEST) throw new Error(`${file.name} is ${(file.size / 1e6).toFixed(0)} MB; choose a text of at most a million characters.`);
    at("text").value = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    say("");
  } catch (error) {
    say(error instanceof TypeError ? `${file.name} is not UTF-8 text: save it as UTF-8.` : error.message);
  }
  count();
}

function count() {
  at("length").textContent = `${at("text").value.length.toLocaleString("en")} characters.`;
}

async function packed() {
  const { base64 } = await python.call("train.pack", { run: runs[0].number });
  return new Blob([Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0))], { type: "application/zip" });
}

async function download() {
  const href = URL.createObjectURL(await packed());
  element("a", { href, download: "my_model.zip" }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

// The explorer's worker asks for models/mine.zip, and service.js answers from any cache.
async function look() {
  const tab = open("", "_blank"); // at once: after a wait, browsers take it for an unwanted one
  try {
    await (await caches.open("my models")).put(`${SITE}models/mine.zip`, new Response(await packed()));
    tab.location = `../explore/index.html?${new URLSearchParams({ model: "mine", text: runs[0].beginning })}`;
  } catch (error) {
    tab.close();
    throw error;
  }
}

const orSay = (action) => () => action().catch((error) => say(lastLine(error)));
at("text").value = start.text;
at("rate").append(rate.label);
start.sizes.forEach(({ name, parameters, seconds }, i) => at("sizes").append(element("label", {}, element("input", { type: "radio", name: "size", value: name, checked: i === 1 }),
  ` ${name}: `, element("span", { class: "soft" }, `${parameters.toLocaleString("en")} parameters, 100 steps in\u00a0${seconds}\u00a0s`))));
at("form").addEventListener("submit", (event) => (event.preventDefault(), begin()));
at("pause").addEventListener("click", () => { if (isTraining) pause(); else loop = go(); });
at("text").addEventListener("input", count);
at("file").addEventListener("change", () => at("file").files[0] && read(at("file").files[0]));
at("text").addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
at("text").addEventListener("drop", (event) => event.dataTransfer.files[0] && (event.preventDefault(), read(event.dataTransfer.files[0])));
at("look").addEventListener("click", orSay(look));
at("download").addEventListener("click", orSay(download));
addEventListener("beforeunload", (event) => runs.length && event.preventDefault()); // asks whether to leave the run
new ResizeObserver(draw).observe(at("plot"));
count();
if (python.missing()) {
  say(python.missing());
  at("begin").disabled = true;
} else {
  say(`${LOADING} Meanwhile, choose a size.`);
  python.begin().then(() => { python.isReady = true; if (!calls) say("Python is ready: press Start."); }, (error) => say(lastLine(error)));
}
