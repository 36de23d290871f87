"use strict";
// The charts of the page: what each shows, its description for screen readers, and its numbers.
const Charts = (() => {
  const CURVES = ["rate", "top1", "train_loss", "test_loss"];  // these have the same iterations
  const NO_DATA = "None of the selected policies has been measured.";
  const NO_DATA_IN = {
    cost: "No policy has a finished trial yet.",
    classes: "No confidence per class is recorded for the selected policies.",
  };
  const RANGE_COLOURS = ["#a9c6e3", "#7fb0dc", "#4f94cf", "#2f74b5", "#c8434b"];
  const GREY = "#8a929c";
  const MAX_TABLE_ROWS = 2000;
  const FEW_POINTS = 30;  // so few are marked, so that a single one is visible, too
  const NARROW = 700;     // pixels of a window without room for labels beside the lines
  const LABELLED = 6, LABEL_LENGTH = 13, LABEL_WIDTH = 7.4;  // lines with a label, its characters
  const PICTURE = {width: 900, height: 460, scale: 2};  // height: without the legend
  const PRINT_WIDTHS = {curve: 335, other: 690}, PRINT_HEIGHT = 230;  // pixels
  const make = Ranking.make;
  const charts = new Map();  // the chart of each id, see drawing.js, with its description and table
  const drawn = new Map();   // what Drawing.draw returned for each id
  const zooms = new Map();   // the ranges that the reader zoomed to, by id; CURVES have the same
  let highlighted = null;    // the label of the policy that is shown alone
  let pointed = () => {};    // called with the label under the pointer, or null
  let zoomed = () => {};     // called after each zoom of the curves

  // Shows a chart with its description and its table, or a sentence where there is no data.
  function show(id, chart) {
    const element = document.getElementById(id), figure = element.parentElement;
    const isEmpty = !chart.traces.some(trace => trace.y.some(y => y !== null));
    if (!charts.has(id)) equip(id, element, figure);
    charts.set(id, chart);
    for (const part of [element, figure.querySelector(".tools"), figure.querySelector("details")]) {
      part.hidden = isEmpty;
    }
    figure.querySelector(".no-data").hidden = !isEmpty;
    element.setAttribute("aria-label", chart.description);
    render(id);
    writeTable(id);
  }

  // The parts beside a chart, which stay when it is drawn again.
  function equip(id, element, figure) {
    const title = figure.querySelector("figcaption").textContent;
    const button = (text, save) => {
      const made = make("button", {type: "button", "aria-label": "Save " + title + " as " + text},
        text);
      made.addEventListener("click", save);
      return made;
    };
    figure.prepend(make("span", {class: "tools"},
      button("PNG", () => savePicture(id, title, "png")),
      button("SVG", () => savePicture(id, title, "svg")),
      button("CSV", () => saveNumbers(id, title))));
    const table = make("details", {}, make("summary", {}, "Numbers"), make("div",
      {class: "scroll", tabindex: "0", role: "region", "aria-label": "Numbers of this chart"}));
    table.addEventListener("toggle", () => writeTable(id));
    figure.append(table, make("p", {class: "no-data"}, NO_DATA_IN[id] || NO_DATA));
    element.setAttribute("role", "img");
    Interaction.watch(element, () => drawn.get(id), CURVES.includes(id), {
      pointed: label => pointed(label),
      zoomed: ranges => {
        if (CURVES.includes(id)) zoom(ranges && ranges.x);
        else {
          zooms.set(id, ranges);
          render(id);
        }
      },
    });
    new ResizeObserver(() => {
      const {area} = drawn.get(id) || {area: {}};
      if (area.width !== element.clientWidth || area.height !== element.clientHeight) render(id);
    }).observe(element);
  }

  // Draws a chart, in the size of its element unless a size is given.
  function render(id, size) {
    const element = document.getElementById(id);
    const [width, height] = size || [element.clientWidth, element.clientHeight];
    if (!width || element.hidden) return;
    const result = Drawing.draw(shown(id), width, height, 0);
    const previous = element.querySelector("svg");
    if (previous) previous.replaceWith(result.svg); else element.prepend(result.svg);
    drawn.set(id, result);
    fade(result.svg);
  }

  // A chart as it is shown, with the ranges that the reader zoomed to.
  function shown(id) {
    const chart = charts.get(id), ranges = zooms.get(CURVES.includes(id) ? CURVES[0] : id);
    if (!ranges) return chart;
    const isFromZero = chart.x.isLog && ranges.x[0] <= 0;
    const range = isFromZero ? [Math.min(1, ranges.x[1] / 2), ranges.x[1]] : ranges.x;
    return Object.assign({}, chart, {
      x: Object.assign({}, chart.x, {range, isZoomed: true}),
      y: Object.assign({}, chart.y, {range: ranges.y}),
    });
  }

  // Fades all that is not of the highlighted policy.
  function fade(svg) {
    for (const part of svg.querySelectorAll("[data-label]")) {
      part.classList.toggle("faded", highlighted !== null && part.dataset.label !== highlighted);
    }
  }

  // Shows the policy with this label and fades the others; without a label, none.
  function highlight(label) {
    if (label === highlighted) return;
    highlighted = label;
    drawn.forEach(({svg}) => fade(svg));
  }

  function savePicture(id, title, format) {
    const {width, scale} = PICTURE;
    const picture = Drawing.picture(shown(id), title, width, PICTURE.height);
    const height = Number(picture.getAttribute("height"));
    const text = new XMLSerializer().serializeToString(picture);
    const address = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
    if (format === "svg") return Promise.resolve(save(address, title, format));
    const image = new Image(width, height);
    image.src = address;
    return image.decode().then(() => {
      const canvas = Object.assign(document.createElement("canvas"),
        {width: width * scale, height: height * scale});
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      return save(canvas.toDataURL(), title, format);
    });
  }

  function saveNumbers(id, title) {
    const quoted = text => '"' + text.replace(/"/g, '""') + '"';
    const rows = charts.get(id).traces.filter(({name}) => name)
      .flatMap(line => line.x.map((x, n) => [quoted(line.name), x, line.y[n]]));
    const text = ["line,x,y", ...rows.map(row => row.map(v => v === null ? "" : v).join(","))];
    save("data:text/csv;charset=utf-8," + encodeURIComponent(text.join("\n") + "\n"), title, "csv");
  }

  function save(address, title, format) {
    const name = title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
    make("a", {href: address, download: name + "." + format}).click();
    return address;
  }

  // Writes the numbers of a chart below it; only while their table is open.
  function writeTable(id) {
    const details = document.getElementById(id).parentElement.querySelector("details");
    if (!details.open) return;
    const {traces, table} = charts.get(id);
    const [head, ...rows] = (table || tableOf)(traces.filter(({name}) => name));
    const row = cells => make("tr", {}, make("th", {scope: "row"}, cells[0]),
      ...cells.slice(1).map(cell => make("td", {}, cell)));
    details.querySelector(".scroll").replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...head.map(text => make("th", {scope: "col"}, text)))),
      make("tbody", {}, ...rows.slice(0, MAX_TABLE_ROWS).map(row))));
  }

  // A row for each x and a column for each line.
  function tableOf(lines) {
    const cellsAt = new Map();
    lines.forEach((line, n) => line.x.forEach((x, m) => {
      if (!cellsAt.has(x)) cellsAt.set(x, Array(lines.length).fill("-"));
      if (line.y[m] !== null) cellsAt.get(x)[n] = Axes.short(line.y[m]);
    }));
    const rows = [...cellsAt.entries()].sort((a, b) => a[0] - b[0]);
    const head = ["", ...lines.map(({name}) => name)];
    return [head, ...rows.map(([x, cells]) => [String(x), ...cells])];
  }

  function top1(policy) { return policy.metrics.top1[0]; }
  function iterations(policy) { return policy.metrics.iterations[0]; }

  function isChecked(id) { return document.getElementById(id).checked; }

  function lineTrace(policy, x, y, name, hoverName, width) {
    const style = Ranking.style(policy);
    const isMarked = y.filter(value => value !== null).length <= FEW_POINTS;
    return {
      kind: "line", label: policy.label, name, x, y, width, color: style.color, dash: style.dash,
      symbol: style.symbol, size: isMarked ? (x.length < 2 ? 9 : 5) : 0,
      hover: n => Axes.short(y[n]) + " at iteration " + Axes.grouped(x[n]) + "\n" + hoverName,
    };
  }

  function rateCurves(policy) {
    return policy.rate_curves.map(rates => {
      const seed = rates.seed === null ? "" : ", seed " + rates.seed;
      const trace = lineTrace(policy, rates.iteration, rates.rate, policy.label + seed,
        policy.label, 1.8);
      return rates.iteration.length < 2 ? trace : Object.assign(trace, {size: 0});
    });
  }

  // For each iteration the mean and the sample deviation (0 for one value) over the runs.
  function meansOver(runs, key, scale) {
    const valuesAt = new Map();
    for (const run of runs) run.iteration.forEach((iteration, n) => {
      if (run[key][n] === null) return;
      if (!valuesAt.has(iteration)) valuesAt.set(iteration, []);
      valuesAt.get(iteration).push(scale * run[key][n]);
    });
    return [...valuesAt.entries()].sort((a, b) => a[0] - b[0]).map(([iteration, values]) => {
      const n = values.length, mean = values.reduce((a, b) => a + b) / n;
      const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
      return {iteration, mean, deviation: n > 1 ? Math.sqrt(squares / (n - 1)) : 0};
    });
  }

  // The area within one deviation of the mean.
  function bandTrace(policy, means) {
    const back = [...means].reverse(), {color} = Ranking.style(policy);
    const low = ({mean, deviation}) => mean - deviation > 0 ? mean - deviation : mean;
    return {
      kind: "band", label: policy.label, color,
      x: means.map(point => point.iteration).concat(back.map(point => point.iteration)),
      y: means.map(point => point.mean + point.deviation).concat(back.map(low)),
    };
  }

  function runTraces(policy, runs, key, scale) {
    return runs.map(run => lineTrace(policy, run.iteration,
      run[key].map(value => value === null ? null : scale * value),
      policy.label + ", seed " + run.seed,
      policy.label + "\nseed " + run.seed + ", " + run.state, 1.1));
  }

  // The mean over the seeds in its band, or a line for each seed.
  function runCurves(selection, key, scale) {
    return selection.flatMap(policy => {
      const runs = policy.runs.filter(run => run[key].some(value => value !== null));
      if (isChecked("seeds")) return runTraces(policy, runs, key, scale);
      const means = meansOver(runs, key, scale);
      if (!means.length) return [];
      const line = lineTrace(policy, means.map(point => point.iteration),
        means.map(point => point.mean), policy.label,
        policy.label + (runs.length > 1 ? "\nmean of " + runs.length + " seeds" : ""), 2.2);
      return runs.length > 1 ? [bandTrace(policy, means), line] : [line];
    });
  }

  // Gives the first line of each policy a text at its end, where there is room; returns the room
  // that the texts need.
  function addEndTexts(selection, traces) {
    if (innerWidth < NARROW || selection.length > LABELLED) return 0;
    const texts = selection.map(policy => {
      const rank = policy.rank === null ? "" : policy.rank + (policy.tied ? "= " : " ");
      const text = rank + policy.function;
      return text.length > LABEL_LENGTH ? text.slice(0, LABEL_LENGTH - 1) + "\u2026" : text;
    });
    selection.forEach((policy, n) => {
      const first = traces.find(({name, label}) => name && label === policy.label);
      if (first) first.endText = texts[n];
    });
    return 12 + LABEL_WIDTH * Math.max(0, ...texts.map(text => text.length));
  }

  // The Top-1 axis shows where the ranked policies differ.
  function top1Range(selection) {
    const ranked = selection.filter(policy => policy.rank !== null);
    const tops = (ranked.length ? ranked : selection).map(top1).filter(value => value !== null)
      .map(value => 100 * value);
    if (!tops.length) return null;
    const high = Math.max(...tops), low = Math.min(...tops);
    const room = Math.max(3, 0.6 * (high - low));
    return [Math.max(0, low - room), Math.min(100.3, high + 0.2 * room)];
  }

  // The four curves have the same range of iterations and the same room at their sides.
  function drawCurves(selection) {
    const names = selection.map(policy => policy.label).join("; ") || "none";
    const measured = selection.filter(policy => top1(policy) !== null);
    const best = measured.map(policy => policy.label + " " + (100 * top1(policy)).toFixed(2));
    const traces = {
      rate: selection.flatMap(rateCurves),
      top1: runCurves(selection, "top1", 100),
      train_loss: runCurves(selection, "train_loss", 1),
      test_loss: runCurves(selection, "test_loss", 1),
    };
    const isLog = isChecked("log-iteration");
    const all = Axes.extent(CURVES.flatMap(id => traces[id].map(({x}) => x)), isLog) || [1, 10];
    const x = {title: "iteration", isLog, isWhole: true,
      range: isLog ? Axes.widened(all, true) : [0, all[1] || 1]};
    const loss = {isLog: isChecked("log-loss"), fromZero: true};
    const axes = {
      rate: {isLog: isChecked("log-rate"), fromZero: true}, top1: {range: top1Range(selection)},
      train_loss: loss, test_loss: loss,
    };
    const descriptions = {
      rate: "Learning rate against the iteration of " + names,
      top1: "Top-1 accuracy in percent against the iteration; mean of the best over the seeds: "
        + (best.join("; ") || "none"),
      train_loss: "Train loss against the iteration of " + names,
      test_loss: "Test loss against the iteration of " + names,
    };
    for (const id of CURVES) {
      const endMargin = addEndTexts(selection, traces[id]);
      show(id, {traces: traces[id], x, y: axes[id], endMargin, description: descriptions[id]});
    }
  }

  function costPoints(policies) {
    return {x: policies.map(iterations), y: policies.map(policy => 100 * top1(policy))};
  }

  // The range leaves out policies that are far worse than the best.
  function costRange(policies) {
    if (!policies.length) return null;
    const best = Math.max(...policies.map(policy => 100 * top1(policy)));
    const near = policies.filter(policy => 100 * top1(policy) > best - 12);
    const low = Math.min(
      ...near.map(policy => 100 * (top1(policy) - (policy.metrics.top1[1] || 0))));
    return [low - 0.5, Math.min(100.4, best + 0.8)];
  }

  function costMark(policy, isSelected) {
    const style = isSelected ? Ranking.style(policy) : {color: GREY, symbol: "circle"};
    return Object.assign({
      kind: "marks", label: policy.label, name: policy.label, size: 11,
      color: style.color, symbol: style.symbol,
      errorX: [policy.metrics.iterations[1] || 0], errorY: [100 * (policy.metrics.top1[1] || 0)],
      hover: () => Ranking.spreadText(policy, "top1") + " % after "
        + Ranking.spreadText(policy, "iterations") + " iterations\n" + policy.label,
    }, costPoints([policy]));
  }

  function drawCost(policies, selection) {
    const measured = policies.filter(policy => policy.rank !== null && top1(policy) !== null);
    const selected = new Set(selection.map(policy => policy.label));
    const front = measured.filter(policy => policy.on_front)
      .sort((a, b) => iterations(a) - iterations(b));
    const line = Object.assign({kind: "line", color: GREY, width: 2, dash: "dot"},
      costPoints(front));
    const marks = measured.map(policy => costMark(policy, selected.has(policy.label)));
    const frontTexts = front.map(policy => policy.label + " with "
      + (100 * top1(policy)).toFixed(2) + " percent after " + iterations(policy).toFixed(0));
    const isColoured = ({label}) => Number(selected.has(label));  // these are drawn last
    show("cost", {
      traces: [line, ...marks.sort((a, b) => isColoured(a) - isColoured(b))],
      x: {title: "#Iter", fromZero: true, isWhole: true},
      y: {title: "Top-1 (%)", range: costRange(measured)},
      description: "Top-1 against iterations of " + measured.length
        + " policies; on the Pareto front: " + (frontTexts.join("; ") || "none"),
      table: () => [["policy", "#Iter", "Top-1 %"], ...measured.map(policy => [policy.label,
        Ranking.spreadText(policy, "iterations"), Ranking.spreadText(policy, "top1")])],
    });
  }

  // The mean over the runs for each class; null if no run has a value.
  function meanConfidences(runs) {
    return runs[0].map((_, n) => {
      const values = runs.map(confidences => confidences[n])
        .filter(value => value !== null && value !== undefined);
      return values.length ? values.reduce((a, b) => a + b) / values.length : null;
    });
  }

  function classCurves(policy) {
    const runs = policy.runs.map(run => run.class_confidence).filter(Boolean);
    if (!runs.length) return [];
    const means = meanConfidences(runs);
    return [Object.assign(
      lineTrace(policy, means.map((_, n) => n), means, policy.label, policy.label, 1), {
        size: 7, hover: n => "class " + n + ": " + means[n].toFixed(4) + "\n" + policy.label,
      })];
  }

  function drawClasses(selection) {
    const traces = selection.flatMap(classCurves);
    show("classes", {
      traces, x: {title: "class", isWhole: true}, y: {title: "average confidence"},
      description: "Average confidence per class of " + traces.map(({name}) => name).join("; "),
    });
  }

  // A point is [k0, Top-1, whether a training diverged].
  function rangeTrace(curve, n) {
    const x = curve.points.map(([k0]) => k0), y = curve.points.map(([, share]) => 100 * share);
    return {
      kind: "line", name: curve.iteration + " iterations", x, y, width: 1 + n * 0.5, size: 8,
      color: RANGE_COLOURS[n % RANGE_COLOURS.length], symbol: "circle", dash: "solid",
      hollow: curve.points.map(([, , diverged]) => diverged),
      hover: m => "k0 = " + x[m] + ": " + y[m].toFixed(2) + " %\n" + curve.iteration
        + " iterations",
    };
  }

  function bestRateText(curve) {
    const [k0, share] = curve.points.reduce((a, b) => b[1] > a[1] ? b : a);
    return "k0 " + k0 + " with " + (100 * share).toFixed(2) + " percent after "
      + curve.iteration + " iterations";
  }

  function drawRangeTest(curves) {
    document.getElementById("range-text").textContent = curves
      ? "Top-1 (%) against the constant learning rate k0 (FIX), after several numbers of "
        + "iterations. A hollow mark: a training diverged."
      : "This task has fewer than three constant rates (FIX). Train more of them to see which "
        + "rates are good.";
    document.getElementById("range").parentElement.hidden = !curves;
    if (!curves) return;
    show("range", {
      traces: curves.map(rangeTrace), legend: true, x: {title: "k0", isLog: true},
      y: {title: "Top-1 (%)", fromZero: true},
      description: "Top-1 against k0 of constant rates; best: "
        + curves.map(bestRateText).join("; "),
    });
  }

  // Shows the same iterations in the four curves; without a range, all of them.
  function zoom(range) {
    zooms.set(CURVES[0], range && {x: range, y: null});
    CURVES.forEach(id => render(id));
    document.getElementById("from").value = range ? Math.round(range[0]) : "";
    document.getElementById("to").value = range ? Math.round(range[1]) : "";
    zoomed();
  }

  // The iterations that the reader has zoomed to, or null.
  function zoomRange() {
    const end = Number(document.getElementById("to").value);
    return end ? [Number(document.getElementById("from").value || 0), end] : null;
  }

  // The listeners are called with the label of the policy under the pointer, and after each zoom.
  function begin(whenPointed, whenZoomed) {
    pointed = whenPointed;
    zoomed = whenZoomed;
    const from = document.getElementById("from"), to = document.getElementById("to");
    const zoomToInput = () => {
      const start = Number(from.value || 0), end = Number(to.value);
      if (end > start) zoom([start, end]);
    };
    from.addEventListener("change", zoomToInput);
    to.addEventListener("change", zoomToInput);
    document.getElementById("reset").addEventListener("click", () => zoom(null));
    addEventListener("beforeprint", () => drawn.forEach((_, id) => render(id,
      [CURVES.includes(id) ? PRINT_WIDTHS.curve : PRINT_WIDTHS.other, PRINT_HEIGHT])));
    addEventListener("afterprint", () => drawn.forEach((_, id) => render(id)));
  }

  function update(task, selection) {
    drawCurves(selection);
    drawCost(task.policies, selection);
    drawClasses(selection);
    drawRangeTest(task.range_curves);
  }

  return {begin, update, highlight, zoom, zoomRange, shown};
})();
