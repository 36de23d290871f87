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
  const PRINT_WIDTHS = {curve: 335, other: 690}, PRINT_HEIGHT = 230;  // pixels
  const make = Ranking.make;
  const tableLines = new Map();  // for each chart, a function that returns the lines of its table
  let isLinking = false;  // while the curves follow the one that was zoomed

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
    Plotly.react(chart, traces, chartLayout, {responsive: true, displaylogo: false,
      displayModeBar: "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]});
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

  function lineTrace(policy, x, y, name, hoverName) {
    const style = Ranking.style(policy);
    return {
      type: "scatter", mode: x.length < 2 ? "markers" : "lines", x, y, name,
      line: Object.assign({width: 1.7}, style), marker: {color: style.color},
      hovertemplate: "%{y:.4~g} at %{x}<extra>" + hoverName + "</extra>",
    };
  }

  function rateCurves(policy) {
    return policy.rate_curves.map(rates => {
      const seed = rates.seed === null ? "" : ", seed " + rates.seed;
      return lineTrace(policy, rates.iteration, rates.rate, policy.label + seed,
        escaped(policy.label));
    });
  }

  function runCurves(selection, key, scale) {
    return selection.flatMap(policy => policy.runs.filter(run => run.iteration.length).map(run => {
      const values = run[key].map(value => value === null ? null : scale * value);
      return lineTrace(policy, run.iteration, values, policy.label + ", seed " + run.seed,
        escaped(policy.label) + "<br>seed " + run.seed + ", " + run.state);
    }));
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
    const x = {title: {text: "iteration"}, rangemode: "tozero"};
    const logarithmic = {type: "log", dtick: 1};
    draw("rate", selection.flatMap(rateCurves), layout(x, {rangemode: "tozero"}),
      "Learning rate against the iteration of " + names);
    draw("top1", runCurves(selection, "top1", 100), layout(x, top1Axis(selection)),
      "Top-1 accuracy in percent against the iteration; mean of the best over the seeds: "
      + (best.join("; ") || "none"));
    draw("train_loss", runCurves(selection, "train_loss", 1), layout(x, logarithmic),
      "Train loss against the iteration of " + names);
    draw("test_loss", runCurves(selection, "test_loss", 1), layout(x, logarithmic),
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
      type: "scatter", mode: "markers", text: measured.map(policy => escaped(policy.label)),
      error_x: errorBars(measured.map(policy => policy.metrics.iterations[1] || 0)),
      error_y: errorBars(measured.map(policy => 100 * (policy.metrics.top1[1] || 0))),
      marker: {size: 11, opacity: 0.95, color: measured.map(
        policy => selected.has(policy.label) ? Ranking.style(policy).color : GREY)},
      hovertemplate: "%{text}<br>%{y:.2f} % after %{x:.0f} iterations<extra></extra>",
    }, costPoints(measured));
    const frontTexts = front.map(policy => policy.label + " with "
      + (100 * top1(policy)).toFixed(2) + " percent after " + iterations(policy).toFixed(0));
    draw("cost", [line, marks],
      layout({title: {text: "#Iter"}, rangemode: "tozero"}, costAxis(measured)),
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
      name: policy.label, marker: {size: 7, color: style.color},
      line: Object.assign({width: 1}, style),
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
    const change = range
      ? {"xaxis.range": range.slice(), "xaxis.autorange": false} : {"xaxis.autorange": true};
    Promise.all(CURVES.map(id => Plotly.relayout(id, change))).then(() => { isLinking = false; });
    document.getElementById("from").value = range ? Math.round(range[0]) : "";
    document.getElementById("to").value = range ? Math.round(range[1]) : "";
  }

  function begin() {
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
    else if (start !== undefined) zoom([start, end]);
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

  return {begin, update};
})();
