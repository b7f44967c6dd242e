// The attention matrix of a sentence, with and without projections, scale and mask.
// data: {sentences: [{name, words, x: (T, C), wq: (C, D), bq: (D), wk: (C, D)}, ...]}
import { widgets, softmax, button, element, choice, checkbox, shade, visible } from "./common.js";

const product = (a, b) => a.map((row) => b[0].map((_, j) => row.reduce((sum, v, k) => sum + v * b[k][j], 0)));
const transposed = (a) => a[0].map((_, j) => a.map((row) => row[j]));

// softmax(Q Kᵀ / sqrt(D)) with Q = X wq + bq, K = X wk, or without projections softmax(X Xᵀ / sqrt(C)); -Infinity where a token may not look.
function attentionWeights({ x, wq, bq, wk }, { projections, scale, mask }) {
  const q = projections ? product(x, wq).map((row) => row.map((v, j) => v + bq[j])) : x;
  const k = projections ? product(x, wk) : x;
  const divisor = scale ? Math.sqrt(q[0].length) : 1;
  const scores = product(q, transposed(k));
  return scores.map((row, i) => softmax(row.map((s, j) => (mask && j > i ? -Infinity : s / divisor))));
}

widgets.attention = (place, data) => {
  const sentence = choice("Sentence", data.sentences.map((s) => s.name), update);
  const projections = checkbox("queries and keys (Q = X W_Q, K = X W_K)", true, update);
  const scale = checkbox("divide by the square root of their size", true, update);
  const mask = checkbox("causal mask", false, update);
  const table = element("table", { class: "grid" });
  const facts = element("p", { "aria-live": "polite" });
  let chosen = 0;

  function update() {
    const example = data.sentences[sentence.get()];
    chosen = Math.min(chosen, example.words.length - 1);
    const options = { projections: projections.get(), scale: scale.get(), mask: mask.get() };
    const weights = attentionWeights(example, options);
    const head = element("tr", {}, element("td"), ...example.words.map((word) => element("th", { scope: "col" }, visible(word))));
    const rows = weights.map((row, i) => element("tr", { class: i === chosen ? "chosen" : "" },
      element("th", { scope: "row" }, button({ "aria-pressed": String(i === chosen), onclick: () => choose(i) }, visible(example.words[i]))),
      ...row.map((w) => element("td", { style: shade(w) }, w === 0 ? "" : w.toFixed(2)))));
    const hadFocus = table.contains(document.activeElement);
    table.replaceChildren(head, ...rows);
    if (hadFocus) table.querySelectorAll("button")[chosen].focus();
    describe(example.words, weights);
  }

  function choose(i) {
    chosen = i;
    update();
  }

  function describe(words, weights) {
    const order = weights[chosen].map((_, j) => j).sort((a, b) => weights[chosen][b] - weights[chosen][a]).slice(0, 3);
    const top = order.map((j) => `${visible(words[j])} ${(100 * weights[chosen][j]).toFixed(0)} %`).join(", ");
    const largest = weights.reduce((sum, row) => sum + Math.max(...row), 0) / weights.length;
    facts.textContent = `${visible(words[chosen])} looks at ${top}. Mean of the largest weight of each row: ${largest.toFixed(2)}.`;
  }

  place.append(
    element("figcaption", {}, "Who looks at whom: each row sums to 1. Choose a row by its word."),
    element("div", { class: "controls" }, sentence.label, projections.label, scale.label, mask.label),
    element("div", { class: "scroll" }, table), facts,
  );
  update();
};
