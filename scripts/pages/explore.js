// The explorer: every number comes from the model (explore_data.py), through the server that this page came from, or on
// the site from Python in this tab.
import { at, button, dataOfPage, element, shade, visible } from "./widgets/common.js";
import { SITE, python } from "./site/python.js";
const start = dataOfPage();
const main = document.querySelector("main");
// On the site an address may name the model and a text: ?model=mine is the one that train.js has kept.
if (SITE) Object.assign(start, Object.fromEntries(new URLSearchParams(location.search)));
// What is asked, and the last question that had an answer. A reload goes on with it: the browser keeps history.state.
let question = { text: start.text, ids: null, position: null, layer: 0, head: 0, heads: [], attention: [], mlps: [], edit: null, ...history.state };
let answered = question, answer = null, changes = 0, isAsking = false;

const percent = (p) => (p < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * p).toFixed(1)}\u00a0%`);
const hex = (sign) => `<U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`;
const shown = (token) => visible(token).replace(/[\p{C}\p{Z}]/gu, hex) || "∅"; // signs that cannot be seen, by number
const pressed = (isPressed) => ({ "aria-pressed": String(isPressed) });
const isSame = (a) => (b) => String(a) === String(b);
const toggled = (list, item) => (list.some(isSame(item)) ? list.filter((other) => !isSame(item)(other)) : [...list, item]);

// --- questions ---

// Ask with these changes. One that comes while the model computes waits, and only the last answer is shown.
async function ask(change) {
  question = { ...question, ...change };
  changes += 1;
  if (answer) draw();
  if (isAsking) return;
  isAsking = true;
  main.setAttribute("aria-busy", "true");
  if (!answer) at("state").textContent = "The model is reading the text. With a large model this takes a few seconds.";
  const typed = at("text").value;
  let number, found;
  do {
    number = changes;
    found = await answerTo(question);
  } while (number !== changes);
  isAsking = false;
  main.setAttribute("aria-busy", "false");
  main.classList.toggle("old", Boolean(found.error));
  at("state").textContent = found.error ? `${found.error}${answer ? " What you see below is the previous result." : ""}` : "";
  if (found.error) question = answered;
  else {
    if (question.ids !== answered.ids && at("text").value === typed) at("text").value = found.text;
    answer = found;
    keep({ ids: found.ids, position: found.position }); // from now on the tokens count, and not the text
  }
  main.hidden = !answer;
  if (answer) draw();
}

async function answerTo(asked) {
  try {
    const found = await (SITE ? inThisTab(asked) : fromServer(asked));
    return found.error ? { error: `This cannot be shown: ${found.error}. Change it and try again.` } : found;
  } catch ({ message }) {
    return { error: message };
  }
}

const NO_SERVER = "The server does not answer. Start scripts/explore.py again and open the address that it prints.";
function fromServer(asked) {
  const asJson = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) };
  return fetch("look", asJson).then((response) => response.json()).catch(() => { throw new Error(NO_SERVER); });
}

async function inThisTab(asked) {
  const { model } = start, missing = python.missing();
  if (missing) throw new Error(missing);
  const weights = { stories: "a GPT that was trained on stories (3 MB)", smollm2: "SmolLM2 (97 MB, once)" }[model];
  if (!answer) python.say(at("state"), at("state").textContent, ` and ${weights ? `the weights of ${weights}` : "your model"}`);
  return python.call("explore.look", { model, question: asked }, { model });
}

function keep(change) {
  answered = question = { ...question, ...change };
  history.replaceState(question, "");
}

// --- the page ---

function draw() {
  main.classList.toggle("changed", Boolean(answer.change));
  drawText();
  drawAlternatives();
  drawOff();
  drawLayers();
  drawHeads();
  drawMap();
  drawNumber();
}

// New contents, in which the button at the same place has the focus.
function fill(place, ...children) {
  const index = [...place.querySelectorAll("button")].indexOf(document.activeElement);
  place.replaceChildren(...children);
  if (index >= 0) place.querySelectorAll("button")[index]?.focus({ preventScroll: true });
}

function drawText() {
  const { tokens, surprise, change, position } = answer;
  const expected = (i) => (surprise[i] === null ? "the first token, which nothing predicts." : `surprise ${surprise[i].toFixed(2)} nats; the model gave it ${percent(Math.exp(-surprise[i]))}.`);
  const changed = (i) => (change ? ` What follows has changed by ${change[i].toFixed(3)} nats (KL).` : "");
  fill(at("tokens"), ...tokens.map((token, i) => button({
    ...pressed(i === question.position), title: expected(i) + changed(i), onclick: () => isCurrent() && ask({ position: i }),
    style: `${shade((surprise[i] ?? 0) / 10)}; border-bottom-width: ${1 + (change ? Math.min(change[i] * 6, 6) : 0)}px`,
  }, shown(token))));
  at("told").textContent = `${shown(tokens[position])}: ${expected(position)}${changed(position)}`;
  at("after").textContent = `After “${shown(tokens[position])}”`;
}

const isCurrent = () => question.ids === answer.ids; // no other text is on its way

function drawAlternatives() {
  const { alternatives } = answer;
  const largest = Math.max(...alternatives.flatMap((a) => [a.p, a.before ?? 0]));
  const bar = (p, kind) => element("span", { class: `bar ${kind}`, style: `width: ${(100 * p) / largest}%` });
  fill(at("alternatives"), ...alternatives.map((a) => element("tr", {},
    element("td", {}, button({ onclick: () => isCurrent() && branch(a.id) }, shown(a.text))),
    element("td", { class: "bars" }, bar(a.p, "now"), bar(a.before ?? 0, "before")),
    element("td", {}, percent(a.p)), element("td", { class: "if-off" }, a.before === undefined ? "" : percent(a.before)))));
}

// Go on with another token after the chosen one: what followed it is dropped.
function branch(id) {
  const ids = [...answer.ids.slice(0, answer.position + 1), id];
  ask({ ids, position: ids.length - 1, edit: null });
}

const KINDS = { heads: "head", attention: "attention", mlps: "MLP" };
const nameOf = (kind, item) => `${KINDS[kind]} ${String(item).replace(",", ".")}`;

function drawOff() {
  const { edit } = question;
  const off = Object.keys(KINDS).flatMap((kind) => question[kind].map((item) => button({ onclick: () => ask({ [kind]: toggled(question[kind], item) }), "aria-label": `switch ${nameOf(kind, item)} on` }, `${nameOf(kind, item)} ×`)));
  if (edit) off.push(button({ onclick: () => ask({ edit: null }), "aria-label": "undo the change of a number" }, `channel ${edit.channel} after layer ${edit.layer} is ${edit.value} ×`));
  const all = button({ onclick: () => ask({ heads: [], attention: [], mlps: [], edit: null }) }, "All on");
  fill(at("off"), ...(off.length ? ["Off: ", ...off, all] : [element("span", { class: "soft" }, "Everything is on.")]));
}

function drawLayers() {
  const toggle = (kind, item, text, where) => button({
    "aria-label": `switch off ${nameOf(kind, item)}`, ...pressed(question[kind].some(isSame(item))),
    onclick: () => ask({ [kind]: toggled(question[kind], item), ...where }),
  }, text);
  fill(at("layers").tBodies[0], ...answer.lens.map(([best], layer) => element("tr", { class: layer === question.layer ? "chosen" : "" },
    element("th", {}, button({ "aria-label": `layer ${layer}`, ...pressed(layer === question.layer), onclick: () => ask({ layer }) }, layer)),
    element("td", { style: shade(best.p) }, element("code", {}, shown(best.text)), " ", percent(best.p)),
    element("td", {}, toggle("attention", layer, "att", { layer }), toggle("mlps", layer, "MLP", { layer }),
      ...Array.from({ length: answer.attention.length }, (_, head) => toggle("heads", [layer, head], head, { layer, head }))))));
}

const isOff = (layer, head) => question.attention.includes(layer) || question.heads.some(isSame([layer, head]));

function drawHeads() {
  const { layer, attention } = answer;
  at("layer").textContent = `Attention in layer ${layer}`;
  fill(at("heads"), ...attention.map((weights, head) => button({
    "aria-label": `head ${layer}.${head}${isOff(layer, head) ? ", off" : ""}`, class: isOff(layer, head) && "off",
    ...pressed(head === question.head), onclick: () => (keep({ head }), draw()),
  }, thumbnail(weights), `head ${head}`)));
  at("edited").textContent = layer;
}

function thumbnail(weights) {
  const canvas = element("canvas", { width: weights.length, height: weights.length });
  const paint = canvas.getContext("2d");
  paint.fillStyle = `rgb(${getComputedStyle(document.body).getPropertyValue("--heat")})`;
  weights.forEach((row, i) => row.slice(0, i + 1).forEach((weight, j) => {
    paint.globalAlpha = Math.sqrt(weight);
    paint.fillRect(j, i, 1, 1);
  }));
  return canvas;
}

function drawMap() {
  const { attention, looks, tokens, position, layer } = answer, { head } = question;
  const weights = attention[head], block = Math.ceil(tokens.length / weights.length); // tokens that a cell stands for
  const name = (i) => shown(tokens[i * block]) + (block > 1 ? "…" : "");
  const most = looks[head].map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  at("head").textContent = `Head ${layer}.${head}${isOff(layer, head) ? " (off)" : ""}`;
  at("most").textContent = `${shown(tokens[position])} looks most at ${most.map(([weight, i]) => `${shown(tokens[i])} (${percent(weight)})`).join(", ")}.`;
  at("block").textContent = block > 1 ? `A cell is the largest of ${block} × ${block} weights.` : "";
  at("map").style.setProperty("--columns", weights.length);
  at("map").replaceChildren(
    element("tr", {}, element("th", {}, "looks at →", element("br"), "token ↓"), ...weights.map((_, j) => element("th", { scope: "col" }, element("span", {}, name(j))))),
    ...weights.map((row, i) => element("tr", { class: i === Math.floor(position / block) ? "chosen" : "" }, element("th", { scope: "row" }, name(i)),
      ...row.slice(0, i + 1).map((weight, j) => element("td", { style: shade(Math.sqrt(weight)), title: `${name(i)} looks at ${name(j)}: ${percent(weight)}` })))));
}

function drawNumber() {
  at("channel").max = answer.numbers.length - 1;
  at("number").textContent = answer.numbers[Number(at("channel").value)]?.toFixed(4) ?? "";
}

at("model").textContent = start.model === "mine" ? "your model" : `the model ${start.model}`;
at("text").value = question.text;
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask({ text: at("text").value, ids: null, position: null, edit: null });
});
at("text").addEventListener("keydown", (event) => (event.key === "Enter" && event.ctrlKey ? at("form").requestSubmit() : null));
at("channel").addEventListener("input", drawNumber);
at("edit").addEventListener("click", () => ask({ edit: { layer: answer.layer, position: answer.position, channel: Number(at("channel").value), value: Number(at("value").value) } }));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => answer && drawHeads());
ask({});
