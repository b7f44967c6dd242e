// The explorer: every number comes from the model, through the server that this page came from (explore_data.py answers).
const start = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const LONGEST_TABLE = 128; // tokens: the attention of a longer text is shown for the chosen token only
const at = (id) => document.getElementById(id);
const question = { text: start.text, position: null, layer: 0, head: 0, heads: [], attention: [], mlps: [], edit: null };
let answer = null, asked = 0;

const percent = (p) => (p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);
const pressed = (isPressed) => ({ "aria-pressed": String(isPressed) });

async function ask(changes) {
  Object.assign(question, changes);
  asked += 1;
  const number = asked; // only the answer to the latest question is shown
  at("state").textContent = "…";
  let found;
  try {
    const response = await fetch("look", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) });
    found = await response.json();
  } catch {
    found = { error: "The server does not answer. Is scripts/explore.py still running?" };
  }
  if (number !== asked) return;
  at("state").textContent = found.error ?? "";
  if (found.error) return;
  answer = found;
  question.ids = answer.ids; // from now on the tokens count, and not the text
  question.position = answer.position;
  draw();
}

function draw() {
  at("text").value = answer.text;
  const { tokens, surprise, position } = answer, t = position;
  at("tokens").replaceChildren(...tokens.map((token, i) => element("button", {
    type: "button", ...pressed(i === t), style: surprise[i] === null ? "" : shade(surprise[i] / 10), onclick: () => ask({ position: i, edit: null }),
    title: surprise[i] === null ? "the first token" : `${surprise[i].toFixed(2)} nats: ${percent(Math.exp(-surprise[i]))}`,
  }, visible(token))));
  at("changed").hidden = !answer.change;
  at("changes").replaceChildren(...(answer.change ?? []).map((kl, i) => element("span", { style: shade(-kl / 3), title: `${kl.toFixed(3)} nats` }, visible(tokens[i]))));
  at("after").textContent = `After “${visible(tokens[t])}”`;
  const largest = Math.max(...answer.alternatives.flatMap((a) => [a.p, a.before ?? 0]));
  const bar = (p, kind) => element("span", { class: `bar ${kind}`, style: `width: ${(100 * p) / largest}%` });
  at("alternatives").replaceChildren(...answer.alternatives.map((a) => element("tr", {},
    element("td", {}, element("button", { type: "button", onclick: () => branch(a.id) }, visible(a.text) || "∅")),
    element("td", { class: "bars" }, bar(a.p, ""), ...(a.before === undefined ? [] : [bar(a.before, "before")])),
    element("td", {}, percent(a.p) + (a.before === undefined ? "" : ` (was ${percent(a.before)})`)))));
  at("lens").replaceChildren(...answer.lens.map((best, layer) => element("tr", {}, element("th", {}, `layer ${layer}`),
    ...best.map((one) => element("td", { style: shade(one.p) }, element("code", {}, visible(one.text)), ` ${percent(one.p)}`)))));
  drawHeads();
  drawAttention();
  at("layer").textContent = question.layer;
  at("channel").max = answer.numbers.length - 1;
  drawNumber();
}

const isOff = (layer, head) => question.heads.some(([l, h]) => l === layer && h === head);

function drawHeads() {
  const toggle = (name, layer) => element("button", {
    type: "button", class: question[name].includes(layer) ? "off" : "", ...pressed(!question[name].includes(layer)),
    onclick: () => ask({ [name]: question[name].includes(layer) ? question[name].filter((l) => l !== layer) : [...question[name], layer] }),
  }, { attention: "attention", mlps: "MLP" }[name]);
  const rows = Array.from({ length: answer.layers }, (_, layer) => element("tr", {}, element("th", {}, `layer ${layer}`),
    element("td", {}, toggle("attention", layer), " ", toggle("mlps", layer)),
    ...Array.from({ length: answer.heads }, (_, head) => element("td", {}, element("button", {
      type: "button", "aria-label": `head ${layer}.${head}`,
      class: `${isOff(layer, head) ? "off" : ""} ${layer === question.layer && head === question.head ? "chosen" : ""}`,
      onclick: () => ask({ layer, head }),
    }, String(head))))));
  at("heads").replaceChildren(...rows);
  at("switch").textContent = `Switch head ${question.layer}.${question.head} ${isOff(question.layer, question.head) ? "on" : "off"}`;
}

function drawAttention() {
  const { attention, tokens, position } = answer;
  at("head").textContent = `Attention of head ${question.layer}.${question.head}`;
  at("row").replaceChildren(...tokens.map((token, i) => element("span", { style: shade(attention[position][i]), title: percent(attention[position][i]) }, visible(token))));
  const isShort = tokens.length <= LONGEST_TABLE;
  at("pattern").replaceChildren(...(isShort ? attention : []).map((row, i) => element("tr", {}, element("th", {}, visible(tokens[i])),
    ...row.slice(0, i + 1).map((weight, j) => element("td", { style: shade(weight), title: `${visible(tokens[i])} → ${visible(tokens[j])}: ${percent(weight)}` })))));
}

function drawNumber() {
  at("number").textContent = answer.numbers[Number(at("channel").value)]?.toFixed(4) ?? "";
}

// Go on with another token after the chosen one: what followed it is dropped.
function branch(id) {
  const ids = [...answer.ids.slice(0, answer.position + 1), id];
  ask({ ids, position: ids.length - 1, edit: null });
}

at("title").textContent = `What does ${start.model} make of it?`;
at("text").value = start.text;
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask({ text: at("text").value, ids: null, position: null, edit: null });
});
at("text").addEventListener("keydown", (event) => (event.key === "Enter" && event.ctrlKey ? at("form").requestSubmit() : null));
at("switch").addEventListener("click", () => {
  const { layer, head } = question;
  ask({ heads: isOff(layer, head) ? question.heads.filter(([l, h]) => l !== layer || h !== head) : [...question.heads, [layer, head]] });
});
at("reset").addEventListener("click", () => ask({ heads: [], attention: [], mlps: [], edit: null }));
at("channel").addEventListener("input", drawNumber);
at("edit").addEventListener("click", () => ask({ edit: { layer: question.layer, position: answer.position, channel: Number(at("channel").value), value: Number(at("value").value) } }));
ask({});
