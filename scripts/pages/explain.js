// The page of a recorded training step. Its data are made by explain_data.py: calls of ops, the arrays, the updates.
import { at, button, dataOfPage, decoded, element, shade, show, sourceLine, unpack, visible } from "./widgets/common.js";
import { listen, matrices, rowsOf } from "./step_page.js";
let data, calls, back, steps; // of the recording that is shown: see draw()
const SHOWN_TERMS = 12;

// --- arrays ---

const isWhole = (id) => !data.values[id].corner;
const numbersOf = (id) => (id !== null && isWhole(id) ? shownNumbers(id) : null);
const shownNumbers = (id) => unpack(data.values[id].data); // of an array, or of its corner if it is too large
const sizeOf = (id) => data.values[id].shape.reduce((a, b) => a * b, 1);
const shapeText = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

// The index of the flat place of a number: 5 in shape (2, 3) is 1, 2.
function indexOf(shape, flat) {
  const index = [];
  for (const size of [...shape].reverse()) {
    index.unshift(flat % size);
    flat = Math.floor(flat / size);
  }
  return index;
}

const indexText = (shape, flat) => (shape.length ? `[${indexOf(shape, flat).join(",")}]` : "");
const nameAt = (made, flat) => `${made.name}${indexText(made.shape, flat)}`;

// --- axes ---

// The names of an array's axes as far as its name or its shape tells them.
function axesOf({ name, shape, dtype }) {
  if (/(wte|embed_tokens|lm_head)\.weight$/.test(name)) return ["vocabulary", "channel"];
  if (name.endsWith("wpe.weight")) return ["position", "channel"];
  if (name) return [["channel"], ["output", "input"]][shape.length - 1] ?? [];
  const [B, T, C, V] = [data.read.length, data.read[0].length, data.values[calls[0].inputs[1]].shape[1], data.vocabulary.length];
  const last = shape.at(-1) !== V ? "channel" : V === C ? "" : "vocabulary", any = null;
  const known = [
    [[B, T, any], ["batch", "token", last]],
    [[B, any, T, any], ["batch", "head", "token", last]],
    [[B, any, any, T, any], ["batch", "group", "head", "token", last]],
    [[B, T], ["batch", "token"]],
    [[T, any], ["token", last]],
    [[B * T, any], ["token", last]],
    [[B * T], ["token"]],
    [[dtype.startsWith("int") ? T : B], [dtype.startsWith("int") ? "token" : "batch"]],
  ];
  return known.find(([sizes]) => sizes.length === shape.length && sizes.every((size, axis) => size === any || size === shape[axis]))?.[1] ?? [];
}

function nameOnAxis(axis, i, batch) {
  if (["token", "query", "key"].includes(axis)) return visible(data.read.flat()[batch * data.read[0].length + i] ?? String(i));
  return axis === "vocabulary" ? visible(data.vocabulary[i] ?? String(i)) : String(i);
}

// --- steps ---

function read(recorded) {
  decoded.clear();
  data = recorded;
  calls = data.calls;
  back = calls.map((_, i) => i).filter((i) => calls[i].order !== null).sort((a, b) => calls[a].order - calls[b].order);
  steps = [
    ...calls.map((_, i) => ({ kind: "forward", call: i })),
    ...back.map((i) => ({ kind: "backward", call: i })),
    ...data.updates.map((_, i) => ({ kind: "update", update: i })),
  ];
}

const stepOf = (kind, call) => steps.findIndex((s) => s.kind === kind && s.call === call);

const label = (step) => (step.kind === "update" ? data.updates[step.update] : calls[step.call]).label;

// All uses of a value: {call, input}, those through which a gradient came back.
function usesOf(id) {
  return calls.flatMap((call, c) => call.inputs.flatMap((input, i) => (input === id && call.dinputs[i] != null ? [{ call: c, input: i }] : [])));
}

// --- one card ---

let current = 0;
let grids = []; // {side, index, id, name, cells, table}: side is "in", "out", "din", "dout" or the name of an array

function jumpTo(kind, call, text) {
  return button({ onclick: () => go(stepOf(kind, call)) }, text);
}

// A table of numbers. like: the value whose axes it has. hidden: scores that are -inf where a mask hides a number.
function grid(side, index, id, name, { note = "", like = id, axes = axesOf(data.values[like]), hidden = [] } = {}) {
  const value = data.values[id], whole = isWhole(id), shape = value.corner ?? value.shape;
  const columns = shape.at(-1) ?? 1, isMatrix = shape.length > 1;
  const [rowAxis, columnAxis] = [isMatrix ? axes.at(-2) ?? "" : "", axes.at(-1) ?? ""];
  const indexed = whole ? shape : [...value.shape.slice(0, -2).map(() => 1), ...shape]; // a corner is of the first matrix
  const made = { side, index, id, name, shape: indexed, cells: [], whole };
  const placeOf = (start) => indexOf(indexed, start).slice(0, -2);
  const batchOf = (start) => (axes[0] === "batch" && placeOf(start).length ? placeOf(start)[0] : 0);
  const cellAt = (x, style, flat) => {
    const masked = hidden[flat] === -Infinity;
    const look = masked ? { class: "masked", "aria-label": "hidden by the mask" } : { style };
    const cell = element("td", { tabindex: flat ? -1 : 0, ...look }, masked ? "" : show(x));
    cell.addEventListener("click", () => {
      cell.blur(); // a cell that has the focus takes the arrow keys; after a click they go on stepping
      choose(made, flat);
    });
    cell.addEventListener("keydown", (event) => onCellKey(event, made, flat, columns));
    made.cells.push(cell);
    return cell;
  };
  const headOfTable = (start) => {
    const which = placeOf(start).flatMap((i, axis) => (indexed[axis] > 1 ? [`${axes[axis] ?? "index"} ${i}`] : []));
    const corner = [columnAxis && `${columnAxis} →`, rowAxis && `${rowAxis} ↓`].filter(Boolean).join("\n");
    const names = [...Array(columns).keys()].map((i) => element("th", { scope: "col" }, nameOnAxis(columnAxis, i, batchOf(start))));
    return [...(which.length ? [element("caption", {}, which.join(", "))] : []), ...(shape.length ? [element("tr", {}, element("th", {}, corner), ...names)] : [])];
  };
  const headOfRow = (start, row) => (shape.length ? [element("th", { scope: "row" }, isMatrix && shape.at(-2) > 1 || rowAxis ? nameOnAxis(rowAxis, row, batchOf(start)) : "")] : [""]);
  const tables = matrices(value, cellAt, headOfTable, headOfRow);
  made.base = made.cells.map((cell) => ({ style: cell.getAttribute("style") ?? "", class: cell.className }));
  grids.push(made);
  const sizes = value.shape.map((size, axis) => (axes[axis] ? `${axes[axis]} ${size}` : size));
  const caption = element("figcaption", {}, element("strong", {}, name), ` (${sizes.join(", ") || "one number"}) `, note);
  if (!whole) {
    const s = value.statistics;
    caption.append(` Too large to show: the first ${shapeText(shape)} of ${sizeOf(id)} numbers; ${Object.entries(s).map(([name, x]) => `${name} ${show(Number(x))}`).join(", ")}.`);
  }
  return element("figure", {}, caption, element("div", { class: "tables scroll" }, ...tables));
}

function onCellKey(event, made, flat, columns) {
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (event.key === "Enter" || event.key === " ") choose(made, flat);
  else if (by === undefined) return;
  else made.cells[flat + by]?.focus();
  event.preventDefault();
  event.stopPropagation();
}

function origin(id, kind) {
  const value = data.values[id];
  if (value.name) return value.name;
  return value.made_by ? jumpTo(kind, value.made_by[0], `from ${calls[value.made_by[0]].op}`) : "";
}

function source(half, open) {
  if (!half) return "";
  const code = element("pre", { class: "code numbered", style: `--first: ${half.line}`, tabindex: 0 });
  code.innerHTML = rowsOf(half.html.split("\n"));
  return element("details", open ? { open: true } : {}, element("summary", {}, `${half.path}:${half.line}`), code);
}

// A call as an address: Gelu.backward,1 is the second backward of a Gelu.
function nameOfCall(step) {
  const alike = steps.filter(({ kind, call }) => kind === step.kind && calls[call].op === calls[step.call].op);
  return `${calls[step.call].op}.${step.kind},${alike.indexOf(step)}`;
}

function callCard(step) {
  const call = calls[step.call], forward = step.kind === "forward", code = data.functions[call.op];
  const [here, ...further] = call.where;
  const places = (some) => some.map((p) => element("div", {}, element("code", {}, p.text), element("span", { class: "soft" }, " ", sourceLine(p.path, p.line), `, ${p.function}`)));
  const options = Object.entries(call.options).map(([name, value]) => `${name} = ${Number.isNaN(Number(value)) ? value : Number(Number(value).toPrecision(3))}`).join(", ");
  const outputName = (i) => (call.outputs.length > 1 ? `out${i}` : "out");
  const present = call.inputs.map((id, i) => ({ id, i })).filter(({ id }) => id !== null);
  const isAttention = Boolean(call.inside[0].scores);
  const body = [
    element("div", { class: "where" }, ...places(here ? [here] : []), data.lines ? element("p", {}, element("a", { href: `${data.lines}#${nameOfCall(step)}` }, "Its lines, one by one")) : "", further.length ? element("details", {}, element("summary", {}, "called from"), ...places(further)) : ""),
    formulasOf(forward ? code.formulas[0] : code.formulas.flat()),
    options ? element("p", { class: "soft" }, `Options: ${options}`) : "",
    legend(isAttention),
  ];
  if (forward) {
    body.push(element("h3", {}, "In"), arrays(present.map(({ id, i }) => grid("in", i, id, call.names[i], { note: origin(id, "forward") }))));
    if (isAttention) body.push(element("h3", { id: "inside" }, "Inside: how much each token looks at the others"), insideOf(call, 0));
    body.push(element("h3", {}, "Out"), arrays(call.outputs.map((id, i) => grid("out", i, id, outputName(i), { note: usedBy(id) }))));
  } else {
    const douts = call.douts.map((id, i) => (id === null ? "" : grid("dout", i, id, `d${outputName(i)}`, { note: arrivals(call.outputs[i]), like: call.outputs[i] })));
    body.push(element("h3", {}, "Gradient of the output, which has arrived"), arrays(douts));
    if (isAttention) body.push(element("h3", {}, "Inside: gradients of the weights and the scores"), insideOf(call, 1));
    const dinputs = present.filter(({ i }) => call.dinputs[i] != null);
    body.push(element("h3", {}, "Gradients of the inputs"), arrays(dinputs.map(({ id, i }) => grid("din", i, call.dinputs[i], `d${call.names[i]}`, { note: target(id), like: id }))));
  }
  return [...body, answerBox(), source(code[step.kind], true), source(code[forward ? "backward" : "forward"], false)];
}

const NOTES = { scores: "q kᵀ scale, and the mask", probs: "the attention weights: each row sums to 1", dprobs: "gradient of the weights", dscores: "gradient of the scores" };

// The matrices (..., T, S) inside attention, of forward (half 0) or backward.
function insideOf(call, half) {
  const axes = [...axesOf(data.values[call.inputs[0]]).slice(0, -2), "query", "key"], hidden = shownNumbers(call.inside[0].scores);
  return arrays(Object.entries(call.inside[half]).map(([name, id]) => grid("inside", 0, id, name, { note: NOTES[name], axes, hidden })));
}

function legend(isAttention) {
  const parts = [["heat", "positive"], ["cold", "negative"], ...(isAttention ? [["masked", "hidden by the mask"]] : [])];
  return element("p", { class: "legend" }, ...parts.map(([look, text]) => element("span", {}, element("i", { class: look }), text)), "The stronger the color, the further from 0.");
}

const arrays = (figures) => element("div", { class: "arrays" }, ...figures);
const answerBox = () => element("div", { class: "answer-box", id: "answer", "aria-live": "polite" }, element("p", {}, "Click a number, or move to it with Tab and the arrow keys and press Enter."));

function formulasOf(lines) { // MathML, which Python made of our own docstrings
  const place = element("div", { class: "formulas" });
  place.innerHTML = lines.join("");
  return place;
}

function usedBy(id) {
  const uses = calls.flatMap((call, c) => (call.inputs.includes(id) ? [jumpTo("forward", c, `to ${call.op}`)] : []));
  return element("span", {}, ...uses);
}

function arrivals(id) {
  const uses = usesOf(id);
  return uses.length ? element("span", {}, ...uses.map((use) => jumpTo("backward", use.call, `from ${calls[use.call].op}`))) : "the loss: 1";
}

function target(id) {
  const value = data.values[id];
  const update = data.updates.findIndex((u) => u.name && u.name === value.name);
  if (update >= 0) return button({ onclick: () => go(steps.findIndex((s) => s.update === update)) }, `to ${value.name}`);
  return value.made_by ? jumpTo("backward", value.made_by[0], `to ${calls[value.made_by[0]].op}`) : value.name;
}

function updateCard(step) {
  const update = data.updates[step.update];
  const named = { before: update.before, gradient: update.gradient, clipped: update.clipped, m: update.state.exp_avg, v: update.state.exp_avg_sq, after: update.after };
  const figures = Object.entries(named).map(([name, id]) => grid("update", 0, id, name, { like: update.before }));
  const settings = Object.entries(update.settings).map(([name, value]) => `${name} = ${Array.isArray(value) ? `(${value.join(", ")})` : value}`).join(", ");
  const lines = data.lines ? element("p", {}, element("a", { href: `${data.lines}#Adam.update,${step.update}` }, "Its lines, one by one")) : "";
  return [lines, formulasOf(data.rule.formulas), element("p", { class: "soft" }, `Options: ${settings}`), element("h3", {}, "The update of one number"), answerBox(),
    element("h3", {}, "All numbers"), legend(false), arrays(figures), source(data.rule.update, true)];
}

// --- a number is chosen ---

function rowOf(made, flat, outputs) { // the row of the Jacobian that belongs to a number of an output
  return flat + outputs.slice(0, made.index).reduce((sum, id) => sum + sizeOf(id), 0);
}

function choose(made, flat) {
  for (const other of grids) {
    other.cells.forEach((cell, i) => {
      cell.setAttribute("style", other.base[i].style);
      cell.className = other.base[i].class;
      cell.classList.toggle("chosen", other === made && i === flat);
    });
  }
  const step = steps[current];
  const answer = step.kind === "update" ? explainUpdate(made, flat) : explainCall(calls[step.call], step.kind, made, flat);
  at("answer").classList.add("answered");
  at("answer").replaceChildren(...answer.map((line) => (typeof line === "string" ? element("p", {}, line) : line)));
}

// Color the cells of a grid by `share(i)`, relative to the largest over all grids given.
function light(parts) {
  const largest = Math.max(...parts.flatMap(({ values }) => values.map(Math.abs)), 0) || 1;
  for (const { made, values } of parts) {
    made.cells.forEach((cell, i) => {
      if (cell.classList.contains("masked")) return;
      cell.setAttribute("style", values[i] ? shade(values[i] / largest) : "");
      cell.classList.toggle("lit", Boolean(values[i]));
    });
  }
}

// "b + c + ...": the largest terms; the others are added up.
function sumOf(terms) {
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const rest = sorted.slice(SHOWN_TERMS);
  const texts = sorted.slice(0, SHOWN_TERMS).map((term) => term.text);
  if (rest.length) texts.push(`${show(rest.reduce((sum, term) => sum + term.value, 0))} (${rest.length} more)`);
  return texts.join(" + ") || "0";
}

const sumText = (total, terms) => `${total} = ${sumOf(terms)}`;

function explainCall(call, kind, made, flat) {
  const value = `${nameAt(made, flat)} = ${show(shownNumbers(made.id)[flat])}`;
  if (made.whole && (made.side === "inside" || (made.side === "out" && call.inside[0].probs && !call.jacobian))) return explainInside(call, made, flat, value);
  if (!made.whole || !call.jacobian) {
    const lines = kind === "backward" && made.whole ? passages(call, made, flat) : [];
    const sizes = (ids) => ids.reduce((sum, id) => sum + (id === null ? 0 : sizeOf(id)), 0);
    const derivatives = sizes(call.outputs) * sizes(call.inputs.filter((_, i) => call.dinputs[i] != null));
    return [derivatives ? `${value}. This op has ${derivatives.toLocaleString("en-US")} derivatives, too many for a page. A smaller model shows them.` : `${value}. This op has no gradient.`, ...lines];
  }
  const sides = { forward: ["out", "in"], backward: ["dout", "din"] }[kind];
  const outs = grids.filter((g) => g.side === sides[0]), ins = grids.filter((g) => g.side === sides[1] && g.index in call.jacobian);
  const J = Object.fromEntries(Object.entries(call.jacobian).map(([i, text]) => [i, unpack(text)]));
  const douts = kind === "backward" ? outs : null;
  const derivative = (row, g, column) => J[g.index][row * g.cells.length + column];
  // Backward multiplies each derivative by the gradient that arrived: the shares of a sum.
  const weight = (g, i) => (douts ? numbersOf(g.id)[i] : 1);
  const lines = [];
  if (outs.includes(made)) {
    const row = rowOf(made, flat, call.outputs);
    light(ins.map((g) => ({ made: g, values: g.cells.map((_, i) => derivative(row, g, i) * weight(made, flat)) })));
    if (kind === "forward") {
      lines.push(`${value}. Colored: its derivative with respect to each input number.`);
      if (call.terms) lines.push(termsText(call, row, ins, value, derivative));
    } else {
      lines.push(`${value}. Colored: where it goes, ${show(weight(made, flat))} times the derivative of this output.`);
      lines.push(...passages(call, made, flat));
    }
  } else if (ins.includes(made)) {
    const parts = outs.map((g) => ({ made: g, values: g.cells.map((_, i) => derivative(rowOf(g, i, call.outputs), made, flat) * weight(g, i)) }));
    light(parts);
    if (kind === "forward") lines.push(`${value}. Colored: the derivative of each output number with respect to it.`);
    else {
      const terms = parts.flatMap(({ made: g, values }) => values.flatMap((share, i) => (share ? [{ value: share,
        text: `${show(share)} (${show(weight(g, i))} from ${nameAt(g, i)} × ${show(derivative(rowOf(g, i, call.outputs), made, flat))})` }] : [])));
      lines.push(`Made of the gradients that arrived, each times a derivative: ${sumText(value, terms)}`, ...passages(call, made, flat));
    }
  } else lines.push(`${value}. It has no gradient.`);
  return lines;
}

// Row i of a matrix at [..., i], with the cells. An axis of length 1 is shared by the heads of a group.
function numbersInRow(g, place) {
  const row = place.reduce((sum, i, axis) => sum * g.shape[axis] + (g.shape[axis] === 1 ? 0 : i), 0), width = g.shape.at(-1);
  return [...Array(width).keys()].map((j) => ({ x: shownNumbers(g.id)[row * width + j], cell: g.cells[row * width + j] }));
}

// A number inside attention, or of its output, with the numbers that it is computed from.
function explainInside(call, made, flat, value) {
  if (made.cells[flat].classList.contains("masked")) return ["The mask hides this key from this query: the score is \u2212inf and the weight 0."];
  const index = indexOf(made.shape, flat), [lead, query, last] = [index.slice(0, -2), ...index.slice(-2)];
  const row = (name, i) => numbersInRow(grids.find((g) => g.name === name), [...lead, i]);
  const mark = (numbers) => numbers.forEach(({ cell }) => cell.classList.add("lit"));
  const products = (as, bs) => {
    [as, bs].forEach(mark);
    return sumOf(as.map((a, i) => ({ value: a.x * bs[i].x, text: `${show(a.x)} × ${show(bs[i].x)}` })).filter((term) => term.value));
  };
  if (made.name === "scores") return [`${value} = (${products(row("q", query), row("k", last))}) × ${show(Number(call.options.scale))}: the query times the key, times the scale.`];
  if (made.name === "out") return [`${value} = ${products(row("probs", query), row("probs", query).map((_, key) => row("v", key)[last]))}: the weights times the values.`];
  if (made.name === "probs") {
    const seen = row("scores", query).filter(({ x }) => x !== -Infinity);
    mark(seen);
    return [`${value} = e^${show(row("scores", query)[last].x)} / (${sumOf(seen.map(({ x }) => ({ value: Math.exp(x), text: `e^${show(x)}` })))}): softmax over this row of scores.`];
  }
  const probs = shownNumbers(call.inside[0].probs), dprobs = row("dprobs", query);
  if (made.name === "dprobs") return [`${value}: the gradient of this query's output times the value of this key.`];
  mark(dprobs);
  const mean = dprobs.reduce((sum, { x }, key) => sum + x * probs[flat - last + key], 0);
  return [`${value} = ${show(probs[flat])} × (${show(dprobs[last].x)} \u2212 ${show(mean)}): the weight times how far its gradient is above the mean of the row, in which each counts by its weight.`];
}

// "0.31 = 0.12 × 0.50 + ...": where an output is the sum of its inputs times their derivatives.
function termsText(call, row, ins, value, derivative) {
  const terms = ins.filter((g) => call.terms.includes(g.index)).flatMap((g) => [...numbersOf(g.id)].flatMap((x, i) => {
    const factor = derivative(row, g, i);
    if (!factor) return [];
    const name = nameAt(g, i);
    return [{ value: x * factor, text: factor === 1 ? `${show(x)} (${name})` : `${show(x)} × ${show(factor)} (${name})` }];
  }));
  return sumText(value, terms);
}

// In backward: the sums that a gradient is made of, or goes into, outside this op.
function passages(call, made, flat) {
  const isDout = made.side === "dout";
  const id = isDout ? call.outputs[made.index] : call.inputs[made.index];
  const uses = usesOf(id).map((use) => ({ ...use, numbers: numbersOf(calls[use.call].dinputs[use.input]) }));
  if (!uses.length || uses.some((use) => !use.numbers)) return [];
  const total = uses.reduce((sum, use) => sum + use.numbers[flat], 0);
  const terms = uses.map((use) => ({ value: use.numbers[flat], text: `${show(use.numbers[flat])} (${calls[use.call].op}, step ${stepOf("backward", use.call) + 1})` }));
  const name = data.values[id].name || (isDout ? made.name : `the gradient of ${made.name.slice(1)}`);
  const lines = uses.length > 1 || isDout ? [sumText(`${isDout ? "It is the sum of what came back: " : "Gradients add up: "}${name} ${show(total)}`, terms)] : [];
  const update = data.updates.find((u) => u.name && u.name === data.values[id].name);
  if (update && numbersOf(update.before)) lines.push(`${update.label}${indexText(data.values[update.before].shape, flat)}: from ${show(numbersOf(update.before)[flat])} to ${show(numbersOf(update.after)[flat])}.`);
  return lines;
}

// AdamW's step for one number, in the order of its computation.
function explainUpdate(made, flat) {
  const update = data.updates[steps[current].update], t = update.t, value = data.values.findIndex((v) => v.name === update.name);
  const { lr, betas: [b1, b2], eps, weight_decay: decay } = update.settings;
  for (const g of grids) g.cells[flat].classList.add("lit");
  const [before, gradient, clipped, after] = ["before", "gradient", "clipped", "after"].map((name) => shownNumbers(update[name])[flat]);
  const [m, v] = [update.state.exp_avg, update.state.exp_avg_sq].map((id) => shownNumbers(id)[flat]);
  const earlier = (now, beta, part) => (t === 1 ? 0 : (now - (1 - beta) * part) / beta);
  const decayed = before * (1 - lr * decay), mHat = m / (1 - b1 ** t), vHat = v / (1 - b2 ** t), step = (lr * mHat) / (Math.sqrt(vHat) + eps);
  const n = (x) => String(Number(x.toPrecision(4))).replaceAll("-", "\u2212");
  const uses = usesOf(value).map((use) => ({ ...use, x: shownNumbers(calls[use.call].dinputs[use.input])[flat] }));
  const rows = [
    ["gradient", sumOf(uses.map(({ call, x }) => ({ value: x, text: `${n(x)} (${calls[call].op}, step ${stepOf("backward", call) + 1})` }))), "", gradient],
    ["clipped", "gradient × min(1, limit / norm)", `${n(gradient)} × min(1, ${n(data.max_norm)} / ${n(data.norm)})`, clipped],
    ["decayed", "before × (1 \u2212 lr × weight decay)", `${n(before)} × (1 \u2212 ${lr} × ${decay})`, decayed],
    ["m", "β₁ m + (1 \u2212 β₁) clipped", `${b1} × ${n(earlier(m, b1, clipped))} + ${n(1 - b1)} × ${n(clipped)}`, m],
    ["v", "β₂ v + (1 \u2212 β₂) clipped²", `${b2} × ${n(earlier(v, b2, clipped ** 2))} + ${n(1 - b2)} × ${n(clipped)}²`, v],
    ["m̂", "m / (1 \u2212 β₁ᵗ)", `${n(m)} / (1 \u2212 ${b1}^${t})`, mHat],
    ["v̂", "v / (1 \u2212 β₂ᵗ)", `${n(v)} / (1 \u2212 ${b2}^${t})`, vHat],
    ["step", "lr × m̂ / (√v̂ + eps)", `${lr} × ${n(mHat)} / (${n(Math.sqrt(vHat))} + ${n(eps)})`, step],
    ["after", "decayed \u2212 step", `${n(decayed)} \u2212 ${n(step)}`, after],
  ];
  const lines = rows.map(([name, formula, numbers, result]) => element("tr", {}, element("th", { scope: "row" }, name),
    element("td", {}, formula, numbers ? element("span", {}, ` = ${numbers}`) : "", element("strong", {}, ` = ${n(result)}`))));
  return [`${update.name}${indexText(made.shape, flat)}, from ${n(before)} to ${n(after)}. Click another number below to see its update.`, element("table", {}, ...lines)];
}

// --- moving ---

function go(number) {
  current = Math.max(0, Math.min(steps.length - 1, number));
  const step = steps[current];
  grids = [];
  const body = step.kind === "update" ? updateCard(step) : callCard(step);
  const [focused, card] = [document.activeElement, at("card")];
  if (card.contains(focused)) card.focus({ preventScroll: true }); // what had the focus goes
  card.replaceChildren(element("h2", {}, `${current + 1} of ${steps.length}. ${label(step)}: ${step.kind}`), ...body);
  document.querySelectorAll("#timeline button").forEach((button, i) => {
    button.setAttribute("aria-pressed", i === current);
    button.tabIndex = i === current ? 0 : -1; // Tab goes past the list, the arrow keys through it
    if (i !== current) return;
    scrollTo(at("timeline"), button.offsetLeft + button.offsetWidth / 2, button.offsetTop);
    if (at("timeline").contains(focused)) button.focus({ preventScroll: true });
  });
  if (step.kind === "update") choose(grids[0], 0);
  const key = step.kind === "update" ? data.updates[step.update].name : step.call;
  at("minimap").className = step.kind;
  document.querySelectorAll("#minimap g").forEach((box) => box.classList.toggle("chosen", box.dataset.key === String(key)));
  const box = document.querySelector("#minimap .chosen rect");
  if (box) scrollTo(at("minimap"), Number(box.getAttribute("x")) + box.getAttribute("width") / 2, Number(box.getAttribute("y")));
  if (card.getBoundingClientRect().top < 0) card.scrollIntoView();
}

// Scroll a list, and not the page, until a place in it is in the middle.
function scrollTo(list, left, top) {
  list.scrollLeft = left - list.clientWidth / 2;
  list.scrollTop = top - list.clientHeight / 2;
}

function drawMinimap({ width, height, boxes, lines }) {
  const tip = element("marker", { id: "tip", viewBox: "0 0 6 6", refX: 6, refY: 3, markerWidth: 6, markerHeight: 6, orient: "auto-start-reverse" }, element("path", { d: "M0 0L6 3L0 6Z" }));
  const paths = lines.map((stops) => element("path", { d: `M${stops.map((stop) => stop.join(" ")).join("L")}` }));
  const drawn = boxes.map(({ key, ...place }) => {
    const isCall = typeof key === "number", text = isCall ? calls[key].label : key;
    const update = data.updates.findIndex((u) => u.name === key);
    const open = () => go(isCall ? (steps[current].kind === "backward" ? Math.max(stepOf("backward", key), key) : key) : steps.findIndex((s) => s.update === update));
    const onkeydown = (event) => ([" ", "Enter"].includes(event.key) ? (open(), event.preventDefault()) : null);
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = text;
    const letters = element("text", { x: place.x + place.width / 2, y: place.y + place.height / 2 }, isCall ? text : key.split(".").at(-1)[0]);
    return element("g", { "data-key": key, class: isCall ? "" : "leaf", role: "button", tabindex: 0, "aria-label": text, onclick: open, onkeydown }, title, element("rect", place), letters);
  });
  at("minimap").replaceChildren(element("svg", { width: width + 4, height: height + 4, viewBox: `-2 -2 ${width + 4} ${height + 4}`, "aria-label": "the graph of the step" }, element("defs", {}, tip), ...paths, ...drawn));
}

function search(jump) {
  const words = at("find").value.toLowerCase().split(/\s+/);
  let first = -1;
  document.querySelectorAll("#timeline button").forEach((button, i) => {
    const step = steps[i], names = step.kind === "update" ? [data.updates[step.update].name] : calls[step.call].inputs.map((id) => (id === null ? "" : data.values[id].name));
    const text = [button.textContent, step.kind, ...names].join(" ").toLowerCase();
    button.hidden = !words.every((word) => text.includes(word));
    if (!button.hidden && first < 0) first = i;
  });
  if (!jump || first < 0) return;
  go(first);
  at("card").focus(); // the arrow keys step again
}

let timer = null;
function play() {
  if (timer === null && current < steps.length - 1) timer = setInterval(() => (current < steps.length - 1 ? go(current + 1) : play()), 1000);
  else timer = clearInterval(timer) ?? null;
  at("play").setAttribute("aria-pressed", timer !== null);
  at("play").textContent = timer === null ? "Play" : "Pause";
}

// Draw a recording. op: the name of one to show if it is new. Else the place stays, if that op has it or another one.
export function draw(recorded, op = null) {
  const place = data && `${label(steps[current])}: ${steps[current].kind}`, isNew = data && !(op in data.functions);
  read(recorded);
  document.title = at("title").textContent = data.title;
  const last = calls.findIndex((call) => call.order === 0), attention = calls.findIndex((call) => call.inside[0].probs);
  const loss = numbersOf(calls[last].outputs[0])[0];
  at("facts").textContent = `${data.tokens.length ? `Text: ${data.tokens.map(visible).join(" | ")}. ` : ""}Loss: ${loss.toFixed(4)}. ${calls.length} ops forward, ${back.length} backward, ${data.updates.length} parameters changed.`;
  const first = { "the attention weights": stepOf("forward", attention), "the loss": stepOf("forward", last), "the first gradient": stepOf("backward", last), "a weight's update": steps.findIndex((s) => s.kind === "update") };
  at("first").replaceChildren("Look first at", ...Object.entries(first).filter(([, i]) => i >= 0).map(([text, i]) => button({ onclick: () => (go(i), at("inside")?.scrollIntoView()) }, text)));
  const headings = { forward: "Forward to the loss", backward: "Backward to the gradients", update: "Update of each weight" };
  at("timeline").replaceChildren(...steps.flatMap((step, i) => [
    ...(steps[i - 1]?.kind === step.kind ? [] : [element("h2", {}, headings[step.kind])]),
    button({ onclick: () => go(i) }, `${i + 1} ${label(step)}`),
  ]));
  drawMinimap(data.graph);
  at("find").value = "";
  const isKept = (step) => step && `${label(step)}: ${step.kind}` === place;
  const shown = isNew ? steps.findIndex((step) => calls[step.call]?.op === op) : -1;
  go(shown >= 0 ? shown : isKept(steps[current]) ? current : steps.findIndex(isKept));
}

function start() {
  at("back").addEventListener("click", () => go(current - 1));
  at("next").addEventListener("click", () => go(current + 1));
  at("play").addEventListener("click", play);
  at("find").addEventListener("input", () => search(false));
  at("find").addEventListener("keydown", (event) => (event.key === "Enter" ? search(true) : null));
  listen({ ArrowRight: () => go(current + 1), ArrowLeft: () => go(current - 1), Home: () => go(0), End: () => go(steps.length - 1), p: play });
  draw(dataOfPage());
  const asked = steps.findIndex((step) => step.kind !== "update" && nameOfCall(step) === location.hash.slice(1));
  if (asked >= 0) go(asked);
}

start();
