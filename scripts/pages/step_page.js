// What the two pages of a training step share, op by op (explain.js) and line by line (debugger.js): keys, code, matrices.
// An array of their data is {shape, dtype, data}. Of a large one, data are its first numbers, whose shape is its corner.
import { at, element, shade, unpack } from "./widgets/common.js";

// moves: key -> what it does. The key "/" leads to the field in which one searches.
export function listen(moves) {
  addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("[type=search], [type=text], [type=number], textarea, select, .tables[tabindex]");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = `${event.shiftKey && event.key === "F11" ? "Shift+" : ""}${event.key}`, move = key === "/" ? () => at("find").focus() : moves[key];
    if (!move) return;
    move();
    event.preventDefault();
  });
}

// Lines of code, each with its number from CSS. now: the one that is marked.
export const rowsOf = (lines, now = 0) => lines.map((line, i) => `<span class="row${i + 1 === now ? " now" : ""}" data-line="${i + 1}">${line || " "}</span>`).join("");

// An array as tables of its last two axes. cell(flat, look): a number. head: what a table begins with, and a row.
export function matrices(array, cell, headOfTable = () => [], headOfRow = () => []) {
  const numbers = unpack(array.data), shape = array.corner ?? array.shape, columns = shape.at(-1) ?? 1, rows = shape.length > 1 ? shape.at(-2) : 1;
  const largest = numbers.reduce((a, b) => (Number.isFinite(b) ? Math.max(a, Math.abs(b)) : a), 0) || 1;
  const look = (flat) => (array.dtype.startsWith("float") ? shade(numbers[flat] / largest) : ""); // ids and masks have no shades
  const range = (count) => [...Array(count).keys()], tables = [];
  for (let start = 0; start < numbers.length; start += rows * columns) {
    const lines = range(rows).map((row) => element("tr", {}, ...headOfRow(start, row), ...range(columns).map((column) => {
      const flat = start + row * columns + column;
      return cell(numbers[flat], look(flat), flat);
    })));
    tables.push(element("table", { class: "grid" }, ...headOfTable(start), ...lines));
  }
  return tables;
}
