"""The sentences about the best policy of a ranking."""

import pytest
from trials import trial

from lrbench_caffe import ranking
from lrbench_caffe.display import verdict

SLOW, FAST = "SIN2(k0=0.01, k1=0.06, l=100)", "FIX(k0=0.02)"


def trials_of(policy, top1s, evaluations=2):
    """A trial for each seed, which reaches its Top-1 at the last of some evaluations."""
    return [
        trial(policy, [0.1] * (evaluations - 1) + [top1], seed) for seed, top1 in enumerate(top1s)
    ]


def trials_of_sets(*policies):
    """Three seeds of each (policy, Top-1 that decides, Top-1 that is reported)."""
    pytest.importorskip("rich", reason="needs rich: run the tests with `make test`")
    from test_choosing import trial as trial_of_sets

    return [
        trial_of_sets(policy, [0.1, decides + seed / 100], [0.1, reported + seed / 100], seed)
        for policy, decides, reported in policies
        for seed in (0, 1, 2)
    ]


def verdict_on(trials, by="top1"):
    criterion = ranking.parse_criterion(by)
    return verdict.of_ranking(ranking.rank(trials, criterion), criterion)


BETTER = trials_of(SLOW, (0.90, 0.91, 0.92), 3)
WORSE = trials_of(FAST, (0.60, 0.61, 0.62))


def test_a_lead_beyond_the_noise_is_named_with_its_cost():
    result = verdict_on(BETTER + WORSE)
    assert result.entry.policy == SLOW
    assert result.text == (
        "Top-1 91.0 \u00b1 1.0 % after 200 \u00b1 0 iterations, 3 seeds. It is better than the "
        "next policy, FIX(k0=0.02), by 30.00 points in Top-1: more than the noise of the seeds."
    )


def test_a_tie_is_not_called_a_lead_and_the_cheapest_policy_is_named():
    text = verdict_on(BETTER + trials_of(FAST, (0.90, 0.90, 0.92))).text
    assert "It is tied with FIX(k0=0.02): the difference is within the noise of the seeds." in text
    assert text.endswith(
        "FIX(k0=0.02) needs the fewest iterations of them: "
        "Top-1 90.7 \u00b1 1.2 % after 100 \u00b1 0 iterations, 3 seeds."
    )


def test_the_best_policy_is_called_the_cheapest_only_if_it_is():
    end = "the difference is within the noise of the seeds."
    fast = trials_of(FAST, (0.91, 0.92))
    cheapest = verdict_on(fast + trials_of(SLOW, (0.90, 0.92), 3)).text
    assert cheapest.endswith(end + " It needs the fewest iterations of them.")
    assert verdict_on(fast + trials_of(SLOW, (0.90, 0.92))).text.endswith(end)


def test_several_tied_policies_are_counted():
    others = [trials_of("FIX(k0=0.0%d)" % n, (0.90, 0.90, 0.92)) for n in (3, 4)]
    text = verdict_on(sum(others, BETTER)).text
    assert "tied with 2 other policies: the differences are within the noise" in text


def test_policies_with_the_same_value_are_counted():
    result = verdict_on([trial(policy, [0.1, 0.9]) for policy in (SLOW, FAST)])
    (other,) = {SLOW, FAST} - {result.entry.policy}
    assert result.text.endswith("1 seed. %s has the same Top-1." % other)
    three = [trial(policy, [0.1, 0.9]) for policy in (SLOW, FAST, "FIX(k0=0.03)")]
    assert verdict_on(three).text.endswith("2 other policies have the same Top-1.")


def test_a_lead_of_one_seed_is_not_called_more_than_noise():
    text = verdict_on(trials_of(SLOW, [0.9]) + trials_of(FAST, [0.6])).text
    assert "by 30.00 points in Top-1: whether this is noise is unknown with one seed" in text


@pytest.mark.parametrize(
    "by, best, end",
    [
        ("iterations", FAST, "by 100 in #Iter: more than the noise of the seeds."),
        ("top1=1,iterations=0.1", SLOW, "3 seeds. The next policy is %s." % FAST),
        ("pareto:top1,iterations", None, "3 seeds."),
    ],
)
def test_the_lead_is_in_what_the_policies_are_ranked_by(by, best, end):
    result = verdict_on(BETTER + WORSE, by)
    assert result.text.endswith(end) and best in (None, result.entry.policy)


def test_a_single_policy_is_not_compared():
    assert verdict_on(BETTER).text.endswith("It is the only policy with a finished trial.")


def test_without_a_finished_trial_there_is_no_verdict():
    assert verdict_on([trial(FAST, state="running")]) is None
    assert verdict_on([]) is None


def test_the_noise_is_that_of_the_set_that_decides():
    """The reported numbers differ by 30 points; those that decide, by less than their noise."""
    text = verdict_on(trials_of_sets((SLOW, 0.95, 0.9), (FAST, 0.949, 0.6))).text
    assert "It is tied with " + FAST in text


def test_a_lead_is_that_on_the_set_that_decides():
    text = verdict_on(trials_of_sets((SLOW, 0.95, 0.9), (FAST, 0.5, 0.9))).text
    assert text.startswith("Top-1 91.0 ") and "by 45.00 points in Top-1 on the set that" in text


def test_the_terminal_has_the_lines_to_paste():
    criterion = ranking.parse_criterion("top1")
    one = ranking.rank(BETTER + WORSE, criterion)
    first, text = verdict.remarks([one], criterion)
    assert first == 'best: lr_policy: "%s"' % SLOW and text.startswith("Top-1 91.0")
    assert verdict.remarks([one, one], criterion) == verdict.remarks([], criterion) == []


def test_the_terminal_explains_the_ranks_of_pareto_fronts():
    pareto = ranking.parse_criterion("pareto")
    assert verdict.remarks([], pareto) == []
    one = ranking.rank(BETTER, pareto)
    assert verdict.remarks([one], pareto) == ["rank 1 is the Pareto front for Top-1 and #Iter"]
    level = [trial(FAST, [0.1, share], n) for n, share in enumerate((0.90, 0.92), 1)]
    behind = [trial(SLOW, [0.1, share], n) for n, share in enumerate((0.89, 0.92), 1)]
    entries = ranking.rank(level + behind, pareto)
    assert [(entry.rank, entry.tied) for entry in entries] == [(1, False), (1, True)]
    (sentence,) = verdict.remarks([one, entries], pareto)
    assert sentence.endswith(
        "a policy with = has a worse mean than another one of its rank, within the noise"
    )
