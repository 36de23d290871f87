"use strict";
// How far the running trainings of a policy are, and about how long they still take.
const Progress = (() => {
  let lastIteration = null;  // max_iter of the task that is shown

  function begin(task) {
    lastIteration = task.max_iter;
  }

  function duration(seconds) {
    const whole = Math.round(seconds), pad = n => String(n).padStart(2, "0");
    if (whole < 60) return whole + " s";
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
    return (hours ? hours + ":" + pad(minutes) : minutes) + ":" + pad(whole % 60);
  }

  function ofRun(run) {
    const iteration = run.iteration.length ? run.iteration[run.iteration.length - 1] : 0;
    if (!lastIteration) return "running, at iteration " + iteration;
    const share = iteration / lastIteration, text = Math.floor(100 * share) + " %";
    const spent = Date.now() / 1000 - run.started;
    if (!iteration || spent <= 0) return text;
    return text + ", about " + duration(spent / share - spent) + " left";
  }

  // For example "(1 running: 45 %, about 2:10 left)"; empty if nothing runs.
  function text(policy) {
    const running = policy.runs.filter(run => run.state === "running");
    if (!running.length) return "";
    return "(" + running.length + " running: " + running.slice(0, 3).map(ofRun).join("; ") + ")";
  }

  return {begin, text};
})();
