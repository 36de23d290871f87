"use strict";
// The charts, drawn by plotly.js.
const Charts = (() => {
  const CURVES = ["rate", "top1", "train_loss", "test_loss"];
  const NOTHING = {cost: "No policy has a finished trial yet.", classes: "No confidence per class is recorded for the chosen policies."};
  const make = Ranking.make, numbers = new Map();
  let linking = false;

  function layout(x, y, more) {
    const axis = {automargin: true, gridcolor: "#d8dce2", zeroline: false, exponentformat: "power"};
    return Object.assign({
      margin: {l: 56, r: 12, t: 30, b: 44}, showlegend: false, hovermode: "closest", uirevision: "kept", dragmode: "zoom",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
      font: {family: "system-ui, 'DejaVu Sans', sans-serif", size: 13}, hoverlabel: {font: {color: "#fff"}},
      xaxis: Object.assign({}, axis, x), yaxis: Object.assign({}, axis, y)}, more || {});
  }

  // Draws a chart, says for a screen reader what is in it, and has its numbers at hand as a table. Where there is nothing to draw it
  // says so in its place.
  function draw(id, traces, wanted, said, columns) {
    const chart = document.getElementById(id), figure = chart.parentElement, empty = !traces.some(t => t.x.length && t.y.some(v => v !== null));
    if (!figure.querySelector(".nothing")) figure.append(make("p", {class: "nothing"}, NOTHING[id] || "No policy is chosen that has been measured."));
    figure.querySelector(".nothing").hidden = !empty;
    const shown = chart.hidden && !empty;
    chart.hidden = empty;
    Plotly.react(chart, traces, wanted, {responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]});
    if (shown) Plotly.Plots.resize(chart);
    chart.setAttribute("role", "group");  // it has buttons in it, which an image has not
    chart.setAttribute("aria-label", said);
    chart.querySelectorAll(".main-svg").forEach(svg => svg.setAttribute("aria-hidden", "true"));
    let details = figure.querySelector("details");
    if (!details) {
      details = make("details", {}, make("summary", {}, "The numbers"), make("div", {class: "scroll", tabindex: "0", role: "region",
        "aria-label": "Numbers of this chart"}));
      details.addEventListener("toggle", () => tabulate(details, id));
      figure.append(details);
    }
    details.hidden = empty;
    numbers.set(id, columns || (() => traces.filter(t => t.name).map(t => ({name: t.name, x: t.x, y: t.y}))));
    tabulate(details, id);
  }

  // A row for each x, a column for each line; read from what is drawn only when somebody wants it.
  function tabulate(details, id) {
    if (!details.open) return;
    const lines = numbers.get(id)(), at = new Map();
    lines.forEach((line, n) => line.x.forEach((x, m) => {
      if (!at.has(x)) at.set(x, Array(lines.length).fill("-"));
      if (line.y[m] !== null) at.get(x)[n] = Number(line.y[m].toPrecision(5)).toString();
    }));
    const head = make("tr", {}, make("th", {scope: "col"}, ""), ...lines.map(l => make("th", {scope: "col"}, l.name)));
    const body = [...at.entries()].sort((a, b) => a[0] - b[0]).slice(0, 2000)
      .map(([x, values]) => make("tr", {}, make("th", {scope: "row"}, String(x)), ...values.map(v => make("td", {}, v))));
    details.querySelector(".scroll").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // plotly.js reads a few tags and entities in names: they are made harmless.
  function plain(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }

  function perSeed(selection, key, scale) {
    return selection.flatMap(p => p.runs.filter(r => r.iteration.length).map(r => ({
      type: "scatter", mode: r.iteration.length < 2 ? "markers" : "lines", x: r.iteration,
      y: r[key].map(v => v === null ? null : scale * v), name: p.label + ", seed " + r.seed, line: Object.assign({width: 1.7}, Ranking.style(p)),
      marker: {color: Ranking.style(p).color},
      hovertemplate: "%{y:.4~g} at %{x}<extra>" + plain(p.label) + "<br>seed " + r.seed + ", " + r.state + "</extra>"})));
  }

  function curves(selection) {
    const names = selection.map(p => p.label).join("; ") || "none";
    const x = {title: {text: "iteration"}, rangemode: "tozero"};
    draw("rate", selection.flatMap(p => p.rates.map(r => ({type: "scatter", mode: r.iteration.length < 2 ? "markers" : "lines", x: r.iteration,
      y: r.rate, name: p.label + (r.seed === null ? "" : ", seed " + r.seed), line: Object.assign({width: 1.7}, Ranking.style(p)),
      marker: {color: Ranking.style(p).color},
      hovertemplate: "%{y:.4~g} at %{x}<extra>" + plain(p.label) + "</extra>"}))), layout(x, {rangemode: "tozero"}),
      "Learning rate against the iteration of " + names);
    const ranked = selection.filter(p => p.rank !== null);  // those that never got far do not decide what is seen of the others
    const tops = (ranked.length ? ranked : selection).map(p => p.metrics.top1[0]).filter(v => v !== null).map(v => 100 * v);
    const high = Math.max(...tops), low = Math.min(...tops), room = Math.max(3, 0.6 * (high - low));
    const y = tops.length ? {range: [Math.max(0, low - room), Math.min(100.3, high + 0.2 * room)]} : {};
    draw("top1", perSeed(selection, "top1", 100), layout(x, y), "Top-1 accuracy in percent against the iteration; means of the best: "
      + (selection.filter(p => p.metrics.top1[0] !== null).map(p => p.label + " " + (100 * p.metrics.top1[0]).toFixed(2)).join("; ") || "none"));
    draw("train_loss", perSeed(selection, "train_loss", 1), layout(x, {type: "log", dtick: 1}), "Train loss against the iteration of " + names);
    draw("test_loss", perSeed(selection, "test_loss", 1), layout(x, {type: "log", dtick: 1}), "Test loss against the iteration of " + names);
  }

  function cost(policies, selection) {
    const measured = policies.filter(p => p.rank !== null && p.metrics.top1[0] !== null), picked = new Set(selection.map(p => p.label));
    const front = measured.filter(p => p.front).sort((a, b) => a.metrics.iterations[0] - b.metrics.iterations[0]);
    const xy = list => ({x: list.map(p => p.metrics.iterations[0]), y: list.map(p => 100 * p.metrics.top1[0])});
    const points = list => Object.assign({type: "scatter", mode: "markers", text: list.map(p => plain(p.label)),
      error_x: {type: "data", array: list.map(p => p.metrics.iterations[1] || 0), thickness: 1, width: 3, color: "#8a929c"},
      error_y: {type: "data", array: list.map(p => 100 * (p.metrics.top1[1] || 0)), thickness: 1, width: 3, color: "#8a929c"},
      marker: {size: 11, color: list.map(p => picked.has(p.label) ? Ranking.style(p).color : "#8a929c"), opacity: 0.95},
      hovertemplate: "%{text}<br>%{y:.2f} % after %{x:.0f} iterations<extra></extra>"}, xy(list));
    const best = Math.max(...measured.map(p => 100 * p.metrics.top1[0])), near = measured.filter(p => 100 * p.metrics.top1[0] > best - 12);
    const low = Math.min(...near.map(p => 100 * (p.metrics.top1[0] - (p.metrics.top1[1] || 0))));
    draw("cost", [Object.assign({type: "scatter", mode: "lines", hoverinfo: "skip", line: {color: "#8a929c", width: 2, dash: "dot"}}, xy(front)),
      points(measured)], layout({title: {text: "#Iter"}, rangemode: "tozero"}, measured.length ? {range: [low - 0.5, Math.min(100.4, best + 0.8)],
      title: {text: "Top-1 (%)"}} : {}), "Top-1 against iterations of " + measured.length + " policies; on the Pareto front: "
      + (front.map(p => p.label + " with " + (100 * p.metrics.top1[0]).toFixed(2) + " percent after " + p.metrics.iterations[0].toFixed(0)).join("; ")
      || "none"), () => measured.map(p => Object.assign({name: p.label}, xy([p]))));
  }

  function classes(selection) {
    const traces = selection.map(p => [p, p.runs.map(r => r.classes).filter(Boolean)]).filter(([, known]) => known.length).map(([p, known]) => {
      const mean = known[0].map((_, c) => { const v = known.map(k => k[c]).filter(x => x !== null && x !== undefined);
        return v.length ? v.reduce((a, b) => a + b) / v.length : null; });
      return {type: "scatter", mode: "lines+markers", x: mean.map((_, c) => c), y: mean, name: p.label, marker: {size: 7, color: Ranking.style(p).color},
        line: Object.assign({width: 1}, Ranking.style(p)), hovertemplate: "class %{x}: %{y:.4f}<extra>" + plain(p.label) + "</extra>"};
    });
    draw("classes", traces, layout({title: {text: "class"}, dtick: traces.length && traces[0].x.length < 21 ? 1 : undefined},
      {title: {text: "average confidence"}}), "Average confidence per class of " + traces.map(t => t.name).join("; "));
  }

  function rangeTest(curves) {
    document.getElementById("range-text").textContent = curves
      ? "Top-1 (%) against k0 of the constant rates (FIX), after several numbers of iterations; a hollow mark: trainings that diverged."
      : "This task has fewer than three constant rates (FIX): train some over a range of k0 to see where good rates lie.";
    document.getElementById("range").parentElement.hidden = !curves;
    if (!curves) return;
    draw("range", curves.map((curve, n) => ({type: "scatter", mode: "lines+markers", name: curve.iteration + " iterations",
      x: curve.points.map(p => p[0]), y: curve.points.map(p => 100 * p[1]), line: {width: 1 + n * 0.5, color: COLOURS[n % COLOURS.length]},
      marker: {size: 8, symbol: curve.points.map(p => p[2] ? "circle-open" : "circle")},
      hovertemplate: "k0 = %{x}: %{y:.2f} %<extra>" + curve.iteration + " iterations</extra>"})),
      layout({type: "log", dtick: 1, title: {text: "k0"}}, {title: {text: "Top-1 (%)"}, rangemode: "tozero"},
        {showlegend: true, legend: {orientation: "h", y: -0.38, yanchor: "top", x: 0}, margin: {l: 56, r: 12, t: 30, b: 100}}),
      "Top-1 against k0 of constant rates; best: " + curves.map(c => { const best = c.points.reduce((a, b) => b[1] > a[1] ? b : a);
        return "k0 " + best[0] + " with " + (100 * best[1]).toFixed(2) + " percent after " + c.iteration + " iterations"; }).join("; "));
  }
  const COLOURS = ["#a9c6e3", "#7fb0dc", "#4f94cf", "#2f74b5", "#c8434b"];

  // The four curves have one range of iterations: dragged, typed, or all.
  function zoom(range) {
    linking = true;
    const change = range ? {"xaxis.range": range.slice(), "xaxis.autorange": false} : {"xaxis.autorange": true};
    Promise.all(CURVES.map(id => Plotly.relayout(id, change))).then(() => { linking = false; });
    document.getElementById("from").value = range ? Math.round(range[0]) : "";
    document.getElementById("to").value = range ? Math.round(range[1]) : "";
  }

  function begin() {
    for (const id of CURVES) document.getElementById(id).on("plotly_relayout", change => {
      if (linking) return;
      if (change["xaxis.autorange"]) zoom(null);
      else if (change["xaxis.range[0]"] !== undefined) zoom([change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    });
    const typed = () => {
      const from = Number(document.getElementById("from").value || 0), to = Number(document.getElementById("to").value);
      if (to > from) zoom([from, to]);
    };
    document.getElementById("from").addEventListener("change", typed);
    document.getElementById("to").addEventListener("change", typed);
    document.getElementById("reset").addEventListener("click", () => zoom(null));
    const all = () => [...document.querySelectorAll(".js-plotly-plot")].filter(chart => chart.offsetParent);
    addEventListener("beforeprint", () => all().forEach(chart => Plotly.relayout(chart, {autosize: false,
      width: CURVES.includes(chart.id) ? 335 : 690, height: 230})));
    addEventListener("afterprint", () => all().forEach(chart => Plotly.relayout(chart, {autosize: true, width: null, height: null})));
  }

  function update(task, selection) { curves(selection); cost(task.policies, selection); classes(selection); rangeTest(task.range); }

  return {begin, update};
})();
