// The page of a recorded training step. Its data are made by explain_data.py: calls of ops, the arrays, the updates.
const data = JSON.parse(document.querySelector("script[type='application/json']").textContent);
const SHOWN_TERMS = 12;
const at = (id) => document.getElementById(id);

// --- arrays ---

// The numbers of an array as they are in the data: "4" or "8" bytes each, then base64.
const decoded = new Map();
function unpack(text) {
  if (!decoded.has(text)) {
    const bytes = Uint8Array.from(atob(text.slice(1)), (c) => c.charCodeAt(0)).buffer;
    decoded.set(text, text[0] === "4" ? new Float32Array(bytes) : new Float64Array(bytes));
  }
  return decoded.get(text);
}

const numbersOf = (id) => (id !== null && data.values[id].data !== undefined ? unpack(data.values[id].data) : null);
const sizeOf = (id) => data.values[id].shape.reduce((a, b) => a * b, 1);
const shapeText = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

function show(x) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
  const text = Number.isInteger(x) && Math.abs(x) < 1e6 ? String(x) : x.toPrecision(3);
  return text.replace("-", "\u2212");
}

// The index of the flat place of a number: 5 in shape (2, 3) is [1,2].
function indexText(shape, flat) {
  const index = [];
  for (const size of [...shape].reverse()) {
    index.unshift(flat % size);
    flat = Math.floor(flat / size);
  }
  return index.length ? `[${index.join(",")}]` : "";
}

const nameAt = (made, flat) => `${made.name}${indexText(made.shape, flat)}`;

// --- steps ---

const calls = data.calls;
const back = calls.map((_, i) => i).filter((i) => calls[i].order !== null).sort((a, b) => calls[a].order - calls[b].order);
const steps = [
  ...calls.map((_, i) => ({ kind: "forward", call: i })),
  ...back.map((i) => ({ kind: "backward", call: i })),
  ...data.updates.map((_, i) => ({ kind: "update", update: i })),
];
const stepOf = (kind, call) => steps.findIndex((s) => s.kind === kind && s.call === call);

function label(step) {
  if (step.kind === "update") return `${data.optimizer}: ${data.updates[step.update].name}`;
  const { op, inputs } = calls[step.call];
  const parameter = inputs.map((id) => (id === null ? "" : data.values[id].name)).find(Boolean);
  return `${op}${parameter ? ` ${parameter.replace(/\.(weight|bias)$/, "")}` : ""}`;
}

// All uses of a value: {call, input}, those through which a gradient came back.
function usesOf(id) {
  return calls.flatMap((call, c) => call.inputs.flatMap((input, i) => (input === id && call.dinputs[i] != null ? [{ call: c, input: i }] : [])));
}

// --- one card ---

let current = 0;
let grids = []; // {side, index, id, name, cells, table}: side is "in", "out", "din", "dout" or the name of an array

function jumpTo(kind, call, text) {
  return element("button", { type: "button", onclick: () => go(stepOf(kind, call)) }, text);
}

function grid(side, index, id, name, note = "") {
  const value = data.values[id], numbers = numbersOf(id) ?? unpack(value.corner);
  const shape = value.data === undefined ? value.corner_shape : value.shape;
  const columns = shape.at(-1) ?? 1, rows = shape.length > 1 ? shape.at(-2) : 1;
  const largest = numbers.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), 0) || 1;
  const whole = value.data !== undefined;
  const indexed = whole ? shape : [...value.shape.slice(0, -2).map(() => 1), ...shape]; // a corner is of the first matrix
  const made = { side, index, id, name, shape: indexed, cells: [], whole };
  const isWhole = !value.dtype.startsWith("float"); // ids and masks have no shades
  const tables = [];
  for (let start = 0; start < numbers.length; start += rows * columns) {
    const table = element("table", { class: "grid" });
    for (let row = 0; row < rows; row += 1) {
      const cells = [];
      for (let column = 0; column < columns; column += 1) {
        const flat = start + row * columns + column;
        const cell = element("td", { tabindex: flat ? -1 : 0, style: isWhole ? "" : shade(numbers[flat] / largest) }, show(numbers[flat]));
        cell.addEventListener("click", () => {
          cell.blur(); // a cell that has the focus takes the arrow keys; after a click they go on stepping
          choose(made, flat);
        });
        cell.addEventListener("keydown", (event) => onCellKey(event, made, flat, columns));
        made.cells.push(cell);
        cells.push(cell);
      }
      table.append(element("tr", {}, ...cells));
    }
    tables.push(element("div", { class: "scroll" }, table));
  }
  made.base = made.cells.map((cell) => cell.getAttribute("style"));
  grids.push(made);
  const facts = `${shapeText(value.shape)} ${value.dtype}`;
  const caption = element("figcaption", {}, element("strong", {}, name), ` ${facts} `, note);
  if (value.data === undefined) {
    const s = value.statistics;
    caption.append(` Too large to show: the first ${shapeText(shape)} of ${sizeOf(id)} numbers; ${Object.entries(s).map(([name, x]) => `${name} ${show(Number(x))}`).join(", ")}.`);
  }
  return element("figure", {}, caption, ...tables);
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
  code.innerHTML = half.html.split("\n").map((line) => `<span class="row">${line}</span>`).join("\n");
  return element("details", open ? { open: true } : {}, element("summary", {}, `${half.path}:${half.line}`), code);
}

function callCard(step) {
  const call = calls[step.call], forward = step.kind === "forward", code = data.functions[call.op];
  const [here, ...further] = call.where;
  const lines = (places) => places.map((p) => element("div", {}, element("code", {}, `${p.path}:${p.line}`), ` in ${p.function}: `, element("code", {}, p.text)));
  const options = Object.entries(call.options).map(([name, value]) => `${name} = ${value}`).join(", ");
  const outputName = (i) => (call.outputs.length > 1 ? `out${i}` : "out");
  const present = call.inputs.map((id, i) => ({ id, i })).filter(({ id }) => id !== null);
  const body = [
    element("div", { class: "where" }, ...(here ? lines([here]) : []),
      further.length ? element("details", {}, element("summary", {}, "called from"), ...lines(further)) : ""),
    formulasOf(code),
    options ? element("p", { class: "soft" }, `Options: ${options}`) : "",
  ];
  if (forward) {
    body.push(element("h3", {}, "In"), arrays(present.map(({ id, i }) => grid("in", i, id, call.names[i], origin(id, "forward")))));
    body.push(element("h3", {}, "Out"), arrays(call.outputs.map((id, i) => grid("out", i, id, outputName(i), usedBy(id)))));
  } else {
    const douts = call.douts.map((id, i) => (id === null ? "" : grid("dout", i, id, `d${outputName(i)}`, arrivals(call.outputs[i]))));
    body.push(element("h3", {}, "Gradient of the output, which has arrived"), arrays(douts));
    const dinputs = present.filter(({ i }) => call.dinputs[i] != null);
    body.push(element("h3", {}, "Gradients of the inputs"), arrays(dinputs.map(({ id, i }) => grid("din", i, call.dinputs[i], `d${call.names[i]}`, target(id)))));
  }
  return [...body, answerBox(), source(code[step.kind], true), source(code[forward ? "backward" : "forward"], false)];
}

const arrays = (figures) => element("div", { class: "arrays" }, ...figures);
const answerBox = () => element("div", { class: "answer-box", id: "answer", "aria-live": "polite" }, element("p", {}, "Click a number, or move to it with Tab and the arrow keys and press Enter."));

function formulasOf(code) {
  const place = element("div", { class: "formulas" });
  place.innerHTML = code.formulas.join("");
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
  if (update >= 0) return element("button", { type: "button", onclick: () => go(steps.findIndex((s) => s.update === update)) }, `to ${value.name}`);
  return value.made_by ? jumpTo("backward", value.made_by[0], `to ${calls[value.made_by[0]].op}`) : value.name;
}

function updateCard(step) {
  const update = data.updates[step.update];
  const named = { before: "before", gradient: "gradient", clipped: "clipped gradient", ...update.state, after: "after" };
  const figures = Object.entries(named).map(([key, name]) => {
    const id = key in update.state ? update.state[key] : update[key];
    return grid(key, 0, id, key in update.state ? key : name);
  });
  const { max_norm: limit, norm } = data;
  const clip = limit === null ? "Gradients are not clipped." : `All gradients together have the norm ${show(norm)}; the limit is ${show(limit)}.`;
  const settings = Object.entries(update.settings).map(([name, value]) => `${name} = ${Array.isArray(value) ? `(${value.join(", ")})` : value}`).join(", ");
  return [element("p", {}, clip), formulasOf(data.rule), element("p", { class: "soft" }, `Options: ${settings}`), arrays(figures), answerBox(), source(data.rule.update, true)];
}

// --- a number is chosen ---

function rowOf(made, flat, outputs) { // the row of the Jacobian that belongs to a number of an output
  return flat + outputs.slice(0, made.index).reduce((sum, id) => sum + sizeOf(id), 0);
}

function choose(made, flat) {
  for (const other of grids) {
    other.cells.forEach((cell, i) => {
      cell.setAttribute("style", other.base[i]);
      cell.className = other === made && i === flat ? "chosen" : "";
    });
  }
  const step = steps[current];
  const answer = step.kind === "update" ? explainUpdate(flat) : explainCall(calls[step.call], step.kind, made, flat);
  at("answer").replaceChildren(...answer.map((line) => (typeof line === "string" ? element("p", {}, line) : line)));
}

// Color the cells of a grid by `share(i)`, relative to the largest over all grids given.
function light(parts) {
  const largest = Math.max(...parts.flatMap(({ made, values }) => values.map(Math.abs)), 0) || 1;
  for (const { made, values } of parts) {
    made.cells.forEach((cell, i) => {
      cell.setAttribute("style", values[i] ? shade(values[i] / largest) : "");
      cell.classList.toggle("lit", Boolean(values[i]));
    });
  }
}

// "a = b + c + ...": the largest terms; the others are added up.
function sumText(total, terms) {
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
  const rest = sorted.slice(SHOWN_TERMS);
  const texts = sorted.slice(0, SHOWN_TERMS).map((term) => term.text);
  if (rest.length) texts.push(`${show(rest.reduce((sum, term) => sum + term.value, 0))} (${rest.length} more)`);
  return `${total} = ${texts.join(" + ") || "0"}`;
}

function explainCall(call, kind, made, flat) {
  const value = `${nameAt(made, flat)} = ${show((numbersOf(made.id) ?? unpack(data.values[made.id].corner))[flat])}`;
  if (!made.whole || !call.jacobian) {
    const lines = kind === "backward" && made.whole ? passages(call, made, flat) : [];
    const sizes = (ids) => ids.reduce((sum, id) => sum + (id === null ? 0 : sizeOf(id)), 0);
    const derivatives = sizes(call.outputs) * sizes(call.inputs.filter((_, i) => call.dinputs[i] != null));
    return [derivatives ? `${value}. This op has ${derivatives.toLocaleString("en-US")} derivatives, too many for a page. They are there in a smaller model.` : `${value}. This op has no gradient.`, ...lines];
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
  if (update && numbersOf(update.before)) lines.push(`${data.optimizer} changed ${update.name}${indexText(data.values[update.before].shape, flat)} from ${show(numbersOf(update.before)[flat])} to ${show(numbersOf(update.after)[flat])}.`);
  return lines;
}

function explainUpdate(flat) {
  const update = data.updates[steps[current].update];
  const read = (id) => numbersOf(id)?.[flat];
  for (const g of grids) g.cells[flat]?.classList.add("lit");
  const [old, grad, clipped, now] = ["before", "gradient", "clipped", "after"].map((name) => read(update[name]));
  if (now === undefined) return ["This array is too large to be explained number by number."];
  const value = data.values.findIndex((v) => v.name === update.name);
  const terms = usesOf(value).map((use) => ({ use, x: numbersOf(calls[use.call].dinputs[use.input])?.[flat] })).map(({ use, x }) => ({ value: x, text: `${show(x)} (${calls[use.call].op}, step ${stepOf("backward", use.call) + 1})` }));
  const lines = [sumText(`gradient ${show(grad)}`, terms)];
  if (data.max_norm !== null) lines.push(`clipped ${show(clipped)} = ${show(grad)} × ${show(Math.min(1, data.max_norm / (data.norm + 1e-6)))}, which is min(1, ${show(data.max_norm)} / norm ${show(data.norm)})`);
  if (update.state.exp_avg !== undefined) {
    const { lr, betas: [b1, b2], eps, weight_decay: decay } = update.settings, t = update.t;
    const m = read(update.state.exp_avg), v = read(update.state.exp_avg_sq);
    const mHat = m / (1 - b1 ** t), vHat = v / (1 - b2 ** t), size = (lr * mHat) / (Math.sqrt(vHat) + eps);
    lines.push(`m = ${show(m)}, v = ${show(v)} after step ${t}; m̂ = m / (1 − ${b1}^${t}) = ${show(mHat)}, v̂ = v / (1 − ${b2}^${t}) = ${show(vHat)}`);
    lines.push(`step = lr m̂ / (√v̂ + eps) = ${show(lr)} × ${show(mHat)} / (${show(Math.sqrt(vHat))} + ${eps}) = ${show(size)}`);
    if (data.optimizer === "AdamW") lines.push(`after = before × (1 − lr × weight decay) − step = ${show(old)} × ${show(1 - lr * decay)} − ${show(size)} = ${show(now)}`);
    else lines.push(`after = ${show(now)}, before ${show(old)}`);
  }
  return lines;
}

// --- moving ---

function go(number) {
  current = Math.max(0, Math.min(steps.length - 1, number));
  const step = steps[current];
  grids = [];
  const body = step.kind === "update" ? updateCard(step) : callCard(step);
  at("card").replaceChildren(element("h2", {}, `${current + 1} of ${steps.length}. ${label(step)}${step.kind === "update" ? "" : `: ${step.kind}`}`), ...body);
  document.querySelectorAll("#timeline button").forEach((button, i) => {
    button.setAttribute("aria-pressed", i === current);
    if (i === current) scrollTo(at("timeline"), button.offsetLeft, button.offsetTop);
  });
  const key = step.kind === "update" ? data.updates[step.update].name : step.call;
  document.querySelectorAll("#minimap rect").forEach((box) => box.classList.toggle("chosen", box.dataset.key === String(key)));
  const box = document.querySelector("#minimap rect.chosen");
  if (box) scrollTo(document.querySelector("aside"), 0, at("minimap").offsetTop + Number(box.getAttribute("y")));
}

// Scroll a list, and not the page, until a place in it is in the middle.
function scrollTo(list, left, top) {
  list.scrollLeft = left - list.clientWidth / 2;
  list.scrollTop = top - list.clientHeight / 2;
}

function drawMinimap({ width, height, boxes, lines }) {
  const paths = lines.map((stops) => element("path", { d: `M${stops.map((stop) => stop.join(" ")).join("L")}` }));
  const rects = boxes.map(({ key, ...place }) => {
    const isCall = typeof key === "number";
    const update = data.updates.findIndex((u) => u.name === key);
    const open = () => go(isCall ? (steps[current].kind === "backward" ? Math.max(stepOf("backward", key), key) : key) : steps.findIndex((s) => s.update === update));
    const box = element("rect", { ...place, "data-key": key, class: isCall ? "" : "leaf", onclick: open });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = isCall ? label(steps[key]) : key;
    box.append(title);
    return box;
  });
  at("minimap").append(element("svg", { width: width + 4, height: height + 4, viewBox: `-2 -2 ${width + 4} ${height + 4}`, role: "img", "aria-label": "the graph of the step" }, ...paths, ...rects));
}

function search(jump) {
  const words = at("find").value.toLowerCase().split(/\s+/);
  let first = -1;
  document.querySelectorAll("#timeline button").forEach((button, i) => {
    const step = steps[i], names = step.kind === "update" ? [] : calls[step.call].inputs.map((id) => (id === null ? "" : data.values[id].name));
    const text = [button.textContent, step.kind, ...names].join(" ").toLowerCase();
    button.hidden = !words.every((word) => text.includes(word));
    if (!button.hidden && first < 0) first = i;
  });
  if (jump && first >= 0) go(first);
}

let timer = null;
function play() {
  if (timer === null && current < steps.length - 1) timer = setInterval(() => (current < steps.length - 1 ? go(current + 1) : play()), 1000);
  else timer = clearInterval(timer) ?? null;
  at("play").setAttribute("aria-pressed", timer !== null);
  at("play").textContent = timer === null ? "Play" : "Pause";
}

function start() {
  document.title = at("title").textContent = data.title;
  const last = calls.find((call) => call.order === 0);
  const loss = last && numbersOf(last.outputs[0]);
  at("facts").textContent = `${data.tokens.length ? `Text: ${data.tokens.map(visible).join(" | ")}. ` : ""}${calls.length} ops forward, ${back.length} back, ${data.updates.length} parameters changed.${loss ? ` Loss: ${loss[0]}.` : ""}`;
  at("timeline").append(...steps.map((step, i) => element("button", { type: "button", class: step.kind, onclick: () => go(i) }, `${i + 1} ${label(step)}`)));
  drawMinimap(data.graph);
  at("back").addEventListener("click", () => go(current - 1));
  at("next").addEventListener("click", () => go(current + 1));
  at("play").addEventListener("click", play);
  at("find").addEventListener("input", () => search(false));
  at("find").addEventListener("keydown", (event) => (event.key === "Enter" ? search(true) : null));
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { ArrowRight: current + 1, ArrowLeft: current - 1, Home: 0, End: steps.length - 1 }[event.key];
    if (move !== undefined) go(move);
    else if (event.key === "p") play();
    else if (event.key === "/") at("find").focus();
    else return;
    event.preventDefault();
  });
  go(0);
}

start();
