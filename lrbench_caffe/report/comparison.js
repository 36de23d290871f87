"use strict";
// The selected policies side by side: their metrics, the differences to the first one, and whether
// the noise of the seeds explains them (Welch's t-test on the set that decides, as in the ranking).
const Comparison = (() => {
  const MOST = 6;  // policies side by side
  const make = Ranking.make;
  let quantiles = [];  // of Student's t for 1, 2, ... degrees of freedom

  function quantile(freedom) {
    return quantiles[Math.min(Math.floor(freedom), quantiles.length) - 1];
  }

  // Why a difference is not larger than the noise, or an empty text if it is larger.
  function noise(first, second) {
    const [meanA, deviationA, a] = first, [meanB, deviationB, b] = second;
    if (meanA === meanB) return "equal";
    if (deviationA === null || deviationB === null) return "one seed";
    const parts = [deviationA ** 2 / a, deviationB ** 2 / b], variance = parts[0] + parts[1];
    if (!variance) return "";
    const freedom = variance ** 2 / (parts[0] ** 2 / (a - 1) + parts[1] ** 2 / (b - 1));
    const t = Math.abs(meanA - meanB) / Math.sqrt(variance);
    return t > quantile(Math.max(1, freedom)) ? "" : "within the noise";
  }

  // The metrics by which policies are ranked: those on the set that decides.
  function deciding(policy) { return policy.deciding || policy.metrics; }

  function signed(format, value) {
    const text = format(Math.abs(value));
    return (value < 0 ? "\u2212" : "+") + text;
  }

  function cell([key, , format, isHigherBetter], policy, first) {
    const [mean] = policy.metrics[key], text = Ranking.spreadText(policy, key);
    if (policy === first || mean === null || first.metrics[key][0] === null) {
      return make("td", {}, text);
    }
    const difference = mean - first.metrics[key][0];
    const decided = deciding(policy)[key], reference = deciding(first)[key];
    const reason = key === "n_params" ? "" : noise(decided, reference);
    if (!difference && (reason || decided[0] === reference[0])) {
      return make("td", {}, text + " (equal)");
    }
    const isBetter = decided[0] > reference[0] === isHigherBetter;
    const verdict = reason || (isBetter ? "better" : "worse");
    return make("td", {}, text + " ", make("span",
      {class: reason ? "noise" : isBetter ? "better" : "worse"},
      "(" + signed(format, difference) + ", " + verdict + ")"));
  }

  function update(selection, newQuantiles) {
    quantiles = newQuantiles;
    const measured = selection.filter(policy => policy.metrics.top1[0] !== null);
    const compared = measured.slice(0, MOST), first = compared[0];
    document.getElementById("comparison").hidden = compared.length < 2;
    if (compared.length < 2) return;
    document.getElementById("comparison-text").textContent =
      "Each policy beside " + first.label + ". A difference is called better or worse only if the "
      + "noise of the seeds does not explain it."
      + (first.deciding ? " The numbers are those that are reported; which policy is better is "
        + "decided on the " + first.selected[0] + " set." : "")
      + (measured.length > MOST ? " The best " + MOST + " of the selected policies." : "");
    document.getElementById("compared").replaceChildren(make("th", {scope: "col"}, "metric"),
      ...compared.map(policy => make("th", {scope: "col"},
        Styles.swatch(Ranking.style(policy)), " " + policy.label)));
    const seeds = make("tr", {}, make("td", {}, "seeds"),
      ...compared.map(policy => make("td", {}, String(policy.seeds))));
    document.getElementById("differences").replaceChildren(seeds,
      ...Ranking.METRICS.map(metric => make("tr", {}, make("td", {}, metric[1]),
        ...compared.map(policy => cell(metric, policy, first)))));
  }

  return {update};
})();
