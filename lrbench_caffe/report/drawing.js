"use strict";
// Draws a chart as SVG. A chart is a value:
//   {traces, x, y, endMargin, legend}
// x and y are the axes: {title, isLog, isWhole, fromZero, range, isZoomed}, each optional.
// A trace is a line, a band (an area) or marks at points:
//   {kind, label, name, x, y, color, dash, width, symbol, size, hollow, errorX, errorY, endText,
//    hover}
// label: the policy; name: the text of a legend; hollow: which marks are not filled; errorX, errorY:
// deviations at each point; endText: the text at the right end; hover: from the number of a point
// to its text. Colours of axes and texts are those of the style sheet.
const Drawing = (() => {
  const LINE_HEIGHT = 18, CHARACTER = 7.2, WIDE_CHARACTER = 8;  // pixels of digits and of texts
  const TOP = 10, RIGHT = 14, BOTTOM = 46, LEFT = 20, TITLE = 20;  // margins and an axis title
  const LEAST_LEFT = 60;    // so that most charts begin at the same place
  const TITLE_HEIGHT = 28;  // of the title of a picture
  const LABEL_HEIGHT = 15;  // between two texts at the ends of lines
  const OVERHANG = 6;       // pixels of a mark at the edge
  const CAP = 3;            // half the width of the end of an error bar
  const FONT = "13px system-ui, 'DejaVu Sans', sans-serif";
  const PAPER_STYLE = "text{fill:#1b1f24;font:" + FONT + "}.title{font-weight:600}"
    + ".gridline{stroke:#d8dce2}.axis{stroke:#8a929c}.error{stroke:#8a929c}";
  const element = Styles.element;
  let clips = 0;  // each drawing has a clip path of its own

  // The range of an axis: its own, else that of the values, within a range of the other axis.
  function rangeOf(axis, traces, key, other, otherRange) {
    if (axis.range) return axis.range;
    const inside = trace => otherRange === null ? trace[key]
      : trace[key].filter((_, n) => trace[other][n] >= otherRange[0]
        && trace[other][n] <= otherRange[1]);
    const extent = Axes.extent(traces.map(inside), axis.isLog)
      || Axes.extent(traces.map(trace => trace[key]), axis.isLog)
      || (axis.isLog ? [1, 10] : [0, 1]);
    return Axes.widened(extent, axis.isLog, axis.fromZero);
  }

  // The scales of a chart in a picture of this size, and the rectangle between the axes.
  function geometry({traces, x, y, endMargin}, width, height, top) {
    const xRange = rangeOf(x, traces, "x", "y", null);
    const yRange = rangeOf(y, traces, "y", "x", x.isZoomed ? xRange : null);
    const bottom = height - BOTTOM, rows = Math.max(2, Math.floor((bottom - top) / 45));
    const yScale = Axes.scale(yRange, [bottom, top], y.isLog), yTicks = Axes.ticks(yScale, rows);
    const digits = Math.max(0, ...yTicks.map(tick => tick.text.length));
    const left = Math.max(LEAST_LEFT, LEFT + CHARACTER * digits + (y.title ? TITLE : 0));
    const right = width - Math.max(RIGHT, endMargin || 0);
    const xScale = Axes.scale(xRange, [left, right], x.isLog);
    const widest = Math.max(...Axes.ticks(xScale, 6, x.isWhole).map(tick => tick.text.length), 1);
    const columns = Math.max(2, Math.floor((right - left) / (CHARACTER * widest + 36)));
    return {width, height, left, right, top, bottom, xScale, yScale, yTicks,
      xTicks: Axes.ticks(xScale, columns, x.isWhole)};
  }

  function frame({left, right, top, bottom, height, xScale, yScale, xTicks, yTicks}, x, y) {
    const parts = [];
    for (const {value, text} of xTicks) {
      const at = xScale.pixel(value);
      parts.push(element("line", {class: "gridline", x1: at, x2: at, y1: top, y2: bottom}),
        element("text", {x: at, y: bottom + 17, "text-anchor": "middle"}, text));
    }
    for (const {value, text} of yTicks) {
      const at = yScale.pixel(value);
      parts.push(element("line", {class: "gridline", x1: left, x2: right, y1: at, y2: at}),
        element("text", {x: left - 7, y: at + 4.5, "text-anchor": "end"}, text));
    }
    parts.push(element("line", {class: "axis", x1: left, x2: right, y1: bottom, y2: bottom}));
    if (x.title) parts.push(element("text", {x: (left + right) / 2, y: height - 8,
      "text-anchor": "middle"}, x.title));
    if (y.title) parts.push(element("text", {x: 0, y: 0, "text-anchor": "middle",
      transform: "translate(13 " + (top + bottom) / 2 + ") rotate(-90)"}, y.title));
    return parts;
  }

  // The points of a trace in pixels; null where it has no value.
  function pixels(trace, {xScale, yScale}) {
    return trace.x.map((x, n) => {
      if (x === null || trace.y[n] === null) return null;
      const point = [xScale.pixel(x), yScale.pixel(trace.y[n])];
      return point[0] === null || point[1] === null ? null : point;
    });
  }

  // A path through points. Of those in a column of pixels it needs the first, lowest, highest and
  // last, so a line with thousands of points is drawn as fast as a short one.
  function path(points) {
    const parts = [];
    let isOpen = false, column = null, bounds = null, last = null;
    const add = ([x, y]) => {
      parts.push((isOpen ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1));
      isOpen = true;
    };
    const close = () => {
      if (!bounds) return;
      const inner = bounds[0][2] < bounds[1][2] ? bounds : [bounds[1], bounds[0]];
      for (const point of inner) if (point[2] > column.first && point[2] < last[2]) add(point);
      if (last[2] > column.first) add(last);
      bounds = null;
    };
    points.forEach((point, n) => {
      if (!point) {
        close();
        isOpen = false;
        return;
      }
      const numbered = [point[0], point[1], n], pixel = Math.round(point[0]);
      if (bounds && pixel === column.pixel) {
        if (point[1] < bounds[0][1]) bounds[0] = numbered;
        if (point[1] > bounds[1][1]) bounds[1] = numbered;
      } else {
        close();
        add(point);
        column = {pixel, first: n};
        bounds = [numbered, numbered];
      }
      last = numbered;
    });
    close();
    return parts.join("");
  }

  // A mark around a point, as a part of a path.
  function mark([x, y], symbol, size) {
    const r = size / 2, at = (dx, dy) => (x + dx).toFixed(1) + " " + (y + dy).toFixed(1);
    if (symbol === "square") return "M" + at(-r, -r) + "h" + size + "v" + size + "h-" + size + "z";
    if (symbol === "diamond") {
      const d = 1.3 * r;
      return "M" + at(0, -d) + "L" + at(d, 0) + "L" + at(0, d) + "L" + at(-d, 0) + "z";
    }
    if (symbol === "triangle-up") {
      return "M" + at(0, -1.2 * r) + "L" + at(1.15 * r, r) + "L" + at(-1.15 * r, r) + "z";
    }
    const arc = "a" + r + " " + r + " 0 1 0 ";
    return "M" + at(-r, 0) + arc + size + " 0" + arc + "-" + size + " 0";
  }

  function marks(trace, points) {
    const of = isHollow => points.map((point, n) => point
      && Boolean(trace.hollow && trace.hollow[n]) === isHollow
      ? mark(point, trace.symbol, trace.size) : "").join("");
    const look = {stroke: trace.color, "stroke-width": 1.5};
    return [[of(false), trace.color], [of(true), "none"]].filter(([d]) => d)
      .map(([d, fill]) => element("path", Object.assign({class: "marks", d, fill}, look)));
  }

  // The error bars of a trace's points.
  function errors(trace, {xScale, yScale}) {
    const parts = trace.x.map((x, n) => {
      const y = trace.y[n], dx = trace.errorX[n], dy = trace.errorY[n];
      const [px, py] = [xScale.pixel(x), yScale.pixel(y)];
      const [x1, x2] = [xScale.pixel(x - dx), xScale.pixel(x + dx)];
      const [y1, y2] = [yScale.pixel(y - dy), yScale.pixel(y + dy)];
      const cap = (at, across, isX) => isX ? "M" + at + " " + (across - CAP) + "v" + 2 * CAP
        : "M" + (across - CAP) + " " + at + "h" + 2 * CAP;
      return (dx ? "M" + x1 + " " + py + "H" + x2 + cap(x1, py, true) + cap(x2, py, true) : "")
        + (dy ? "M" + px + " " + y1 + "V" + y2 + cap(y1, px, false) + cap(y2, px, false) : "");
    });
    return element("path", {class: "error", fill: "none", d: parts.join("")});
  }

  function traceGroup(trace, points, area) {
    const group = element("g", {class: "trace"});
    if (trace.label) group.dataset.label = trace.label;
    if (trace.kind === "band") {
      const d = path(points);
      group.append(element("path", {d: d && d + "Z", fill: trace.color, "fill-opacity": 0.18}));
    }
    if (trace.kind === "line") {
      group.append(element("path", {class: "line", d: path(points), fill: "none",
        stroke: trace.color, "stroke-width": trace.width, "stroke-linejoin": "round",
        "stroke-dasharray": Styles.dashes(trace.dash)}));
    }
    if (trace.errorX) group.append(errors(trace, area));
    if (trace.size) group.append(...marks(trace, points));
    return group;
  }

  // The texts at the right ends of lines, where they do not cover each other.
  function endTexts(points, area) {
    const texts = [], heights = [];
    for (const [trace, all] of points) {
      if (!trace.endText) continue;
      const shown = all.filter(
        point => point && point[0] <= area.right + 1 && point[0] >= area.left);
      const end = shown[shown.length - 1];
      if (!end || end[1] > area.bottom + 1 || end[1] < area.top - 1) continue;
      if (heights.some(height => Math.abs(height - end[1]) < LABEL_HEIGHT)) continue;
      heights.push(end[1]);
      const text = element("text", {class: "end", x: end[0] + 7, y: end[1] + 4.5}, trace.endText);
      text.style.fill = trace.color;
      text.dataset.label = trace.label;
      texts.push(text);
    }
    return texts;
  }

  // The entries of a legend in lines that fit the width, below a height; and the height below it.
  function legend(traces, width, top) {
    const parts = [];
    let x = LEFT, y = top + LINE_HEIGHT;
    for (const trace of traces.filter(({name}) => name)) {
      const needed = 42 + WIDE_CHARACTER * trace.name.length + 10;
      if (x > LEFT && x + needed > width) {
        x = LEFT;
        y += LINE_HEIGHT;
      }
      const line = {kind: "line", size: trace.size && 6, errorX: null, hollow: null};
      parts.push(
        traceGroup(Object.assign({}, trace, line), [[x, y - 4.5], [x + 34, y - 4.5]], null),
        element("text", {x: x + 42, y}, trace.name));
      x += needed;
    }
    return {parts, height: parts.length ? y - top + 8 : 0};
  }

  // Returns the SVG of a chart, its geometry, and the points of each trace in pixels. The picture is
  // drawn below the pixels of a title.
  function draw(chart, width, height, title) {
    const key = chart.legend ? legend(chart.traces, width, title) : {parts: [], height: 0};
    const area = geometry(chart, width, height, title + TOP + key.height);
    const points = new Map(chart.traces.map(trace => [trace, pixels(trace, area)]));
    const clip = "clip-" + ++clips, overhang = chart.x.isZoomed ? 0 : OVERHANG;
    const svg = element("svg", {viewBox: "0 0 " + width + " " + height, width, height,
      "aria-hidden": "true"},
    element("clipPath", {id: clip}, element("rect", {x: area.left - overhang,
      y: area.top - OVERHANG, width: Math.max(0, area.right - area.left + 2 * overhang),
      height: Math.max(0, area.bottom - area.top + OVERHANG)})),
    ...frame(area, chart.x, chart.y),
    element("g", {class: "traces", "clip-path": "url(#" + clip + ")"},
      ...chart.traces.map(trace => traceGroup(trace, points.get(trace), area))),
    ...key.parts,
    ...endTexts(points, area));
    return {svg, area, points};
  }

  // A picture of its own: dark on white, with a title and a legend. The legend makes it higher.
  function picture(chart, title, width, chartHeight) {
    const height = chartHeight + legend(chart.traces, width, 0).height;
    const endless = chart.traces.map(trace => Object.assign({}, trace, {endText: ""}));
    const whole = Object.assign({}, chart, {traces: endless, endMargin: 0, legend: true});
    const {svg} = draw(whole, width, height, TITLE_HEIGHT);
    svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    svg.removeAttribute("aria-hidden");
    svg.prepend(element("style", {}, PAPER_STYLE),
      element("rect", {width, height, fill: "#fff"}),
      element("text", {class: "title", x: LEFT, y: 22}, title));
    return svg;
  }

  return {draw, picture};
})();
