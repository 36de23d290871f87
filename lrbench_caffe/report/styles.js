"use strict";
// How policies are told apart: the colours can also be told apart by colour-blind people (the
// palette of Okabe and Ito), and each turn through them has another dash and another mark.
const Styles = (() => {
  const COLOURS = ["#1c7fc0", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const LENGTHS = {solid: "", dash: "9 4", dot: "2 3", dashdot: "9 3 2 3"};  // of dashes
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up"];
  const SVG = "http://www.w3.org/2000/svg";

  function ofSlot(slot) {
    const turn = Math.floor(slot / COLOURS.length);
    return {
      color: COLOURS[slot % COLOURS.length],
      dash: DASHES[turn % DASHES.length],
      symbol: SYMBOLS[turn % SYMBOLS.length],
    };
  }

  function element(name, attributes, ...content) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...content);
    return made;
  }

  // The lengths of the dashes of a line; empty for a solid one.
  function dashes(dash) { return LENGTHS[dash] || ""; }

  // A piece of the line of a style; without a style, an empty place of the same size.
  function swatch(style) {
    const line = style ? [element("line", {x1: 0, y1: 6, x2: 30, y2: 6, stroke: style.color,
      "stroke-dasharray": dashes(style.dash)})] : [];
    return element("svg", {class: "swatch", viewBox: "0 0 30 12", "aria-hidden": "true"}, ...line);
  }

  return {ofSlot, swatch, element, dashes};
})();
