// The chat: SmolLM2 answers in this tab (chat.py).
import { at, button, element, shade, visible } from "../widgets/common.js";
import { python } from "./python.js";
import { fetchWeights, isKept, megabytes, sentence, start } from "./weights.js";
const TO_READ = 0.13; // seconds for a token of a question (measured)
const SUGGESTED = ["What is the capital of France?", "Who wrote Hamlet?", "What is the opposite of hot?"];
let loaded = null; // a promise of the model
let tokens = []; // of the last answer: for each the likeliest in its place, {id, text, p, chosen}

const say = (text) => { at("state").textContent = text; };
const tell = (error) => say(sentence(error));
const percent = (p) => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;

async function begin() {
  at("fetch").disabled = true;
  try {
    await fetchWeights();
    at("first").hidden = true;
    at("form").hidden = at("inside").hidden = false;
    at("question").focus();
    load().catch(tell);
    await python.begin().catch(() => {}); // now service.js serves this page, and keeps it for a visit without network:
    fetch(location.href).catch(() => {});
  } catch (error) {
    at("fetched").role = "alert";
    at("fetched").textContent = error.message;
    at("fetch").disabled = false;
  }
}

const beginTalk = () => python.call("chat.begin", { model: "smollm2" }, { model: "smollm2" });

function load() {
  if (!loaded) python.say(at("state"), "Loading the model ...");
  loaded ??= beginTalk().then(() => say("SmolLM2 is ready."), (error) => { loaded = null; throw error; });
  return loaded;
}

// --- the conversation ---

// Do what Python does next. Meanwhile nothing else can be asked.
async function busy(action) {
  at("send").disabled = at("new").disabled = true;
  await load().then(action).catch(tell);
  at("send").disabled = at("new").disabled = false;
  at("stop").disabled = true;
}

async function ask(question, turn) {
  const began = performance.now(), seed = Math.floor(1e6 * Math.random());
  const said = (lines) => {
    const found = lines.trim().split("\n").map(JSON.parse);
    if (Number.isInteger(found[0])) say(`Reading ${found[0]} tokens, about ${Math.ceil(found.shift() * TO_READ)} s ...`);
    if (found.length) say("Writing ...");
    tokens.push(...found.map(([, token]) => token));
    turn.lastChild.append(...found.map(([piece]) => piece));
    turn.scrollIntoView({ block: "nearest" });
  };
  say("Reading ...");
  at("stop").disabled = false;
  const { forgotten, cut } = await python.call("chat.answer", { question, seed }, { said });
  say(python.isStopped ? "Stopped." : `${tokens.length} tokens in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
  if (cut) at("state").append(` The answer was cut off at ${cut} tokens.`);
  if (forgotten) at("state").append(` The context is full: the ${forgotten} oldest messages are forgotten.`);
}

// The tokens of an answer, and for the selected one what else was likely in its place.
function inside(all) {
  const table = element("table", { "aria-live": "polite" });
  const show = (token, place) => {
    for (const button of row.children) button.setAttribute("aria-pressed", String(button === place));
    table.replaceChildren(...token.map(({ text, p, chosen }) => element("tr", {}, element("td", { class: "token" },
      visible(text)), element("td", { style: shade(p) }, percent(p), chosen ? ", chosen" : ""))));
    table.scrollIntoView({ block: "nearest" });
  };
  const row = element("div", { class: "tokens" }, ...all.map((token) => {
    const { text, p } = token.find(({ chosen }) => chosen);
    const looks = { class: "token", style: shade(p), "aria-pressed": "false", "aria-label": `${text}, ${percent(p)}` };
    return button({ onclick: (event) => show(token, event.target), ...looks }, visible(text));
  }));
  return element("details", {}, element("summary", {}, `${all.length} tokens`), row, table);
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = at("question").value.trim();
  if (!said || at("send").disabled) return;
  const turn = element("article", {}, element("p", { class: "question" }, said), element("p", { "aria-busy": "true" }));
  at("talk").append(turn);
  at("question").value = "";
  tokens = [];
  await busy(() => ask(said, turn));
  turn.lastChild.removeAttribute("aria-busy");
  if (tokens.length) turn.append(inside(tokens));
  else [at("question").value] = [said, turn.remove()]; // to be sent again
});
at("stop").addEventListener("click", async () => {
  say("Stopping ...");
  if (!await python.stop()) loaded = null; // the worker has ended, and the model with it
});
at("new").addEventListener("click", () => busy(async () => {
  await beginTalk();
  at("talk").replaceChildren();
  say("A new conversation.");
}));
const put = (question) => [at("question").value = question, at("form").requestSubmit()];
at("suggested").append(...SUGGESTED.map((question) => button({ onclick: () => put(question) }, question)));
at("fetch").addEventListener("click", begin);
at("fetch").textContent = `Fetch SmolLM2 (${megabytes(start.bytes)}) and chat`;
at("fetched").textContent = start.missing ?? python.missing();
at("fetch").hidden = at("fetched").textContent !== "";
if (!at("fetch").hidden) isKept().then((kept) => kept && begin());
