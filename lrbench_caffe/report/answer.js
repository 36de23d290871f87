"use strict";
// The answer at the top of the page: which policy is best, by how much, whether that is more than
// noise, what it cost, and the lines for a solver prototxt.
const Answer = (() => {
  const UNITS = {top1: " points", top5: " points", iterations: " iterations"};
  const make = Ranking.make;

  // For example "Top-1 99.00 ± 0.30 % after 850 ± 70 iterations, 3 seeds."
  function result(policy) {
    const [top1, iterations] = ["top1", "iterations"].map(key => Ranking.spreadText(policy, key));
    return "Top-1 " + top1 + " % after " + iterations + " iterations, " + policy.seeds
      + (policy.seeds === 1 ? " seed." : " seeds.");
  }

  function tieText(best, tied) {
    const names = tied.length > 1 ? tied.length + " other policies" : tied[0].label;
    const cheapest = [best, ...tied].reduce(
      (a, b) => b.metrics.iterations[0] < a.metrics.iterations[0] ? b : a);
    return "It is tied with " + names + ": the difference is within the noise of the seeds. "
      + (cheapest === best ? "It needs the fewest iterations of them."
        : cheapest.label + " needs the fewest iterations of them: " + result(cheapest));
  }

  // The lead in the metric that decides.
  function leadText(best, others, key) {
    const [, heading, format, isHigherBetter] = Ranking.METRICS.find(([name]) => name === key);
    const of = policy => Comparison.deciding(policy)[key], [next] = others;
    const [first, second] = [of(best), of(next)];
    const lead = isHigherBetter ? first[0] - second[0] : second[0] - first[0];
    const equal = others.filter(policy => of(policy)[0] === first[0]);
    if (equal.length) {
      const names = equal.length > 1 ? equal.length + " other policies have" : next.label + " has";
      return names + " the same " + heading.replace(" %", "") + ".";
    }
    if (!(lead > 0)) return "The next policy is " + next.label + ".";
    const reason = Comparison.noise(first, second);
    const verdict = {
      "": "more than the noise of the seeds.",
      "one seed": "whether this is noise is unknown with one seed. Train more seeds.",
    }[reason] || "this is " + reason + " of the seeds.";
    return "It is better than the next policy, " + next.label + ", by " + format(lead)
      + (UNITS[key] || "") + " in " + heading.replace(" %", "") + ": " + verdict;
  }

  function comparisonText(best, policies, criterion) {
    const others = policies.filter(policy => policy !== best && policy.rank !== null);
    if (!others.length) return "It is the only policy with a finished trial.";
    if (criterion.kind === "pareto") return "";
    const tied = others.filter(policy => best.tied && policy.rank === best.rank);
    if (tied.length) return tieText(best, tied);
    if (criterion.kind === "order") return leadText(best, others, criterion.metrics[0]);
    return "The next policy is " + others[0].label + ".";
  }

  // item: what shows the lines for a solver, made by the caller.
  function update(policies, criterion, item) {
    const best = policies.find(policy => policy.rank !== null);
    document.getElementById("answer").hidden = !best;
    if (!best) return;
    const rank = criterion.kind === "pareto" ? "On the Pareto front" : "Best policy";
    document.getElementById("answer").replaceChildren(
      make("p", {}, rank + ": ", make("strong", {}, best.label)),
      make("p", {}, result(best) + " " + comparisonText(best, policies, criterion)),
      make("ul", {class: "lines"}, item(best)));
  }

  return {update};
})();
