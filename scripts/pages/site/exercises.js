// The list of all exercises: where this visitor is, and only those that hold some words, or are not passed yet.
import { at } from "../widgets/common.js";
import { passed } from "./passed.js";

const rows = [...document.querySelectorAll("main li")].sort((a, b) => a.value - b.value);
const isOpen = (row) => !(row.querySelector("a").textContent in passed);

function choose() {
  const words = at("find").value.toLowerCase().split(/\s+/);
  const holds = (text) => words.every((word) => text.toLowerCase().includes(word));
  for (const row of rows) row.hidden = !holds(`${row.closest("section").querySelector("h2").textContent} ${row.textContent}`) || (at("open").checked && !isOpen(row));
  for (const group of document.querySelectorAll("main section")) group.hidden = !group.querySelector("li:not([hidden])");
  at("none").hidden = rows.some((row) => !row.hidden);
}

const next = rows.find(isOpen), done = rows.filter((row) => !isOpen(row)).length;
if (done) at("next").replaceChildren(next ? `${done} of ${rows.length} passed. Continue with: ` : `All ${rows.length} passed.`, next ? next.querySelector("a").cloneNode(true) : "");
for (const event of ["input", "change"]) at("choice").addEventListener(event, choose);
choose(); // a browser keeps what was typed
