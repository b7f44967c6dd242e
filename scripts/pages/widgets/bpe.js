// Byte-pair encoding of the reader's own text, merge by merge.
// data: {text, merges: [[first, second], ...]}; a token is a string, its characters U+0000 to U+00FF are bytes.
import { widgets, button, element, slider, choice, visible } from "./common.js";

// GPT-2's pattern (gpt/tokenizer/pre_tokenization.py): contractions; letters, digits or signs, each with the space before; spaces.
const WORDS = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

const bytesOf = (word) => [...new TextEncoder().encode(word)].map((byte) => String.fromCharCode(byte));
const splitWords = (text) => (text.match(WORDS) || []).map(bytesOf);

function mergePair(tokens, first, second) {
  const merged = [];
  for (let i = 0; i < tokens.length; i += 1) {
    if (tokens[i] === first && tokens[i + 1] === second) {
      merged.push(first + second);
      i += 1;
    } else merged.push(tokens[i]);
  }
  return merged;
}

function neighbors(words) {
  const counts = new Map(); // "first\u0100second" -> how often; no byte is U+0100
  for (const tokens of words) {
    for (let i = 0; i + 1 < tokens.length; i += 1) {
      const pair = `${tokens[i]}\u0100${tokens[i + 1]}`;
      counts.set(pair, (counts.get(pair) || 0) + 1);
    }
  }
  return counts;
}

// Encoding: of the pairs that stand side by side, the one that was learned first; null at the end.
function nextLearned(words, ranks) {
  let best = null;
  for (const [pair, count] of neighbors(words)) {
    if (ranks.has(pair) && (!best || ranks.get(pair) < best.rank)) best = { pair, count, rank: ranks.get(pair) };
  }
  return best && { ...best, pair: best.pair.split("\u0100") };
}

// Learning: the most frequent pair; of equally frequent ones the last in the alphabet.
function nextFrequent(words) {
  let best = null;
  for (const [key, count] of neighbors(words)) {
    const pair = key.split("\u0100");
    const isLater = () => pair[0] > best.pair[0] || (pair[0] === best.pair[0] && pair[1] > best.pair[1]);
    if (!best || count > best.count || (count === best.count && isLater())) best = { pair, count };
  }
  return best;
}

// All states from single bytes to the last merge: [{words, next}], where next is null in the last one.
function mergeSteps(text, choose, limit = 2000) {
  let words = splitWords(text);
  const steps = [];
  for (let next = choose(words); ; next = choose(words)) {
    steps.push({ words, next: steps.length < limit ? next : null });
    if (!steps.at(-1).next) return steps;
    words = words.map((tokens) => mergePair(tokens, ...next.pair));
  }
}

const rankMerges = (merges) => new Map(merges.map(([first, second], rank) => [`${first}\u0100${second}`, rank]));

// A token as text; bytes that are not a whole character as numbers.
function tokenText(token) {
  try {
    return visible(new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(token, (c) => c.charCodeAt(0))));
  } catch {
    return [...token].map((c) => `<${c.charCodeAt(0).toString(16).padStart(2, "0")}>`).join("");
  }
}

widgets.bpe = (place, data) => {
  const ranks = rankMerges(data.merges);
  const text = element("textarea", { rows: 3, maxlength: 2000, oninput: restart, "aria-label": "Your text" });
  text.value = data.text;
  const modes = [`learned by the lesson (${data.merges.length})`, "learn them from this text"];
  const mode = choice("Merges", modes, restart);
  const step = slider("Merges done", { min: 0, max: 1, step: 1, value: 0 }, (v) => v, show);
  const tokens = element("div", { class: "tokens" });
  const facts = element("p", { "aria-live": "polite" });
  let steps = [];

  function restart() {
    const learning = mode.get() === 1;
    steps = mergeSteps(text.value, learning ? nextFrequent : (words) => nextLearned(words, ranks));
    step.input.max = steps.length - 1;
    step.input.value = learning ? 0 : steps.length - 1;
    step.update();
    show();
  }

  function show() {
    const { words, next } = steps[step.get()];
    const last = step.get() > 0 ? steps[step.get() - 1].next.pair.join("") : null;
    const all = words.flat();
    tokens.replaceChildren(...words.map((word) => element("span", { class: "word" },
      ...word.map((token) => element("span", { class: token === last ? "token new" : "token" }, tokenText(token))))));
    const letters = [...text.value].length;
    const ratio = all.length ? ` ${(letters / all.length).toFixed(2)} characters per token.` : "";
    const [first, second] = next ? next.pair.map(tokenText) : [];
    const why = next && (next.rank === undefined ? `${next.count} times in the text` : `merge number ${next.rank + 1}`);
    const then = next ? ` Next: join ${first} and ${second} (${why}).` : " There is nothing left to join.";
    facts.textContent = `${all.length} tokens for ${letters} characters.${ratio}${then}`;
  }

  function move(by) {
    step.input.value = step.get() + by;
    step.update();
    show();
  }

  place.append(
    element("figcaption", {}, "Type something, and see how it is cut into tokens, one merge after the other."),
    text,
    element("div", { class: "controls" }, mode.label, step.label),
    button({ onclick: () => move(-1) }, "Back"), " ",
    button({ onclick: () => move(1) }, "Next merge"),
    tokens, facts,
  );
  restart();
};
