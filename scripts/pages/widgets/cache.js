// A cache that forgets: who sees whom with a window and sinks, and which tokens the cache holds.
// data: {tokens, token, window, sinks}: how many tokens the text has, and what the sliders show first
import { widgets, element, slider } from "./common.js";

// window_mask in gpt/model/sliding_window.py: the tokens that a token sees. In the cache they stand in this order.
function visibleTo(token, window, sinks) {
  const before = Array.from({ length: token + 1 }, (_, key) => key);
  return before.filter((key) => key > token - window || key < sinks);
}

widgets.cache = (place, data) => {
  const last = data.tokens - 1;
  const whole = String;
  const token = slider("Token that is read", { min: 0, max: last, value: data.token }, whole, update);
  const window = slider("Window", { min: 1, max: last, value: data.window }, whole, update);
  const sinks = slider("Sinks", { min: 0, max: 4, value: data.sinks }, whole, update);
  const side = 26; // of a cell
  const left = 58; // where the cells begin
  const drawing = element("svg", { viewBox: `0 0 480 ${data.tokens * side + 110}`, role: "img" });
  const facts = element("p", { "aria-live": "polite" });

  function cell(column, y, kind, text) {
    const x = left + column * side;
    const made = element("rect", { x: x + 1, y: y + 1, width: side - 2, height: side - 2, class: kind });
    return [made, element("text", { x: x + side / 2, y: y + 18, "text-anchor": "middle" }, text)];
  }

  function update() {
    const read = token.get();
    const held = visibleTo(read, window.get(), sinks.get());
    const rows = [];
    for (let query = 0; query <= last; query += 1) {
      const seen = visibleTo(query, window.get(), sinks.get());
      const name = element("text", { x: left - 8, y: query * side + 18, "text-anchor": "end", class: query === read ? "strong" : "" }, query);
      rows.push(name, ...seen.flatMap((key) => cell(key, query * side, "bar", query === read ? key : "")));
    }
    const frame = { x: left, y: read * side, width: data.tokens * side, height: side, class: "outline" };
    const below = data.tokens * side + 30;
    rows.push(element("rect", frame), element("text", { x: 0, y: below + 18 }, "cache"), element("text", { x: 0, y: below + 46 }, "position"));
    held.forEach((key, position) => rows.push(...cell(position, below, "bar", key), ...cell(position, below + 28, "outline", position)));
    drawing.replaceChildren(...rows);
    const forgotten = read + 1 - held.length;
    facts.textContent = `Token ${read} sees ${held.length} tokens: ${held.join(", ")}. The cache has forgotten ${forgotten}.`;
    drawing.setAttribute("aria-label", facts.textContent);
  }

  place.append(
    element("figcaption", {}, "A row for each token: what it sees. Below: the tokens in the cache when the framed one is read."),
    element("div", { class: "controls" }, token.label, window.label, sinks.label),
    drawing, facts,
  );
  update();
};
