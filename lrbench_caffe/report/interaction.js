"use strict";
// What the pointer does in a chart: it shows the nearest point, and dragging selects a range.
const Interaction = (() => {
  const REACH = 40;     // pixels to a point that is shown
  const LEAST = 8;      // pixels of a selection
  const make = Ranking.make;

  // The nearest point to a position: its trace, its number and its pixels; or null.
  function nearest({points, area}, [x, y]) {
    let best = null, least = REACH ** 2;
    for (const [trace, all] of points) if (trace.hover) {
      all.forEach((point, n) => {
        if (!point || point[0] < area.left - 1 || point[0] > area.right + 1) return;
        if (point[1] > area.bottom + 1) return;
        const distance = (point[0] - x) ** 2 + (point[1] - y) ** 2;
        if (distance < least) {
          least = distance;
          best = {trace, n, point};
        }
      });
    }
    return best;
  }

  // Watches the pointer in the element of a chart. current() returns what Drawing.draw returned for
  // it, or nothing. Listeners: pointed(label or null), zoomed({x, y} ranges; null: everything).
  // Where isXOnly, the selection is as high as the chart.
  function watch(element, current, isXOnly, {pointed, zoomed}) {
    const tip = make("div", {class: "tip", hidden: ""});
    const selection = make("div", {class: "selection", hidden: ""});
    element.append(tip, selection);
    let start = null;  // where dragging began
    let label = null;  // of the policy under the pointer

    const position = event => {
      const box = element.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    function show(hit) {
      tip.hidden = !hit;
      if (!hit) return;
      const {trace, n, point: [x, y]} = hit, {width} = current().area;
      tip.textContent = trace.hover(n);
      tip.style.borderColor = trace.color;
      tip.style.top = Math.max(0, y) + "px";
      tip.style.left = x < width / 2 ? x + 12 + "px" : "";
      tip.style.right = x < width / 2 ? "" : width - x + 12 + "px";
    }

    function point(newLabel) {
      if (newLabel === label) return;
      label = newLabel;
      pointed(label);
    }

    // The corners of the selection to a position within the axes.
    function corners([x, y]) {
      const {left, right, top, bottom} = current().area;
      const within = (value, low, high) => Math.min(high, Math.max(low, value));
      const xs = [start[0], within(x, left, right)].sort((a, b) => a - b);
      const ys = [start[1], within(y, top, bottom)].sort((a, b) => a - b);
      return {xs, ys: isXOnly || ys[1] - ys[0] < LEAST ? [top, bottom] : ys};
    }

    function stop() {
      start = null;
      selection.hidden = true;
    }

    element.addEventListener("pointerdown", event => {
      if (!current()) return;
      const [x, y] = position(event), {left, right, top, bottom} = current().area;
      if (event.button || x < left || x > right || y < top || y > bottom) return;
      start = [x, y];
      element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", event => {
      if (!current()) return;
      if (start) {
        const {xs, ys} = corners(position(event));
        selection.hidden = xs[1] - xs[0] < LEAST;
        Object.assign(selection.style, {left: xs[0] + "px", width: xs[1] - xs[0] + "px",
          top: ys[0] + "px", height: ys[1] - ys[0] + "px"});
        show(null);
        return;
      }
      const hit = nearest(current(), position(event));
      show(hit);
      point(hit && hit.trace.label || null);
    });
    element.addEventListener("pointerup", event => {
      if (!start) return;
      const {xs, ys} = corners(position(event)), {xScale, yScale, top, bottom} = current().area;
      const isWhole = ys[0] === top && ys[1] === bottom;
      stop();
      if (xs[1] - xs[0] < LEAST) return;
      zoomed({x: xs.map(xScale.value), y: isWhole ? null : [...ys].reverse().map(yScale.value)});
    });
    element.addEventListener("pointercancel", stop);
    element.addEventListener("pointerleave", () => {
      show(null);
      point(null);
    });
    element.addEventListener("dblclick", () => zoomed(null));
  }

  return {watch};
})();
