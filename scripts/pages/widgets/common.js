// What all pages share. web_page.py joins a page's modules into one script: a page opened as a file can import none.

// A widget is a function of its place on the page and its data: widgets.NAME = (place, data) => ...
export const widgets = {};

export function startWidgets() {
  for (const place of document.querySelectorAll("[data-widget]:not([data-started])")) {
    place.dataset.started = "yes";
    const data = JSON.parse(place.querySelector("script").textContent);
    place.replaceChildren();
    widgets[place.dataset.widget](place, data);
  }
}

// --- arithmetic ---

export function softmax(scores) {
  const best = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const exps = scores.map((score) => Math.exp(score - best));
  const sum = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / sum);
}

// --- elements ---

export const at = (id) => document.getElementById(id);
export const dataOfPage = () => JSON.parse(document.querySelector("script[type='application/json']").textContent);

const SVG_TAGS = new Set(["svg", "g", "rect", "path", "line", "text", "defs", "marker"]);

// element("button", {class: "x", onclick: f}, "text", another)
export function element(tag, attributes = {}, ...children) {
  const isSvg = SVG_TAGS.has(tag);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export const button = (attributes, ...children) => element("button", { type: "button", ...attributes }, ...children);

// A slider with its value beside its name. show(value) is the text of a value.
export function slider(name, range, show, changed) {
  const value = element("output");
  const input = element("input", { type: "range", ...range, oninput: () => update(true) });
  function update(tell) {
    value.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", value.textContent);
    if (tell) changed();
  }
  update(false);
  const label = element("label", { class: "control" }, `${name}: `, value, input);
  return { label, input, update: () => update(false), get: () => Number(input.value) };
}

export function choice(name, options, changed) {
  const select = element("select", { onchange: changed });
  options.forEach((text, i) => select.append(element("option", { value: i }, text)));
  return { label: element("label", { class: "control" }, `${name}: `, select), select, get: () => Number(select.value) };
}

export function checkbox(name, checked, changed) {
  const input = element("input", { type: "checkbox", checked, onchange: changed });
  return { label: element("label", { class: "control check" }, input, ` ${name}`), input, get: () => input.checked };
}

// A line of the library: on the site, a link to it.
export function sourceLine(path, line, text = `${path}:${line}`) {
  const home = document.querySelector("nav.site a");
  return home && /^(minigrad|gpt|finetune)\//.test(path) ? element("a", { href: new URL(`source/${path}.html#L${line}`, home.href) }, text) : text;
}

// The background of a number between 0 and 1, or, for signed numbers, between -1 and 1.
export function shade(share) {
  const strength = Math.min(Math.abs(share), 1).toFixed(3);
  return `background: rgb(var(--${share < 0 ? "cold" : "heat"}) / ${strength * 0.65})`;
}

export const visible = (text) => text.replace(/ /g, "\u00b7").replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");

// --- numbers ---

// The numbers of an array that Python has packed: "4" or "8" bytes each, then base64.
export const decoded = new Map();
export function unpack(text) {
  if (!decoded.has(text)) {
    const bytes = Uint8Array.from(atob(text.slice(1)), (c) => c.charCodeAt(0)).buffer;
    decoded.set(text, text[0] === "4" ? new Float32Array(bytes) : new Float64Array(bytes));
  }
  return decoded.get(text);
}

export function show(x, digits = 3) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "\u2212inf";
  const text = Number.isInteger(x) && Math.abs(x) < 1e6 ? String(x) : x.toPrecision(digits);
  return text.replaceAll("-", "\u2212");
}

// --- what this browser keeps ---

// It may be forbidden, or full: then set() returns false, and only this page remembers.
const unkept = {};
export const storage = {
  get(key) { try { return localStorage.getItem(key); } catch { return unkept[key] ?? null; } },
  set(key, text) { try { localStorage.setItem(key, text); return true; } catch { unkept[key] = text; return false; } },
};
