"use strict";
// Brings the sliders of the threshold to life: all numbers are those of results.json, in the element "data".
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const data = JSON.parse(document.getElementById("data").textContent);
  const [left, top, right, bottom] = data.box;

  const share = (ends, value) => {
    const [scale, low, high] = ends.split(",");
    const of = scale === "log" ? Math.log10 : Number;
    const part = (of(value) - of(Number(low))) / (of(Number(high)) - of(Number(low)));
    return part >= 0 && part <= 1 ? part : null;
  };

  const place = (svg, x, y) => {
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const across = share(svg.dataset.x, x);
    const up = share(svg.dataset.y, y);
    return {
      x: across === null ? null : left + across * (width - left - right),
      y: up === null ? null : top + (1 - up) * (height - top - bottom),
      floor: height - bottom,
    };
  };

  const mark = (svg, name) => {
    const made = document.createElementNS(SVG, name);
    made.setAttribute("class", "chosen");
    svg.append(made);
    return made;
  };

  const set = (node, values) => Object.entries(values).forEach(([key, value]) => node.setAttribute(key, value));

  const chart = (name) => document.querySelector(`svg[data-chart="${name}"]`);

  const percent = (value) => (100 * value).toFixed(2) + " %";

  const dots = new Map(); // by chart: all sliders of a set move one dot

  const moveDot = (name, x, y) => {
    const svg = chart(name);
    if (!svg) return;
    if (!dots.has(name)) dots.set(name, mark(svg, "circle"));
    const at = place(svg, x, y);
    const dot = dots.get(name);
    const seen = at.x !== null && at.y !== null;
    set(dot, { r: 5, cx: seen ? at.x : 0, cy: seen ? at.y : 0, visibility: seen ? "visible" : "hidden" });
  };

  const start = (input) => {
    const own = data.sliders[input.dataset.slider];
    const svg = chart("histogram-" + input.dataset.slider);
    const line = mark(svg, "line");
    const output = input.parentElement.querySelector("output");

    const show = (moved) => {
      const n = Number(input.value);
      const [threshold, fmr, fnmr] = [own.threshold[n], own.fmr[n], own.fnmr[n]];
      const accepted = Math.round(fmr * own.impostor);
      const refused = Math.round(fnmr * own.genuine);
      const text = `score ≥ ${Number(threshold.toPrecision(4))}: FAR ${percent(fmr)} (${accepted} of ${own.impostor}` +
        ` impostor pairs accepted), TAR ${percent(1 - fnmr)} (${refused} of ${own.genuine} genuine pairs refused)`;
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      const at = place(svg, threshold, 0);
      set(line, { x1: at.x ?? left, x2: at.x ?? left, y1: at.floor, y2: top, visibility: at.x === null ? "hidden" : "visible" });
      if (moved) {
        moveDot("roc-" + own.set, fmr, 1 - fnmr);
        moveDot("det-" + own.set, fmr, fnmr);
      }
    };

    // Begins where both errors are nearly equal.
    const gap = own.fmr.map((rate, n) => Math.abs(rate - own.fnmr[n]));
    input.value = gap.indexOf(Math.min(...gap));
    input.addEventListener("input", () => show(true));
    input.parentElement.hidden = false;
    show(false);
  };

  document.querySelectorAll("input[data-slider]").forEach(start);
})();
