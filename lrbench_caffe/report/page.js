"use strict";
// The page: what it holds is in the element "content"; a live page asks for newer content and keeps what its reader has done.
(() => {
  const at = id => document.getElementById(id), make = Ranking.make;
  const BY = {order: "by", weights: "by the weighted sum of", pareto: "by the Pareto fronts of"};
  let content = JSON.parse(at("content").textContent), wanted = null, shown = null, tag = null;

  function task() { return content.tasks.find(t => t.id === wanted) || content.tasks[0]; }

  function header() {
    at("title").textContent = content.title;
    at("about").textContent = content.filters.length ? "Trials with " + content.filters.join(", ") : "";
    at("states").replaceChildren(...Object.entries(content.states).map(([state, n]) => make("li", {class: state}, n + " " + state)));
    at("made").textContent = "As of " + new Date(1000 * content.made).toLocaleString() + ", by LRBench for Caffe. Metrics as in the paper: LD loss "
      + "difference, AC average confidence, CD confidence deviation, CDAC confidence deviation across classes.";
    const many = content.tasks.length > 1;
    at("choose-task").hidden = !many;
    if (many) {
      at("task").replaceChildren(...content.tasks.map(t => make("option", {value: t.id}, t.network + " on " + t.dataset + " (" + t.trials + " trials)")));
      at("task").value = task().id;
    }
  }

  function lines() {
    at("lines").replaceChildren(...Ranking.selection().map(policy => {
      const text = make("pre", {}, policy.paste), button = make("button", {type: "button", "aria-label": "Copy " + policy.label}, "Copy");
      button.addEventListener("click", () => {
        getSelection().selectAllChildren(text);  // also where the clipboard is not to be had: Ctrl-C does the rest
        const done = navigator.clipboard ? navigator.clipboard.writeText(policy.paste) : Promise.reject();
        done.then(() => { button.textContent = "Copied"; }, () => { button.textContent = document.execCommand("copy") ? "Copied" : "Selected"; });
      });
      const item = make("li", {}, text, button);
      item.style.borderLeftColor = Ranking.style(policy).color;
      return item;
    }));
  }

  function chosen() { Charts.update(task(), Ranking.selection()); lines(); }

  function draw() {
    header();
    const now = task();
    at("empty").hidden = Boolean(now);
    document.querySelectorAll("main > section").forEach(section => { section.hidden = !now; });
    if (!now) return;
    at("h-ranking").textContent = "Ranking: " + now.network + " on " + now.dataset;
    at("explanation").textContent = "Ranked " + BY[content.by.kind] + " "
      + content.by.metrics.map(name => Ranking.METRICS.find(m => m[0] === name)[1].replace(" %", "")).join(", ") + ". Mean \u00b1 standard deviation over "
      + "the seeds, at the evaluation with the highest Top-1. Ranks with = are tied: the noise of the seeds does not tell these policies apart "
      + "(Welch's t-test, 5 %). Data: " + now.about.filter(([, value]) => value !== null).map(item => item.join(" ")).join(", ") + ".";
    Ranking.update(now.policies, shown !== now.id);
    chosen();
    if (!shown) Charts.begin();
    shown = wanted = now.id;
    at("trouble").hidden = !now.troubles.length;
    at("troubles").replaceChildren(...now.troubles.map(t => make("tr", {}, make("td", {}, t.policy), make("td", {}, String(t.seed)),
      make("td", {class: "state-" + t.state}, t.state), make("td", {}, t.error))));
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
      const said = "Live: " + Object.entries(content.states).map(([state, n]) => n + " " + state).join(", ");
      if (at("status").textContent !== said) at("status").textContent = said;
    } catch (error) {
      at("status").textContent = "Not up to date, trying again: " + (error.message || "the server does not answer");
    }
    setTimeout(refresh, 2000);
  }

  Ranking.begin(chosen);
  at("task").addEventListener("change", () => { wanted = at("task").value; draw(); });
  draw();
  if (document.documentElement.hasAttribute("data-live")) refresh();
})();
