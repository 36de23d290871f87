"use strict";
// The page. Its content is the JSON in the element "content". A live page asks the server for newer
// content, and keeps what the reader has selected, sorted and zoomed.
(() => {
  const byId = id => document.getElementById(id), make = Ranking.make;
  const CRITERIA = {
    order: "by",
    weights: "by the weighted sum of",
    pareto: "by the Pareto fronts of",
  };
  const REFRESH_MS = 2000;
  const isLive = document.documentElement.hasAttribute("data-live");
  let content = JSON.parse(byId("content").textContent);
  let selectedTask = null;  // the id of the task that the reader selected
  let drawnTask = null;     // the id of the task that the page shows
  let tag = null;           // the ETag of a live page's content
  let pinned = null;        // the label of the policy whose legend entry was clicked
  const OPTIONS = ["seeds", "log-rate", "log-loss", "log-iteration"];  // the checkboxes

  // The task that the reader selected, else that with most trials, on a live page the newest.
  function currentTask() {
    const selected = content.tasks.find(task => task.id === selectedTask);
    if (selected || !isLive) return selected || content.tasks[0];
    const newest = task => Math.max(0, ...runsOf(task).map(run => run.started));
    return [...content.tasks].sort((a, b) => newest(b) - newest(a))[0];
  }

  function runsOf(task) { return task.policies.flatMap(policy => policy.runs); }

  function stateTexts() {
    return Object.entries(content.states).map(([state, count]) => [state, count + " " + state]);
  }

  function drawHeader() {
    byId("title").textContent = content.title;
    byId("filters").textContent = content.filters.length
      ? "Trials with " + content.filters.join(", ") : "";
    byId("left-out").textContent = content.left_out;
    byId("states").replaceChildren(
      ...stateTexts().map(([state, text]) => make("li", {class: state}, text)));
    byId("created").textContent = "Data as of " + new Date(1000 * content.created)
      .toLocaleString([], {dateStyle: "medium", timeStyle: "long"})
      + ". Made with LRBench for Caffe. Metrics as in the paper: LD loss difference, AC average "
      + "confidence, CD confidence deviation, CDAC confidence deviation across classes.";
    const hasChoice = content.tasks.length > 1;
    byId("choose-task").hidden = !hasChoice;
    if (hasChoice) {
      byId("task").replaceChildren(...content.tasks.map(task => make("option", {value: task.id},
        task.title + " (" + task.trials + " trials)")));
      byId("task").value = currentTask().id;
    }
  }

  // The lines of a policy for a solver prototxt, with a button that copies them.
  function prototxtItem(policy) {
    const text = make("pre", {}, policy.prototxt);
    const button = make("button", {type: "button", "aria-label": "Copy " + policy.label}, "Copy");
    button.addEventListener("click", () => copy(text, button));
    return make("li", {}, text, button);
  }

  // The answer at the top: the best policy, its lead, its cost, and the lines for a solver.
  function drawBest(task) {
    const best = task.best && task.policies.find(({label}) => label === task.best.label);
    byId("best").hidden = !best;
    if (!best) return;
    const title = content.criterion.kind === "pareto" ? "On the Pareto front: " : "Best policy: ";
    byId("best").replaceChildren(make("p", {}, title, make("strong", {}, best.label)),
      make("p", {}, task.best.text), make("ul", {class: "lines"}, prototxtItem(best)));
  }

  function drawPrototxtLines() {
    byId("prototxt-lines").replaceChildren(...Ranking.selection().map(policy => {
      const item = prototxtItem(policy);
      item.style.borderLeftColor = Ranking.style(policy).color;
      return item;
    }));
  }

  // Where the browser forbids the clipboard, the text stays selected for Ctrl-C.
  function copy(text, button) {
    getSelection().selectAllChildren(text);
    const copied = navigator.clipboard
      ? navigator.clipboard.writeText(text.textContent) : Promise.reject();
    copied.then(
      () => { button.textContent = "Copied"; },
      () => { button.textContent = document.execCommand("copy") ? "Copied" : "Selected"; });
  }

  // The entries stay in sight while the charts are read.
  function drawLegend() {
    byId("legend").replaceChildren(...Ranking.selection().map(policy => {
      const button = make("button", {type: "button", "data-label": policy.label,
        "aria-pressed": String(policy.label === pinned),
        title: "Show only this policy; click to keep it so"},
        Styles.swatch(Ranking.style(policy)), policy.label);
      button.addEventListener("click", () => pin(policy.label === pinned ? null : policy.label));
      button.addEventListener("mouseenter", () => highlight(policy.label));
      button.addEventListener("mouseleave", () => highlight(null));
      return make("li", {}, button);
    }));
  }

  function pin(label) {
    pinned = label;
    for (const button of byId("legend").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.label === pinned));
    }
    highlight(null);
  }

  // Shows one policy in all charts and in the table, and fades the others.
  function highlight(label) {
    const shown = label || pinned;
    Charts.highlight(shown);
    Ranking.highlight(shown);
    for (const button of byId("legend").querySelectorAll("button")) {
      button.classList.toggle("faded", shown !== null && button.dataset.label !== shown);
    }
  }

  function drawSelection() {
    const selection = Ranking.selection();
    if (!selection.some(policy => policy.label === pinned)) pinned = null;
    drawLegend();
    Charts.update(currentTask(), selection);
    Comparison.update(selection, content.t_quantiles);
    drawPrototxtLines();
    if (pinned) highlight(null);
    keepState();
  }

  function drawFacts(task) {
    const facts = [...task.facts, ["command", content.command]].filter(([, value]) => Boolean(value));
    byId("facts").replaceChildren(...facts.flatMap(
      ([name, value]) => [make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))]));
  }

  // The address keeps what the reader sees, so that it can be sent to somebody else.
  function keepState() {
    const state = new URLSearchParams(), {labels, sorting} = Ranking.state();
    if (content.tasks.length > 1) state.set("task", selectedTask || currentTask().id);
    for (const label of labels || []) state.append("policy", label);
    if (labels && !labels.length) state.set("policy", "");
    if (sorting.key !== "rank" || sorting.descending) {
      state.set("sort", sorting.key + (sorting.descending ? ":down" : ":up"));
    }
    const range = Charts.zoomRange();
    if (range) state.set("zoom", range.join("-"));
    for (const id of OPTIONS) {
      if (byId(id).checked !== byId(id).defaultChecked) state.set(id, String(byId(id).checked));
    }
    const text = String(state);
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  }

  // Returns the iterations to zoom to, or null.
  function restoreState() {
    const state = new URLSearchParams(location.hash.slice(1));
    if (state.has("task")) selectedTask = state.get("task");
    const labels = state.getAll("policy").filter(Boolean);
    const [key, direction] = (state.get("sort") || "rank:up").split(":");
    Ranking.restore(state.has("policy") ? labels : null, {key, descending: direction === "down"});
    for (const id of OPTIONS) if (state.has(id)) byId(id).checked = state.get(id) === "true";
    const range = (state.get("zoom") || "").split("-").map(Number);
    return range.length === 2 && range[1] > range[0] ? range : null;
  }

  function bestOf(task) {
    const best = task.policies.find(policy => policy.rank !== null);
    return best ? [best.label, (100 * best.metrics.top1[0]).toFixed(2)] : ["-", "-"];
  }

  function taskRow(task) {
    const link = make("a", {href: "#" + new URLSearchParams({task: task.id})}, task.title);
    link.addEventListener("click", event => {
      event.preventDefault();
      selectedTask = task.id;
      draw();
    });
    const running = runsOf(task).filter(run => run.state === "running");
    return make("tr", {}, make("td", {}, link), make("td", {}, String(task.trials)),
      make("td", {}, String(running.length)), ...bestOf(task).map(text => make("td", {}, text)));
  }

  function drawIndex() {
    byId("index").hidden = content.tasks.length < 2 && !content.studies.length;
    byId("tasks").replaceChildren(...content.tasks.map(taskRow));
    byId("studies-table").hidden = !content.studies.length;
    byId("studies").replaceChildren(...content.studies.map(({name, states}) => make("tr", {},
      make("td", {}, name), make("td", {}, states))));
  }

  function explanation(task) {
    const metrics = content.criterion.metrics.map(
      key => Ranking.METRICS.find(([name]) => name === key)[1].replace(" %", ""));
    return "Ranked " + CRITERIA[content.criterion.kind] + " " + metrics.join(", ")
      + "." + task.sets
      + " Metrics are the mean \u00b1 standard deviation over the seeds, at the evaluation with "
      + "the highest Top-1. Policies with = at their rank are tied: their difference is within "
      + "the noise of the seeds (Welch's t-test at 5 %). A policy with one seed is placed by its "
      + "value, because its noise is unknown. The 95 % interval is that of the mean Top-1 "
      + "(Student's t)."
      + (task.left_out ? " " + task.left_out + " Ranks by another column are among the listed "
        + "policies." : "");
  }

  function problemRow(trial) {
    return make("tr", {}, make("td", {}, trial.policy), make("td", {}, String(trial.seed)),
      make("td", {class: "state-" + trial.state}, trial.state), make("td", {}, trial.error));
  }

  function draw() {
    drawHeader();
    drawIndex();
    const task = currentTask();
    byId("empty").hidden = Boolean(task);
    document.querySelectorAll("main > section").forEach(section => { section.hidden = !task; });
    byId("best").hidden = byId("facts").hidden = !task;
    if (!task) return;
    byId("h-ranking").textContent = "Ranking: " + task.title;
    byId("explanation").textContent = explanation(task);
    drawFacts(task);
    drawBest(task);
    Progress.begin(task);
    Ranking.update(task.policies, drawnTask !== task.id);
    drawSelection();
    if (!drawnTask) {
      Charts.begin(highlight, keepState);
      if (zoomAtStart) Charts.zoom(zoomAtStart);
    }
    drawnTask = selectedTask = task.id;
    byId("problem").hidden = !task.problems.length;
    byId("problems").replaceChildren(...task.problems.map(problemRow));
  }

  async function refresh() {
    try {
      const answer = await fetch("/content.json", {cache: "no-cache"});
      if (!answer.ok) throw new Error(await answer.text());
      if (answer.headers.get("ETag") !== tag) {
        tag = answer.headers.get("ETag");
        content = await answer.json();
        draw();
      }
      setStatus("Live: " + stateTexts().map(([, text]) => text).join(", "));
      setBanner("");
      answered = new Date();
    } catch (error) {
      // What fetch itself says of a server that is gone differs between browsers.
      const reason = error instanceof TypeError
        ? "the server does not answer. Start it again with lrbench serve" : error.message;
      setStatus("Not up to date");
      setBanner("Not up to date since " + answered.toLocaleTimeString() + ": "
        + reason.trim() + ". The page retries every two seconds.");
    }
    setTimeout(refresh, REFRESH_MS);
  }

  // A screen reader reads the status whenever it is set, so the same text is not set again.
  function setStatus(text) {
    if (byId("status").textContent !== text) byId("status").textContent = text;
  }

  function setBanner(text) {
    if (byId("banner").textContent !== text) byId("banner").textContent = text;
    byId("banner").hidden = !text;
  }

  let answered = new Date();  // when the server last answered
  const zoomAtStart = restoreState();
  Ranking.begin({selected: drawSelection, sorted: keepState, pointed: highlight});
  for (const id of OPTIONS) byId(id).addEventListener("change", drawSelection);
  byId("task").addEventListener("change", () => {
    selectedTask = byId("task").value;
    draw();
  });
  draw();
  if (isLive) {
    byId("index").open = true;
    refresh();
  }
  document.documentElement.dataset.started = "";
})();
