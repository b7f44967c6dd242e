// GPT-2 as a drawing: what flows, in which shape, through how many parameters; and one token's way through it.
// data: {presets: [{name, V, T, L, H, C}], walk: {tokens, steps: [{box, block, values, note, labels?, heads?}]}}
// (the walk is of presets[0]). labels: names of the values. heads: (H, T, T), the attention weights of the block.
import { widgets, button, element, choice, shade, visible } from "./common.js";

// Every box with the shape that leaves it and its parameters. config: V, T, L, H, C, and t tokens that are read.
function gptBoxes({ V, T, H, C, t }) {
  const D = C / H;
  return [
    ["ids", "token ids", [t], 0, "The text as numbers: one for each token."],
    ["wte", "token embedding", [t, C], V * C, "Each id picks a row of a table with a row for every token."],
    ["wpe", "+ position embedding", [t, C], T * C, "A row for the place is added to the row for the token."],
    ["ln_1", "layer norm", [t, C], 2 * C, "Each row is normalized. What flows past on the left is not."],
    ["attn.c_attn", "queries, keys, values", [t, 3 * C], 3 * C * C + 3 * C, "One product makes three rows of each row."],
    ["heads", `split into ${H} heads`, [H, t, D], 0, "Each head gets its own part of every query, key and value."],
    ["weights", "q kᵀ / √D, mask, softmax", [H, t, t], 0, "How much each token takes from each token before it."],
    ["mix", "weights × values", [H, t, D], 0, "Each token averages the values, by its weights."],
    ["attn.c_proj", "join heads, W_O", [t, C], C * C + C, "What the heads found is put side by side, and mixed."],
    ["add_1", "+ x", [t, C], 0, "The residual connection: the result is added to what came in."],
    ["ln_2", "layer norm", [t, C], 2 * C, "Normalized again, for the second sub-layer."],
    ["mlp.c_fc", "MLP: widen, GELU", [t, 4 * C], 4 * C * C + 4 * C, "Each token by itself: four times as wide, then GELU."],
    ["mlp.c_proj", "MLP: narrow", [t, C], 4 * C * C + C, "Back to the width of the stream."],
    ["add_2", "+ x", [t, C], 0, "Added again. This is the input of the next block."],
    ["ln_f", "final layer norm", [t, C], 2 * C, "After the last block."],
    ["lm_head", "output layer = token embedding", [t, V], 0, "A dot product with the row of every token: the logits. The matrix is the token embedding again (tied)."],
    ["probabilities", "softmax of the last row", [V], 0, "Logits to probabilities: one for each token that may come next."],
  ].map(([id, name, shape, parameters, does]) => ({ id, name, shape, parameters, does, inBlock: inBlock(id) }));
}

const inBlock = (id) => !["ids", "wte", "wpe", "ln_f", "lm_head", "probabilities"].includes(id);

function gptParameters(config) {
  return gptBoxes(config).reduce((sum, box) => sum + box.parameters * (box.inBlock ? config.L : 1), 0);
}

widgets.gpt = (place, data) => {
  const HEIGHT = 32, GAP = 26, BORDER = 18, LEFT = 60, WIDTH = 250; // BORDER: more space where the block begins and ends
  const grouped = (n) => n.toLocaleString("en-US");
  const preset = choice("Model", data.presets.map((p) => p.name), update);
  const drawing = element("svg", { role: "group", "aria-label": "data flow of the model" });
  const facts = element("p");
  const legend = element("p", { class: "legend" }, ...[["heat", "positive"], ["cold", "negative"], ["learned", "a box with parameters, and how many"]]
    .map(([kind, text]) => element("span", {}, element("i", { class: kind }), text)));
  const panel = element("div", { class: "panel", "aria-live": "polite" });
  const { steps, tokens } = data.walk;
  let step = 0;

  const config = () => ({ ...data.presets[preset.get()], t: preset.get() === 0 ? tokens.length : data.presets[preset.get()].T });

  function update() {
    const boxes = gptBoxes(config());
    const borders = (i) => boxes.slice(1, i + 1).filter((box, j) => box.inBlock !== boxes[j].inBlock).length;
    const y = (i) => 12 + i * (HEIGHT + GAP) + borders(i) * BORDER;
    const at = Object.fromEntries(boxes.map((box, i) => [box.id, y(i)]));
    drawing.setAttribute("viewBox", `0 0 420 ${y(boxes.length - 1) + HEIGHT + 12}`);
    const frameTop = at.ln_1 - BORDER, frameBottom = at.add_2 + HEIGHT + 10;
    drawing.replaceChildren(
      element("defs", {}, element("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        element("path", { d: "M0 0 L8 4 L0 8 z", class: "tip" }))),
      element("g", {}, element("rect", { x: 8, y: frameTop, width: 404, height: frameBottom - frameTop, rx: 10, class: "frame" })),
      element("text", { x: 404, y: frameTop + 20, "text-anchor": "end", class: "strong" }, `block × ${config().L}`),
      around(at.ln_1, at.add_1), around(at.ln_2, at.add_2),
      ...boxes.flatMap((box, i) => drawBox(box, y(i), y(i + 1), i + 1 < boxes.length)),
    );
    facts.textContent = `${grouped(gptParameters(config()))} parameters, ${config().t} tokens read. On the arrows: shapes.`;
    show();
  }

  // The residual connection, on the left of what it goes around.
  function around(top, bottom) {
    const x = LEFT - 26, from = top - 12, to = bottom + HEIGHT / 2;
    return element("path", { d: `M${LEFT + WIDTH / 2} ${from} H${x} V${to} H${LEFT - 2}`, class: "flow", "marker-end": "url(#tip)" });
  }

  function drawBox(box, y, nextY, hasNext) {
    const label = box.parameters ? `${box.name}: ${grouped(box.parameters)} parameters` : box.name;
    const group = element("g", {
      class: `box${box.parameters ? " learned" : ""}`, tabindex: 0, role: "button", "data-box": box.id, "aria-label": label,
      onclick: () => go(box.id), onkeypress: (event) => { event.preventDefault(); go(box.id); },
    }, element("rect", { x: LEFT, y, width: WIDTH, height: HEIGHT, rx: 5 }),
    element("text", { x: LEFT + WIDTH / 2, y: y + 21, "text-anchor": "middle" }, box.name));
    const parts = [group];
    if (box.parameters) parts.push(element("text", { x: LEFT + WIDTH + 8, y: y + 21, class: "count" }, grouped(box.parameters)));
    if (hasNext) {
      const x = LEFT + WIDTH / 2, end = y + HEIGHT;
      const labelY = box.id === "add_2" ? nextY - 9 : end + 15;
      parts.push(element("path", { d: `M${x} ${end} V${nextY - 2}`, class: "flow", "marker-end": "url(#tip)" }));
      parts.push(element("text", { x: x + 8, y: labelY, class: "shape" }, `(${box.shape.map(grouped).join(", ")})`));
    }
    return parts;
  }

  // To the step of a box: the next one on the walk from here, or else the first.
  function go(id) {
    const later = steps.findIndex((s, i) => i > step && s.box === id);
    step = steps[step].box === id ? step : later >= 0 ? later : steps.findIndex((s) => s.box === id);
    show();
  }

  function move(by) {
    step = Math.max(0, Math.min(steps.length - 1, step + by));
    show();
    drawing.querySelector(".chosen").scrollIntoView({ block: "nearest" });
  }

  // Arrows step; those up and down only from within the drawing, because elsewhere they scroll.
  function onKey(event) {
    const vertical = drawing.contains(event.target) ? { ArrowDown: 1, ArrowUp: -1 } : {};
    const by = { ArrowRight: 1, ArrowLeft: -1, ...vertical }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select")) return;
    event.preventDefault();
    move(by);
    drawing.querySelector(".chosen").focus({ preventScroll: true });
  }

  // The attention weights of every head: a row for each token that looks, a column for each that it looks at.
  function patterns(heads) {
    const cell = (p, i, j) => element("td", { style: shade(p), title: `${tokens[i]} looks at ${tokens[j]}: ${Math.round(100 * p)} %` });
    return element("div", { class: "patterns" }, ...heads.map((rows, h) => element("table", { class: "grid" },
      element("caption", {}, `head ${h + 1}`),
      ...rows.map((row, i) => element("tr", {}, element("th", {}, visible(tokens[i])), ...row.map((p, j) => cell(p, i, j)))))));
  }

  function show() {
    const { box: id, block, values, note, labels, heads } = steps[step];
    const box = gptBoxes(config()).find((b) => b.id === id);
    for (const group of drawing.querySelectorAll("[data-box]")) group.classList.toggle("chosen", group.dataset.box === id);
    const where = box.inBlock ? `Block ${block + 1} of ${data.presets[0].L}: ` : "";
    const largest = Math.max(...values.map(Math.abs), 1e-9);
    const cells = values.map((v) => element("td", { style: id === "ids" ? "" : shade(v / largest) }, Number.isInteger(v) ? String(v) : v.toFixed(2)));
    panel.replaceChildren(
      element("p", {}, element("strong", {}, `${step + 1} of ${steps.length}. ${where}${box.name}`)),
      element("p", {}, box.does),
      element("div", { class: "scroll", tabindex: 0 }, element("table", { class: "grid values" },
        element("tr", {}, ...(labels ?? []).map((text) => element("th", {}, visible(text)))), element("tr", {}, ...cells))),
      element("p", {}, note),
    );
    if (heads) panel.append(patterns(heads), element("p", { class: "soft" }, "Each row is a token that looks, each column a token that it looks at, in the same order. The stronger the color, the more weight."));
  }

  place.append(
    element("figcaption", {}, `The whole of a GPT. Follow the last token of "${tokens.join("")}" from its id to the probability of the next one: the numbers are those of ${data.presets[0].name}.`),
    element("div", { class: "controls" }, preset.label),
    element("div", { class: "walk" },
      element("div", {}, facts, drawing),
      element("div", { class: "beside" },
        button({ onclick: () => move(-1) }, "Back"), " ",
        button({ onclick: () => move(1) }, "Next step"), element("span", { class: "soft" }, " or the arrow keys"),
        panel, legend)),
  );
  (place.closest(".alone") ? document : drawing).addEventListener("keydown", onKey);
  update();
};
