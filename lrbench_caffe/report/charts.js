"use strict";
// The charts, drawn by plotly.js. Each has a description for screen readers and a table of its
// numbers.
const Charts = (() => {
  const CURVES = ["rate", "top1", "train_loss", "test_loss"];  // these zoom together
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
  const LABELLED = 6, LABEL_HEIGHT = 15;  // lines with a label, and pixels between two labels
  const COUNT = {exponentformat: "none", separatethousands: true};  // an axis of iterations
  const PAPER = {paper_bgcolor: "#fff", plot_bgcolor: "#fff", showlegend: true};
  const PICTURE = {width: 900, height: 500, scale: 2};
  const PRINT_WIDTHS = {curve: 335, other: 690}, PRINT_HEIGHT = 230;  // pixels
  const make = Ranking.make;
  const tableLines = new Map();  // for each chart, a function that returns the lines of its table
  let isLinking = false;  // while the curves follow the one that was zoomed
  let pointed = () => {};  // called with the label under the mouse, or null
  let zoomed = () => {};   // called after each zoom

  function layout(x, y, more) {
    const axis = {
      automargin: true, gridcolor: "#d8dce2", zeroline: false, exponentformat: "power",
    };
    return Object.assign({
      margin: {l: 56, r: 12, t: 30, b: 44}, showlegend: false, hovermode: "closest",
      uirevision: "kept", dragmode: "zoom", autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: {family: "system-ui, 'DejaVu Sans', sans-serif", size: 13},
      hoverlabel: {font: {color: "#fff"}},
      xaxis: Object.assign({}, axis, x), yaxis: Object.assign({}, axis, y)}, more || {});
  }

  // Draws a chart with its description and its table, or a sentence where there is no data.
  // lines returns the lines of the table; without it, they are the traces that have a name.
  function draw(id, traces, chartLayout, description, lines) {
    const chart = document.getElementById(id), figure = chart.parentElement;
    const isEmpty = !traces.some(trace => trace.x.length && trace.y.some(y => y !== null));
    if (!figure.querySelector(".no-data")) {
      figure.append(make("p", {class: "no-data"}, NO_DATA_IN[id] || NO_DATA));
    }
    figure.querySelector(".no-data").hidden = !isEmpty;
    const appears = chart.hidden && !isEmpty;
    chart.hidden = isEmpty;
    addTools(figure, id);
    figure.querySelector(".tools").hidden = isEmpty;
    const isNew = !chart.on;
    Plotly.react(chart, traces, chartLayout, {responsive: true, displaylogo: false,
      displayModeBar: "hover", modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d"]});
    if (isNew) {
      chart.on("plotly_hover", ({points}) => pointed(labelOf(points[0])));
      chart.on("plotly_unhover", () => pointed(null));
    }
    if (appears) Plotly.Plots.resize(chart);  // a hidden chart has no size
    chart.setAttribute("role", "group");  // not an image, because it contains buttons
    chart.setAttribute("aria-label", description);
    chart.querySelectorAll(".main-svg").forEach(svg => svg.setAttribute("aria-hidden", "true"));
    const named = () => traces.filter(trace => trace.name)
      .map(({name, x, y}) => ({name, x, y}));
    tableLines.set(id, lines || named);
    const details = tableOf(figure, id);
    details.hidden = isEmpty;
    writeTable(details, id);
  }

  // The policy of a point: each point of a trace may have its own.
  function labelOf({data, pointIndex}) {
    return Array.isArray(data.meta) ? data.meta[pointIndex] : data.meta || null;
  }

  // Fades all that is not of the policy with this label; without a label, nothing.
  function highlight(label) {
    const opacity = of => label === null || !of || of === label ? "" : "0.12";
    for (const trace of document.querySelectorAll(".js-plotly-plot .scatterlayer > .trace")) {
      const meta = trace.__data__ && trace.__data__[0].trace.meta;
      if (Array.isArray(meta)) {
        trace.querySelectorAll(".point, .errorbar").forEach(mark => {
          const point = mark.__data__ && mark.__data__.i;
          mark.style.opacity = opacity(meta[point]);
        });
      } else trace.style.opacity = opacity(meta);
    }
  }

  // The buttons that save a chart.
  function addTools(figure, id) {
    if (figure.querySelector(".tools")) return;
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
  }

  // The picture has a white background and a legend, whatever the page looks like.
  function savePicture(id, title, format) {
    const {data, layout} = document.getElementById(id);
    const named = data.map(trace => Object.assign({}, trace, {showlegend: Boolean(trace.name)}));
    const picture = Object.assign({}, layout, PAPER, {title: {text: title}, annotations: [],
      margin: {l: 70, r: 20, t: 50, b: 60}});
    return Plotly.toImage({data: named, layout: picture}, Object.assign({format}, PICTURE))
      .then(address => save(address, title, format));
  }

  function saveNumbers(id, title) {
    const lines = tableLines.get(id)(), quoted = text => '"' + text.replace(/"/g, '""') + '"';
    const rows = lines.flatMap(line => line.x.map((x, n) => [quoted(line.name), x, line.y[n]]));
    const text = ["line,x,y", ...rows.map(row => row.map(v => v === null ? "" : v).join(","))];
    save("data:text/csv;charset=utf-8," + encodeURIComponent(text.join("\n") + "\n"), title, "csv");
  }

  function save(address, title, format) {
    const name = title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
    make("a", {href: address, download: name + "." + format}).click();
  }

  // The element below a chart that holds its numbers.
  function tableOf(figure, id) {
    const existing = figure.querySelector("details");
    if (existing) return existing;
    const details = make("details", {}, make("summary", {}, "Numbers"),
      make("div", {class: "scroll", tabindex: "0", role: "region",
        "aria-label": "Numbers of this chart"}));
    details.addEventListener("toggle", () => writeTable(details, id));
    figure.append(details);
    return details;
  }

  // Writes a row for each x and a column for each line; only while the table is open.
  function writeTable(details, id) {
    if (!details.open) return;
    const lines = tableLines.get(id)(), cellsAt = new Map();
    lines.forEach((line, n) => line.x.forEach((x, m) => {
      if (!cellsAt.has(x)) cellsAt.set(x, Array(lines.length).fill("-"));
      if (line.y[m] !== null) cellsAt.get(x)[n] = Number(line.y[m].toPrecision(5)).toString();
    }));
    const head = make("tr", {}, make("th", {scope: "col"}, ""),
      ...lines.map(line => make("th", {scope: "col"}, line.name)));
    const body = [...cellsAt.entries()].sort((a, b) => a[0] - b[0]).slice(0, MAX_TABLE_ROWS)
      .map(([x, cells]) => make("tr", {}, make("th", {scope: "row"}, String(x)),
        ...cells.map(cell => make("td", {}, cell))));
    details.querySelector(".scroll").replaceChildren(
      make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // plotly.js interprets some tags and entities in texts.
  function escaped(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  function top1(policy) { return policy.metrics.top1[0]; }
  function iterations(policy) { return policy.metrics.iterations[0]; }

  function isChecked(id) { return document.getElementById(id).checked; }

  function lineTrace(policy, x, y, name, hoverName, width) {
    const style = Ranking.style(policy);
    const isMarked = y.filter(value => value !== null).length <= FEW_POINTS;
    return {
      type: "scatter", mode: isMarked ? "lines+markers" : "lines", x, y, name, meta: policy.label,
      line: {width, color: style.color, dash: style.dash},
      marker: {color: style.color, symbol: style.symbol, size: x.length < 2 ? 9 : 5},
      hovertemplate: "%{y:.4~g} at %{x}<extra>" + hoverName + "</extra>",
    };
  }

  function rateCurves(policy) {
    return policy.rate_curves.map(rates => {
      const seed = rates.seed === null ? "" : ", seed " + rates.seed;
      const trace = lineTrace(policy, rates.iteration, rates.rate, policy.label + seed,
        escaped(policy.label), 1.8);
      return rates.iteration.length < 2 ? trace : Object.assign(trace, {mode: "lines"});
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
      type: "scatter", mode: "lines", meta: policy.label, hoverinfo: "skip", fill: "toself",
      x: means.map(point => point.iteration).concat(back.map(point => point.iteration)),
      y: means.map(point => point.mean + point.deviation).concat(back.map(low)),
      line: {width: 0, color}, fillcolor: color + "2e",
    };
  }

  function runTraces(policy, runs, key, scale) {
    return runs.map(run => lineTrace(policy, run.iteration,
      run[key].map(value => value === null ? null : scale * value),
      policy.label + ", seed " + run.seed,
      escaped(policy.label) + "<br>seed " + run.seed + ", " + run.state, 1.1));
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
        escaped(policy.label) + (runs.length > 1 ? "<br>mean of " + runs.length + " seeds" : ""),
        2.2);
      return runs.length > 1 ? [bandTrace(policy, means), line] : [line];
    });
  }

  // Labels at the right ends of the lines, where they do not cover each other.
  function endLabels(selection, traces, range) {
    if (innerWidth < NARROW || selection.length > LABELLED || !range) return [];
    const height = document.getElementById("top1").clientHeight - 74;
    const pixels = value => height * (range[1] - value) / (range[1] - range[0]);
    const labels = [];
    for (const policy of selection) {
      const trace = traces.find(({name, meta}) => name && meta === policy.label);
      const y = trace && trace.y[trace.y.length - 1], x = trace && trace.x[trace.x.length - 1];
      if (!trace || y === null || y < range[0]) continue;
      if (labels.some(label => Math.abs(pixels(label.y) - pixels(y)) < LABEL_HEIGHT)) continue;
      const rank = policy.rank === null ? "" : policy.rank + (policy.tied ? "= " : " ");
      labels.push({x: isChecked("log-iteration") ? Math.log10(x) : x, y, xanchor: "left",
        xshift: 6, text: rank + escaped(policy.function), showarrow: false,
        font: {size: 12, color: Ranking.style(policy).color}});
    }
    return labels;
  }

  // The Top-1 axis shows where the ranked policies differ.
  function top1Axis(selection) {
    const ranked = selection.filter(policy => policy.rank !== null);
    const tops = (ranked.length ? ranked : selection).map(top1).filter(value => value !== null)
      .map(value => 100 * value);
    if (!tops.length) return {};
    const high = Math.max(...tops), low = Math.min(...tops);
    const room = Math.max(3, 0.6 * (high - low));
    return {range: [Math.max(0, low - room), Math.min(100.3, high + 0.2 * room)]};
  }

  function drawCurves(selection) {
    const names = selection.map(policy => policy.label).join("; ") || "none";
    const measured = selection.filter(policy => top1(policy) !== null);
    const best = measured.map(policy => policy.label + " " + (100 * top1(policy)).toFixed(2));
    const x = Object.assign({}, COUNT, {title: {text: "iteration"}},
      isChecked("log-iteration") ? {type: "log"} : {rangemode: "tozero"});
    const logarithmic = {type: "log", dtick: 1}, linear = {rangemode: "tozero"};
    const loss = isChecked("log-loss") ? logarithmic : linear;
    draw("rate", selection.flatMap(rateCurves),
      layout(x, isChecked("log-rate") ? logarithmic : linear),
      "Learning rate against the iteration of " + names);
    const axis = top1Axis(selection), traces = runCurves(selection, "top1", 100);
    const labels = endLabels(selection, traces, axis.range);
    draw("top1", traces, layout(x, axis, labels.length
      ? {annotations: labels, margin: {l: 56, r: 92, t: 30, b: 44}} : {}),
      "Top-1 accuracy in percent against the iteration; mean of the best over the seeds: "
      + (best.join("; ") || "none"));
    draw("train_loss", runCurves(selection, "train_loss", 1), layout(x, loss),
      "Train loss against the iteration of " + names);
    draw("test_loss", runCurves(selection, "test_loss", 1), layout(x, loss),
      "Test loss against the iteration of " + names);
  }

  function costPoints(policies) {
    return {x: policies.map(iterations), y: policies.map(policy => 100 * top1(policy))};
  }

  // The bars of the standard deviations.
  function errorBars(deviations) {
    return {type: "data", array: deviations, thickness: 1, width: 3, color: GREY};
  }

  // The axis leaves out policies that are far worse than the best.
  function costAxis(policies) {
    if (!policies.length) return {};
    const best = Math.max(...policies.map(policy => 100 * top1(policy)));
    const near = policies.filter(policy => 100 * top1(policy) > best - 12);
    const low = Math.min(
      ...near.map(policy => 100 * (top1(policy) - (policy.metrics.top1[1] || 0))));
    return {range: [low - 0.5, Math.min(100.4, best + 0.8)], title: {text: "Top-1 (%)"}};
  }

  function drawCost(policies, selection) {
    const measured = policies.filter(policy => policy.rank !== null && top1(policy) !== null);
    const selected = new Set(selection.map(policy => policy.label));
    const front = measured.filter(policy => policy.on_front)
      .sort((a, b) => iterations(a) - iterations(b));
    const line = Object.assign({
      type: "scatter", mode: "lines", hoverinfo: "skip",
      line: {color: GREY, width: 2, dash: "dot"}}, costPoints(front));
    const marks = Object.assign({
      type: "scatter", mode: "markers", meta: measured.map(policy => policy.label),
      text: measured.map(policy => escaped(policy.label)),
      error_x: errorBars(measured.map(policy => policy.metrics.iterations[1] || 0)),
      error_y: errorBars(measured.map(policy => 100 * (policy.metrics.top1[1] || 0))),
      marker: {size: 11, opacity: 0.95,
        color: measured.map(policy => selected.has(policy.label)
          ? Ranking.style(policy).color : GREY),
        symbol: measured.map(policy => selected.has(policy.label)
          ? Ranking.style(policy).symbol : "circle")},
      hovertemplate: "%{text}<br>%{y:.2f} % after %{x:.0f} iterations<extra></extra>",
    }, costPoints(measured));
    const frontTexts = front.map(policy => policy.label + " with "
      + (100 * top1(policy)).toFixed(2) + " percent after " + iterations(policy).toFixed(0));
    draw("cost", [line, marks],
      layout(Object.assign({}, COUNT, {title: {text: "#Iter"}, rangemode: "tozero"}), costAxis(measured)),
      "Top-1 against iterations of " + measured.length + " policies; on the Pareto front: "
      + (frontTexts.join("; ") || "none"),
      () => measured.map(policy => Object.assign({name: policy.label}, costPoints([policy]))));
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
    const style = Ranking.style(policy), means = meanConfidences(runs);
    return [{
      type: "scatter", mode: "lines+markers", x: means.map((_, n) => n), y: means,
      name: policy.label, meta: policy.label,
      marker: {size: 7, color: style.color, symbol: style.symbol},
      line: {width: 1, color: style.color, dash: style.dash},
      hovertemplate: "class %{x}: %{y:.4f}<extra>" + escaped(policy.label) + "</extra>",
    }];
  }

  function drawClasses(selection) {
    const traces = selection.flatMap(classCurves);
    const tick = traces.length && traces[0].x.length < 21 ? 1 : undefined;
    draw("classes", traces, layout({title: {text: "class"}, dtick: tick},
      {title: {text: "average confidence"}}),
      "Average confidence per class of " + traces.map(trace => trace.name).join("; "));
  }

  // A point is [k0, Top-1, whether a training diverged].
  function rangeTrace(curve, n) {
    return {
      type: "scatter", mode: "lines+markers", name: curve.iteration + " iterations",
      x: curve.points.map(([k0]) => k0), y: curve.points.map(([, share]) => 100 * share),
      line: {width: 1 + n * 0.5, color: RANGE_COLOURS[n % RANGE_COLOURS.length]},
      marker: {size: 8, symbol: curve.points.map(
        ([, , diverged]) => diverged ? "circle-open" : "circle")},
      hovertemplate: "k0 = %{x}: %{y:.2f} %<extra>" + curve.iteration + " iterations</extra>",
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
    draw("range", curves.map(rangeTrace), layout(
      {type: "log", dtick: 1, title: {text: "k0"}},
      {title: {text: "Top-1 (%)"}, rangemode: "tozero"},
      {showlegend: true, legend: {orientation: "h", y: -0.38, yanchor: "top", x: 0},
        margin: {l: 56, r: 12, t: 30, b: 100}}),
      "Top-1 against k0 of constant rates; best: " + curves.map(bestRateText).join("; "));
  }

  // Shows the same iterations in the four curves; without a range, all of them.
  function zoom(range) {
    isLinking = true;
    const ends = range && isChecked("log-iteration")
      ? range.map(end => Math.log10(Math.max(end, 1))) : range;
    const change = ends
      ? {"xaxis.range": ends.slice(), "xaxis.autorange": false} : {"xaxis.autorange": true};
    Promise.all(CURVES.map(id => Plotly.relayout(id, change))).then(() => { isLinking = false; });
    document.getElementById("from").value = range ? Math.round(range[0]) : "";
    document.getElementById("to").value = range ? Math.round(range[1]) : "";
    zoomed();
  }

  // The iterations that the reader has zoomed to, or null.
  function zoomRange() {
    const end = Number(document.getElementById("to").value);
    return end ? [Number(document.getElementById("from").value || 0), end] : null;
  }

  // The listeners are called with the label of the policy under the mouse, and after each zoom.
  function begin(whenPointed, whenZoomed) {
    pointed = whenPointed;
    zoomed = whenZoomed;
    for (const id of CURVES) document.getElementById(id).on("plotly_relayout", followZoom);
    const from = document.getElementById("from"), to = document.getElementById("to");
    const zoomToInput = () => {
      const start = Number(from.value || 0), end = Number(to.value);
      if (end > start) zoom([start, end]);
    };
    from.addEventListener("change", zoomToInput);
    to.addEventListener("change", zoomToInput);
    document.getElementById("reset").addEventListener("click", () => zoom(null));
    addEventListener("beforeprint", () => relayoutVisible(chart => ({
      autosize: false, height: PRINT_HEIGHT,
      width: CURVES.includes(chart.id) ? PRINT_WIDTHS.curve : PRINT_WIDTHS.other,
    })));
    addEventListener("afterprint", () => relayoutVisible(
      () => ({autosize: true, width: null, height: null})));
  }

  function followZoom(change) {
    if (isLinking) return;
    const start = change["xaxis.range[0]"], end = change["xaxis.range[1]"];
    if (change["xaxis.autorange"]) zoom(null);
    else if (start !== undefined) {
      zoom(isChecked("log-iteration") ? [10 ** start, 10 ** end] : [start, end]);
    }
  }

  function relayoutVisible(changeOf) {
    for (const chart of document.querySelectorAll(".js-plotly-plot")) {
      if (chart.offsetParent) Plotly.relayout(chart, changeOf(chart));
    }
  }

  function update(task, selection) {
    drawCurves(selection);
    drawCost(task.policies, selection);
    drawClasses(selection);
    drawRangeTest(task.range_curves);
  }

  return {begin, update, highlight, zoom, zoomRange};
})();
