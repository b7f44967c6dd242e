// A teacher with two bumps, and a student that is one: move it, and see what each direction of the KL divergence costs.
// data: {x: [...], teacher: [the probability of each x], least: {name: [center, width], ...}}
import { widgets, softmax, element, slider } from "./common.js";

const bump = (x, center, width) => softmax(x.map((v) => -(((v - center) / width) ** 2)));
const divergence = (p, q) => p.reduce((sum, pi, i) => sum + pi * (Math.log(pi) - Math.log(q[i])), 0);

widgets.kl = (place, data) => {
  const { x, teacher } = data;
  const center = slider("Center", { min: -3, max: 3, step: 0.1, value: 0 }, (v) => v.toFixed(1), update);
  const width = slider("Width", { min: 0.8, max: 5, step: 0.1, value: 1.5 }, (v) => v.toFixed(1), update);
  const drawing = element("svg", { viewBox: "0 0 480 230", role: "img" });
  const curve = (p) => p.map((pi, i) => `${10 + (i * 460) / (x.length - 1)},${160 - 2200 * pi}`).join(" L");

  function update() {
    const student = bump(x, center.get(), width.get());
    const costs = { forward: divergence(teacher, student), reverse: divergence(student, teacher) };
    drawing.replaceChildren(
      element("path", { d: `M10,160 L${curve(teacher)} L470,160 Z`, class: "bar" }),
      element("path", { d: `M${curve(student)}`, class: "flow" }),
      ...Object.entries(costs).flatMap(([name, cost], row) => cell(name, cost, 174 + 26 * row)),
    );
    const shown = Object.entries(costs).map(([name, cost]) => `${name} KL ${cost.toFixed(2)}`).join(", ");
    drawing.setAttribute("aria-label", `center ${center.get()}, width ${width.get()}: ${shown}`);
  }

  const cell = (name, cost, y) => [
    element("text", { x: 84, y: y + 13, "text-anchor": "end" }, `${name} KL`),
    element("rect", { x: 92, y, width: Math.min(80 * cost, 320), height: 16, class: "bar" }),
    element("text", { x: 420, y: y + 13 }, cost.toFixed(2)),
  ];

  const moves = Object.entries(data.least).map(([name, [c, w]]) => element("button", { type: "button", onclick: () => {
    [center.input.value, width.input.value] = [c, w];
    [center, width].forEach((each) => each.update());
    update();
  } }, `Least ${name} KL`));
  place.append(
    element("figcaption", {}, "Filled: the teacher. Line: the student. Move it, and watch what each direction costs."),
    element("div", { class: "controls" }, center.label, width.label),
    drawing, element("p", { class: "controls" }, ...moves),
  );
  update();
};
