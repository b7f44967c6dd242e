// The chat: SmolLM2 answers in this tab (chat.py). Its weights are fetched when somebody asks for them, checked, and
// kept by the browser: the worker asks for models/smollm2.zip, and service.js answers from any cache.
import { at, dataOfPage, element, shade, visible } from "../widgets/common.js";
import { SITE, python } from "./python.js";
const start = dataOfPage(); // {bytes, sha256}, or {missing}
const ADDRESS = `${SITE}models/smollm2.zip`;
const NO_MEMORY = "This tab cannot get the 1 GB of memory that the model needs: close other tabs and reload this page.";
const TO_READ = 0.13; // seconds for a token of a question (measured)
let loaded = null; // a promise of the model
let tokens = []; // of the last answer: for each the likeliest in its place, {id, text, p, chosen}

const say = (text) => { at("state").textContent = text; };
const last = (text) => text.trim().split("\n").pop().replace(/^\w+Error: /, ""); // of a traceback
const tell = ({ message }) => say(/memory|allocat/i.test(message) ? NO_MEMORY : last(message));
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
const percent = (p) => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)} %`;

// --- the weights ---

const isKept = async () => (await caches.match(ADDRESS))?.headers.get("etag") === start.sha256;

async function fetchWeights() {
  const progress = Object.assign(at("progress"), { max: start.bytes, value: 0 });
  const count = (part, stream) => {
    progress.value += part.length;
    at("fetched").textContent = `${megabytes(progress.value)} of ${megabytes(start.bytes)}`;
    stream.enqueue(part);
  };
  const { body } = await fetch(ADDRESS, { cache: "no-store" }); // service.js does not keep it: first it is checked
  const blob = await new Response(body.pipeThrough(new TransformStream({ transform: count }))).blob();
  const hash = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  const etag = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (etag !== start.sha256) throw new Error("the download is damaged");
  await (await caches.open("my models")).put(ADDRESS, new Response(blob, { headers: { etag } }));
}

async function begin() {
  at("fetch").disabled = true;
  try {
    if (!await isKept()) await fetchWeights();
    at("first").hidden = true;
    at("form").hidden = at("inside").hidden = false;
    at("question").focus();
    load().catch(tell);
    await python.begin().catch(() => {}); // now service.js serves this page, and keeps it for a visit without network:
    fetch(location.href).catch(() => {});
  } catch (error) {
    at("fetched").role = "alert";
    at("fetched").textContent = `The weights could not be fetched and stored (${error.message}): try again.`;
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
    return element("button", { type: "button", onclick: (event) => show(token, event.target), ...looks }, visible(text));
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
at("fetch").addEventListener("click", begin);
at("fetch").textContent = `Fetch SmolLM2 (${megabytes(start.bytes)}) and chat`;
at("fetched").textContent = start.missing ?? python.missing();
at("fetch").hidden = at("fetched").textContent !== "";
if (!at("fetch").hidden) isKept().then((kept) => kept && begin());
