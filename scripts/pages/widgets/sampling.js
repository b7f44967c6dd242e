// Temperature, top-k and top-p on the next-token distribution of a real model.
// data: {model, tokens: [text of each token], prompts: [{text, logits}]}
import { widgets, softmax, button, element, slider, choice, visible } from "./common.js";

// Sampling.probabilities in gpt/model/generation.py. topK: 0 for all.
function probabilities(logits, temperature, topK, topP) {
  const best = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  if (temperature === 0) return logits.map((_, i) => (i === logits.indexOf(best) ? 1 : 0));
  let scores = logits;
  if (topK > 0 && topK < logits.length) {
    const kth = [...logits].sort((a, b) => b - a)[topK - 1];
    scores = logits.map((score) => (score < kth ? -Infinity : score));
  }
  const probs = softmax(scores.map((score) => (score - best) / temperature));
  return topP < 1 ? nucleus(probs, topP) : probs;
}

// The most likely tokens until they have topP together; the one that gets there is kept too.
function nucleus(probs, topP) {
  const order = probs.map((_, i) => i).sort((a, b) => probs[b] - probs[a] || a - b);
  const kept = new Set();
  let sum = 0;
  for (const i of order) {
    if (sum >= topP) break;
    kept.add(i);
    sum += probs[i];
  }
  return probs.map((p, i) => (kept.has(i) ? p / sum : 0));
}

function entropy(probs) {
  return -probs.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0);
}

widgets.sampling = (place, data) => {
  const shown = 16;
  const prompt = choice("Prompt", data.prompts.map((p) => p.text), update);
  const temperature = slider("Temperature", { min: 0, max: 3, step: 0.05, value: 1 }, (v) => v.toFixed(2), update);
  const topK = slider("Top-k", { min: 1, max: 51, step: 1, value: 51 }, (v) => (v > 50 ? "off" : v), update);
  const topP = slider("Top-p", { min: 0.05, max: 1, step: 0.05, value: 1 }, (v) => v.toFixed(2), update);
  const drawing = element("svg", { viewBox: `0 0 480 ${shown * 22 + 6}`, role: "img" });
  const facts = element("p", { "aria-live": "polite" });
  const drawn = element("p", { class: "drawn", "aria-live": "polite" });
  const draw = button({ onclick: sample }, "Draw 20 times");
  let probs = [];

  function update() {
    const { logits } = data.prompts[prompt.get()];
    const plain = softmax(logits);
    const k = topK.get() > 50 ? 0 : topK.get();
    probs = probabilities(logits, temperature.get(), k, topP.get());
    const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a]).slice(0, shown);
    const scale = 290 / Math.max(plain[order[0]], probs[order[0]]);
    drawing.replaceChildren(...order.flatMap((id, row) => bar(id, row, plain[id], scale)));
    drawing.setAttribute("aria-label", order.slice(0, 5).map((id) => `${data.tokens[id]} ${percent(probs[id])}`).join(", "));
    const kept = probs.filter((p) => p > 0).length;
    facts.textContent = `${kept} of ${probs.length} tokens can be drawn. Entropy: ${entropy(probs).toFixed(3)} nats.`;
    drawn.textContent = "";
  }

  function bar(id, row, plain, scale) {
    const y = row * 22 + 4;
    return [
      element("text", { x: 112, y: y + 13, "text-anchor": "end", class: "token" }, visible(data.tokens[id])),
      element("rect", { x: 120, y, width: scale * probs[id], height: 16, class: "bar" }),
      element("rect", { x: 120, y, width: scale * plain, height: 16, class: "outline" }),
      element("text", { x: 416, y: y + 13 }, percent(probs[id])),
    ];
  }

  const percent = (p) => (p === 0 ? "0" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

  function sample() {
    const tokens = [];
    for (let i = 0; i < 20; i += 1) {
      let left = Math.random();
      let id = probs.findIndex((p) => (left -= p) < 0);
      if (id < 0) id = probs.findLastIndex((p) => p > 0); // the sum of the probabilities may be 0.9999...
      tokens.push(element("span", { class: "token" }, visible(data.tokens[id])), " ");
    }
    drawn.replaceChildren(...tokens);
  }

  place.append(
    element("figcaption", {}, `What follows? ${data.model}. Filled: after your settings; outlined: the model's own distribution.`),
    element("div", { class: "controls" }, prompt.label, temperature.label, topK.label, topP.label),
    drawing, facts, draw, drawn,
  );
  update();
};
