"use strict";
// The ranking as a table that sorts, finds and chooses. Rows are kept by their policy, so that an update moves and rewrites them
// and takes away neither the keyboard's place nor what was chosen.
const Ranking = (() => {
  const METRICS = [  // name, head, how a number reads, whether more is better
    ["ld", "LD", number, false], ["iterations", "#Iter", whole, false], ["top1", "Top-1 %", percent, true],
    ["top5", "Top-5 %", percent, true], ["ac", "AC", number, true], ["cd", "CD", number, false], ["cdac", "CDAC", number, false],
    ["n_params", "#Param", whole, false]];
  const HEADS = [["rank", "rank"], ["policy", "policy"], ["seeds", "seeds"]].concat(METRICS.map(m => [m[0], m[1]]));
  const COLOURS = ["#3b82c4", "#d9702e", "#3a9d5d", "#c8434b", "#8d6cc7", "#a0714f", "#d163a7", "#7a7f87", "#a09a20", "#1fa3b3"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const rows = new Map(), slots = new Map();
  let policies = [], sorting = {key: "rank", down: false}, chosen = null, words = "", changed = () => {};

  function number(x) { return x.toFixed(4); }
  function whole(x) { return x.toFixed(0); }
  function percent(x) { return (100 * x).toFixed(2); }

  function make(tag, attributes, ...content) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...content);
    return element;
  }

  function fill(element, ...content) {
    const wanted = make("div", {}, ...content);
    if (element.innerHTML !== wanted.innerHTML) element.replaceChildren(...wanted.childNodes);
  }

  // Each chosen policy has a colour of its own for as long as it is chosen.
  function style(policy) {
    if (!slots.has(policy.label)) {
      const taken = new Set(slots.values());
      let slot = 0;
      while (taken.has(slot)) slot++;
      slots.set(policy.label, slot);
    }
    const slot = slots.get(policy.label);
    return {color: COLOURS[slot % COLOURS.length], dash: DASHES[Math.floor(slot / COLOURS.length) % DASHES.length]};
  }

  function best(n) { return new Set(policies.filter(p => p.runs.some(r => r.iteration.length)).slice(0, n).map(p => p.label)); }

  function selection() {
    const labels = chosen || best(6);
    for (const label of slots.keys()) if (!labels.has(label)) slots.delete(label);
    return policies.filter(p => labels.has(p.label));
  }

  function choose(labels) { chosen = labels; draw(); changed(); }

  function value(policy) {
    if (sorting.key === "rank") return policy.rank;
    if (sorting.key === "policy") return policy.label;
    if (sorting.key === "seeds") return policy.seeds;
    return policy.metrics[sorting.key][0];
  }

  function sorted() {
    const order = new Map(policies.map((p, n) => [p, n])), sign = sorting.down ? -1 : 1;
    return [...policies].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null) || order.get(a) - order.get(b);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y) || order.get(a) - order.get(b);
    });
  }

  function rank(policy) {
    const [place, tied] = policy.ranks[sorting.key] || [policy.rank, policy.tied];
    return place === null ? "-" : place + (tied ? "=" : "");
  }

  function row(policy) {
    if (!rows.has(policy.label)) {
      const box = make("input", {type: "checkbox"});
      box.addEventListener("change", () => {
        const labels = new Set(selection().map(p => p.label));
        if (box.checked) labels.add(policy.label); else labels.delete(policy.label);
        choose(labels);
      });
      const label = make("label", {}, box, make("span", {class: "swatch"}), make("span", {class: "name"}));
      rows.set(policy.label, make("tr", {}, make("td", {class: "words"}), make("td", {class: "words policy"}, label), make("td", {}),
        ...METRICS.map(() => make("td", {}))));
    }
    return rows.get(policy.label);
  }

  function rewrite(policy, isChosen) {
    const cells = row(policy).children;
    const tied = rank(policy).endsWith("=") ? "tied: the noise of the seeds does not tell these policies apart" : "";
    fill(cells[0], rank(policy));
    cells[0].title = tied;
    const box = cells[1].querySelector("input"), swatch = cells[1].querySelector(".swatch");
    box.checked = isChosen;
    const look = isChosen ? style(policy) : null;
    swatch.style.borderTop = isChosen ? "4px " + ({solid: "solid", dash: "dashed", dot: "dotted", dashdot: "double"})[look.dash] + " " + look.color
      : "4px solid transparent";
    const name = [policy.label];
    if (policy.note) name.push(" ", make("span", {class: "note"}, "(" + policy.note + ")"));
    if (policy.front) name.push(" ", make("span", {class: "front", title: "on the Pareto front of Top-1 and #Iter"}, "Pareto"));
    fill(cells[1].querySelector(".name"), ...name);
    fill(cells[2], String(policy.seeds));
    METRICS.forEach(([name, , text], n) => {
      const [mean, deviation] = policy.metrics[name];
      if (mean === null) fill(cells[3 + n], "-");
      else if (deviation === null) fill(cells[3 + n], text(mean));
      else fill(cells[3 + n], text(mean), " ", make("span", {class: "deviation"}, "\u00b1 " + text(deviation)));
    });
  }

  function draw() {
    const body = document.getElementById("body"), focused = document.activeElement;
    const labels = new Set(selection().map(p => p.label));
    const shown = sorted().filter(p => words.toLowerCase().split(/\s+/).every(word => p.label.toLowerCase().includes(word)));
    shown.forEach(p => rewrite(p, labels.has(p.label)));
    const wanted = shown.map(row);
    if (wanted.length !== body.children.length || wanted.some((tr, n) => tr !== body.children[n])) body.replaceChildren(...wanted);
    if (focused && focused !== document.activeElement && body.contains(focused)) focused.focus();
    [...document.getElementById("head").children].forEach((th, n) => th.setAttribute("aria-sort",
      HEADS[n][0] !== sorting.key ? "none" : sorting.down ? "descending" : "ascending"));
  }

  function sort(key) {
    const better = METRICS.find(m => m[0] === key);
    sorting = sorting.key === key ? {key, down: !sorting.down} : {key, down: Boolean(better && better[3])};
    draw();
  }

  function begin(onChange) {
    changed = onChange;
    for (const [key, text] of HEADS) {
      const button = make("button", {type: "button"}, text);
      button.addEventListener("click", () => sort(key));
      const th = make("th", {scope: "col", "data-key": key}, button);
      if (key === "policy" || key === "rank") th.className = "words";
      document.getElementById("head").append(th);
    }
    document.getElementById("find").addEventListener("input", event => { words = event.target.value; draw(); });
    document.getElementById("choose-best").addEventListener("click", () => choose(best(6)));
    document.getElementById("choose-front").addEventListener("click",
      () => choose(new Set(policies.filter(p => p.front).map(p => p.label))));
    document.getElementById("choose-none").addEventListener("click", () => choose(new Set()));
  }

  // another: the policies are those of another task.
  function update(found, another) {
    policies = found;
    if (another) { chosen = null; slots.clear(); rows.clear(); }
    draw();
  }

  return {begin, update, selection, style, make, METRICS};
})();
