"use strict";
// The ranking table: it can be sorted and filtered, and policies are selected in it.
// An update keeps the table row of each policy, and so the keyboard focus and the selection.
const Ranking = (() => {
  const METRICS = [  // key, heading, format of a difference, whether higher is better
    ["top1", "Top-1 %", percent, true],
    ["iterations", "#Iter", integer, false],
    ["final_top1", "final %", percent, true],  // of the last evaluation
    ["ld", "LD", decimal, false],
    ["top5", "Top-5 %", percent, true],
    ["ac", "AC", decimal, true],
    ["cd", "CD", decimal, false],
    ["cdac", "CDAC", decimal, false],
    ["n_params", "#Param", integer, false],
  ];
  const HEADINGS = [["rank", "rank"], ["policy", "policy"], ["top1", "Top-1 %"],
    ["interval", "95 % interval"], ["seeds", "seeds"]]
    .concat(METRICS.slice(1).map(([key, heading]) => [key, heading]));
  const DEFAULT_SELECTION = 6;  // the number of best policies that are selected at first
  const MAX_RUNNING = 6;  // of the policies that are trained now, which are selected as well
  const FIRST_ROWS = 50;  // that are shown until the reader asks for all
  const TIED = "tied: the difference is within the noise of the seeds";

  const rows = new Map();   // the table row of each policy, by its label
  const slots = new Map();  // the number of the colour and dash of each selected policy
  let policies = [];
  let sorting = {key: "rank", descending: false};
  let selectedLabels = null;  // null until the reader selects: the best policies
  let searchText = "";
  let isWhole = false;  // whether all rows are shown
  let listeners = {selected() {}, sorted() {}, pointed() {}};

  function decimal(value) { return value.toFixed(4); }
  function integer(value) { return value.toFixed(0); }
  function percent(share) { return (100 * share).toFixed(2); }

  function make(tag, attributes, ...content) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...content);
    return element;
  }

  function fill(element, ...content) {
    const newContent = make("div", {}, ...content);
    if (element.innerHTML !== newContent.innerHTML) {
      element.replaceChildren(...newContent.childNodes);
    }
  }

  // The colour and dash of a selected policy, which it keeps as long as it is selected.
  function style(policy) {
    if (!slots.has(policy.label)) {
      const taken = new Set(slots.values());
      let free = 0;
      while (taken.has(free)) free++;
      slots.set(policy.label, free);
    }
    return Styles.ofSlot(slots.get(policy.label));
  }

  function labelsOf(list) { return new Set(list.map(policy => policy.label)); }

  function bestLabels() {
    const measured = policies.filter(policy => policy.runs.some(run => run.iteration.length));
    const running = measured.filter(policy => policy.runs.some(run => run.state === "running"));
    return labelsOf([...measured.slice(0, DEFAULT_SELECTION), ...running.slice(0, MAX_RUNNING)]);
  }

  function selection() {
    const labels = selectedLabels || bestLabels();
    for (const label of slots.keys()) if (!labels.has(label)) slots.delete(label);
    return policies.filter(policy => labels.has(policy.label));
  }

  function select(labels) {
    selectedLabels = labels;
    draw();
    listeners.selected();
  }

  function sortValue(policy) {
    if (sorting.key === "rank") return policy.rank;
    if (sorting.key === "policy") return policy.label;
    if (sorting.key === "seeds") return policy.seeds;
    if (sorting.key === "interval") return policy.interval && policy.interval[0];
    return policy.metrics[sorting.key][0];
  }

  // Policies without a value are last; equal policies keep the order of their ranks.
  function sorted() {
    const position = new Map(policies.map((policy, n) => [policy, n]));
    const sign = sorting.descending ? -1 : 1;
    return [...policies].sort((a, b) => {
      const x = sortValue(a), y = sortValue(b), byRank = position.get(a) - position.get(b);
      if (x === null || y === null) return (x === null) - (y === null) || byRank;
      const order = typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y;
      return sign * order || byRank;
    });
  }

  // The rank by the metric that the table is sorted by, else by the report's criterion.
  function rankText(policy) {
    const [rank, tied] = policy.ranks[sorting.key] || [policy.rank, policy.tied];
    return rank === null ? "-" : rank + (tied ? "=" : "");
  }

  function rowOf(policy) {
    if (!rows.has(policy.label)) rows.set(policy.label, newRow(policy.label));
    return rows.get(policy.label);
  }

  function newRow(label) {
    const checkbox = make("input", {type: "checkbox"});
    checkbox.addEventListener("change", () => {
      const labels = labelsOf(selection());
      if (checkbox.checked) labels.add(label); else labels.delete(label);
      select(labels);
    });
    const name = make("label", {}, checkbox, make("span", {class: "mark"}),
      make("span", {class: "name"}));
    const row = make("tr", {}, ...HEADINGS.map(() => make("td", {})));
    row.children[0].className = "text";
    row.children[1].className = "text policy";
    row.children[1].append(name);
    row.addEventListener("mouseenter", () => listeners.pointed(label));
    row.addEventListener("mouseleave", () => listeners.pointed(null));
    return row;
  }

  // Fades the rows of the other policies; without a label, none.
  function highlight(label) {
    rows.forEach((row, of) => row.classList.toggle("faded", label !== null && of !== label));
  }

  function writeRow(policy, isSelected) {
    const cells = rowOf(policy).children;
    HEADINGS.forEach(([key], n) => {
      if (key === "policy") writeName(cells[n], policy, isSelected);
      else fill(cells[n], ...contentOf(key, policy));
    });
    cells[0].title = rankText(policy).endsWith("=") ? TIED : "";
  }

  // What a cell shows: texts and elements.
  function contentOf(key, policy) {
    if (key === "rank") return [rankText(policy)];
    if (key === "seeds") return [String(policy.seeds)];
    if (key === "interval") return [intervalText(policy)];
    const [mean, deviation] = spreadText(policy, key).split(" \u00b1 ");
    const content = deviation ? [mean, " ", subdued("\u00b1 " + deviation)] : [mean];
    return key === "top1" && policy.selected ? [...content, " ",
      subdued("(" + policy.selected[0] + " " + percent(policy.selected[1]) + ")")] : content;
  }

  function subdued(text) { return make("span", {class: "deviation"}, text); }

  // The mean and the deviation of a metric, or a dash.
  function spreadText(policy, key) { return policy.metrics[key][3]; }

  // The interval of the mean Top-1 in percent, cut off at 0 and 100; or why it is unknown.
  function intervalText(policy) {
    if (!policy.interval) return ["-", "one seed"][policy.seeds] || "equal values";
    const [low, high] = policy.interval;
    return percent(Math.max(0, low)) + "-" + percent(Math.min(1, high));
  }

  function writeName(cell, policy, isSelected) {
    const line = isSelected ? style(policy) : null;
    cell.querySelector("input").checked = isSelected;
    fill(cell.querySelector(".mark"), Styles.swatch(line));
    const name = [policy.label];
    const running = Progress.text(policy);
    if (running) name.push(" ", make("span", {class: "note"}, running));
    else if (policy.note) name.push(" ", make("span", {class: "note"}, "(" + policy.note + ")"));
    if (policy.on_front) name.push(" ",
      make("span", {class: "front", title: "on the Pareto front of Top-1 and #Iter"}, "Pareto"));
    fill(cell.querySelector(".name"), ...name);
  }

  // A policy matches if its label has all words of the search.
  function matches(policy) {
    const label = policy.label.toLowerCase();
    return searchText.toLowerCase().split(/\s+/).every(word => label.includes(word));
  }

  function draw() {
    const body = document.getElementById("body"), focused = document.activeElement;
    const labels = labelsOf(selection());
    const matching = sorted().filter(matches);
    const shown = matching.filter(
      (policy, n) => isWhole || n < FIRST_ROWS || labels.has(policy.label));
    shown.forEach(policy => writeRow(policy, labels.has(policy.label)));
    const newRows = shown.map(rowOf);
    const unchanged = newRows.length === body.children.length
      && newRows.every((row, n) => row === body.children[n]);
    if (!unchanged) body.replaceChildren(...newRows);
    if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus();
    const direction = sorting.descending ? "descending" : "ascending";
    [...document.getElementById("head").children].forEach((heading, n) => {
      heading.setAttribute("aria-sort", HEADINGS[n][0] === sorting.key ? direction : "none");
    });
    const more = document.getElementById("show-all");
    more.hidden = shown.length === matching.length;
    more.textContent = "Show all " + matching.length + " policies, not only the first "
      + FIRST_ROWS + " and the selected ones";
  }

  // Sorts by a column, the best value first; a second time, in the opposite direction.
  function sort(key) {
    const metric = METRICS.find(([name]) => name === key);
    const descending = sorting.key === key ? !sorting.descending : Boolean(metric && metric[3]);
    sorting = {key, descending};
    draw();
    listeners.sorted();
  }

  // The listeners are called when the reader has selected or sorted, and with the label of the
  // policy under the mouse (null: none any more).
  function begin(newListeners) {
    listeners = newListeners;
    for (const [key, text] of HEADINGS) {
      const button = make("button", {type: "button"}, text);
      button.addEventListener("click", () => sort(key));
      const heading = make("th", {scope: "col", "data-key": key}, button);
      if (key === "policy" || key === "rank") heading.className = "text";
      document.getElementById("head").append(heading);
    }
    const onClick = (id, labels) => {
      document.getElementById(id).addEventListener("click", () => select(labels()));
    };
    document.getElementById("show-all").addEventListener("click", () => {
      isWhole = true;
      draw();
    });
    onClick("choose-best", bestLabels);
    onClick("choose-front", () => labelsOf(policies.filter(policy => policy.on_front)));
    onClick("choose-none", () => new Set());
    document.getElementById("search").addEventListener("input", event => {
      searchText = event.target.value;
      draw();
    });
  }

  // Shows newer policies; those of another task begin with the default selection.
  function update(newPolicies, isOtherTask) {
    policies = newPolicies;
    if (isOtherTask) {
      if (rows.size) selectedLabels = null;
      isWhole = false;
      slots.clear();
      rows.clear();
    }
    draw();
  }

  // What the address keeps: the labels that the reader selected (null: none yet) and the sorting.
  function state() {
    return {labels: selectedLabels && [...selectedLabels], sorting};
  }

  function restore(labels, newSorting) {
    if (labels) selectedLabels = new Set(labels);
    if (newSorting && HEADINGS.some(([key]) => key === newSorting.key)) sorting = newSorting;
  }

  return {begin, update, selection, style, highlight, state, restore, make, spreadText,
    METRICS};
})();
