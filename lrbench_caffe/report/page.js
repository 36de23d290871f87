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
  let content = JSON.parse(byId("content").textContent);
  let selectedTask = null;  // the id of the task that the reader selected
  let drawnTask = null;     // the id of the task that the page shows
  let tag = null;           // the ETag of a live page's content

  function currentTask() {
    return content.tasks.find(task => task.id === selectedTask) || content.tasks[0];
  }

  function stateTexts() {
    return Object.entries(content.states).map(([state, count]) => [state, count + " " + state]);
  }

  function drawHeader() {
    byId("title").textContent = content.title;
    byId("filters").textContent = content.filters.length
      ? "Trials with " + content.filters.join(", ") : "";
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

  function drawPrototxtLines() {
    byId("prototxt-lines").replaceChildren(...Ranking.selection().map(policy => {
      const text = make("pre", {}, policy.prototxt);
      const button = make("button", {type: "button", "aria-label": "Copy " + policy.label}, "Copy");
      button.addEventListener("click", () => copy(text, button));
      const item = make("li", {}, text, button);
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

  function drawSelection() {
    Charts.update(currentTask(), Ranking.selection());
    drawPrototxtLines();
  }

  function explanation(task) {
    const metrics = content.criterion.metrics.map(
      key => Ranking.METRICS.find(([name]) => name === key)[1].replace(" %", ""));
    const facts = task.facts.filter(([, value]) => value !== null).map(fact => fact.join(" "));
    return "Ranked " + CRITERIA[content.criterion.kind] + " " + metrics.join(", ")
      + "." + task.sets
      + " Metrics are the mean \u00b1 standard deviation over the seeds, at the evaluation with "
      + "the highest Top-1. Policies with = at their rank are tied: their difference is within "
      + "the noise of the seeds (Welch's t-test at 5 %). A policy with one seed is placed by its "
      + "value, because its noise is unknown. The 95 % interval is that of the mean Top-1 "
      + "(Student's t). Data: " + facts.join(", ") + ".";
  }

  function problemRow(trial) {
    return make("tr", {}, make("td", {}, trial.policy), make("td", {}, String(trial.seed)),
      make("td", {class: "state-" + trial.state}, trial.state), make("td", {}, trial.error));
  }

  function draw() {
    drawHeader();
    const task = currentTask();
    byId("empty").hidden = Boolean(task);
    document.querySelectorAll("main > section").forEach(section => { section.hidden = !task; });
    if (!task) return;
    byId("h-ranking").textContent = "Ranking: " + task.title;
    byId("explanation").textContent = explanation(task);
    Ranking.update(task.policies, drawnTask !== task.id);
    drawSelection();
    if (!drawnTask) Charts.begin();
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
    } catch (error) {
      setStatus("Not up to date, retrying: " + (error.message || "the server does not answer"));
    }
    setTimeout(refresh, REFRESH_MS);
  }

  // A screen reader reads the status whenever it is set, so the same text is not set again.
  function setStatus(text) {
    if (byId("status").textContent !== text) byId("status").textContent = text;
  }

  Ranking.begin(drawSelection);
  byId("task").addEventListener("change", () => {
    selectedTask = byId("task").value;
    draw();
  });
  draw();
  if (document.documentElement.hasAttribute("data-live")) refresh();
})();
