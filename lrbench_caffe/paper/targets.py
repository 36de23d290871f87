"""The paper's tables and figures as values: which trainings they are made of, what was published, and how the two compare.

published.csv has the published numbers: accuracies in percent, as printed, and in ``slip`` the metrics that are misprints.  In Table
VII the CDAC of SIN and COS repeats their LD, and POLY's is ten times its neighbours'.  Tables IIIa and V give no l; 2000 is
taken from Tables VIII and IX.  The grids of Figures 3 and 4 are not given either and chosen here.
"""

import csv
import os
import re
from typing import Dict, NamedTuple, Optional, Tuple

from lrbench_caffe.display.tables import METRICS, Column, Table, states_note
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking import Spread, counted_trials, spread
from lrbench_caffe.trial import FINISHED


class Setting(NamedTuple):
    """A network as the paper trains it (Table II): its solver, dataset, padding, iterations, evaluations, iterations an epoch."""

    solver: str
    dataset: str
    pad: int
    max_iter: int
    test_interval: int
    epoch: float


SETTINGS = {
    "LeNet": Setting("solvers/lenet_solver.prototxt", "mnist", 0, 10000, 500, 600),
    "CNN3": Setting("solvers/cnn3_solver.prototxt", "cifar10", 0, 70000, 250, 500),
    "ResNet-32": Setting("solvers/resnet32_solver.prototxt", "cifar10", 4, 64000, 500, 50000 / 128),
}


class Published(NamedTuple):
    """A line of a published table: metrics by the names of a Summary's fields, in its units; top1_std as a share too."""

    policy: str
    metrics: Dict[str, float]
    top1_std: Optional[float]
    slips: Tuple[str, ...]
    source: str


class Target(NamedTuple):
    """What can be reproduced: its name, a title, the network of SETTINGS, the policies' texts, and the published lines."""

    name: str
    title: str
    network: str
    policies: Tuple[str, ...]
    published: Tuple[Published, ...] = ()

    @property
    def setting(self):
        """The Setting of its network."""
        return SETTINGS[self.network]


_SHARES = ("top1", "top5", "top1_std")  # printed in percent


def _published():
    """{table: [(network, Published)]} from published.csv."""
    tables = {}
    with open(
        os.path.join(os.path.dirname(os.path.abspath(__file__)), "published.csv"), newline=""
    ) as file:
        for line in csv.DictReader(file):
            names = [column.name for column in METRICS] + ["top1_std"]
            values = {
                name: float(line[name]) / (100 if name in _SHARES else 1)
                for name in names
                if line.get(name)
            }
            deviation = values.pop("top1_std", None)
            tables.setdefault(line["table"], []).append(
                (
                    line["network"],
                    Published(
                        line["policy"],
                        values,
                        deviation,
                        tuple(line["slip"].split()),
                        line["source"],
                    ),
                )
            )
    return tables


_TITLES = {
    "IIa": "FIX with three rates",
    "IIb": "STEP with three step sizes",
    "IIIa": "TRI2 with ten ranges",
    "IIIb": "STEP with ten step sizes",
    "V": "TRI2 with six ranges",
    "VI": "NSTEP with three schedules",
    "VII": "policies compared",
    "VIII": "policies compared",
    "IX": "policies compared",
}
_ARABIC = {"ii": "2", "iii": "3", "v": "5", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}
# Four rates a decade around the paper's lines at 0.0005, 0.001, 0.006, 0.01 and 0.1.
_RATES = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.006, 0.01, 0.02, 0.03, 0.06, 0.1)
_STEPS = (250, 500) + tuple(range(1000, 10001, 1000))


def _targets():
    found = []
    for table, lines in _published().items():
        network = lines[0][0]
        dataset = "MNIST" if SETTINGS[network].dataset == "mnist" else "CIFAR-10"
        title = "Table %s: %s, %s on %s" % (table, _TITLES[table], network, dataset)
        published = tuple(line for _, line in lines)
        found.append(
            Target(
                "table-" + _arabic(table),
                title,
                network,
                tuple(line.policy for line in published),
                published,
            )
        )
    rates = tuple("FIX(k0=%s)" % rate for rate in _RATES)
    third = [line for line in found if line.name == "table-6"][0].published[2]
    found += [
        Target(
            "figure-3", "Figure 3: Top-1 against the rate of FIX, CNN3 on CIFAR-10", "CNN3", rates
        ),
        Target(
            "figure-3-lenet",
            "Figure 3 for LeNet on MNIST: Top-1 against the rate of FIX",
            "LeNet",
            rates,
        ),
        Target(
            "figure-4",
            "Figure 4: Top-1 against the step size of STEP, CNN3 on CIFAR-10",
            "CNN3",
            tuple("STEP(k0=0.001, gamma=0.85, l=%d)" % l for l in _STEPS),
        ),
        Target(
            "figure-5",
            "Figure 5: Top-1 and loss under NSTEP, CNN3 on CIFAR-10",
            "CNN3",
            (third.policy,),
            (third,),
        ),
    ]
    return {target.name: target for target in found}


def _arabic(text):
    """ "7" of VII, "3a" of IIIa; what is no such number stays as it is."""
    number, letter = re.fullmatch(r"([ivx]*)(.*)", text.lower()).groups()
    return _ARABIC.get(number, number) + letter


TARGETS = _targets()
FIGURE_1 = "figure-1"  # which no network is trained for
NAMES = (FIGURE_1,) + tuple(sorted(TARGETS))


def canonical_name(text):
    """The name in NAMES of what a text means: table-7, "Table VII", table-3a, figure-3.  Raises InputError for others."""
    kind, _, rest = text.strip().lower().replace(" ", "-").partition("-")
    name = "%s-%s" % (kind, _arabic(rest) if kind == "table" else rest)
    if name not in NAMES:
        raise InputError(
            "%r is no table or figure that can be reproduced: it is one of %s"
            % (text[:60], ", ".join(NAMES))
        )
    return name


def exact_scale(target, scale):
    """The scale nearest to the one wanted at which the training has a whole number of iterations."""
    max_iter = target.setting.max_iter
    return float("%.10g" % (max(1, round(scale * max_iter)) / max_iter))


def test_interval(target, scale):
    """The iterations between two evaluations at that scale."""
    return max(1, round(scale * target.setting.test_interval))


def study_name(target, scale):
    """The name of the target's study and files: table-7, or table-8-at-0.05 for a training that is made shorter."""
    return target.name if scale == 1 else "%s-at-%.6g" % (target.name, scale)


def scaled(policy, scale):
    """The policy for a training that is `scale` times as long: at iteration scale * t it has the rate that this has at t.

    l is rounded to whole iterations.  The decay of an iteration, the gamma of EXP, TRIEXP and SINEXP, becomes gamma^(1/scale), and
    INV's gamma becomes gamma / scale; the gamma of STEP and NSTEP is that of a step and stays.  Raises InputError when steps
    become too short to tell apart.
    """
    if scale == 1:
        return policy
    values = policy.parameters
    if "l" in values:
        steps = values["l"] if policy.function == "NSTEP" else (values["l"],)
        steps = [round(step * scale) for step in steps]
        if steps[0] < 1 or len(set(steps)) < len(steps):
            raise InputError(
                "at scale %g the steps of %s are %s iterations: give a larger scale"
                % (scale, policy, steps)
            )
        values["l"] = steps if policy.function == "NSTEP" else steps[0]
    if policy.function in ("EXP", "TRIEXP", "SINEXP"):
        values["gamma"] = float("%.10g" % values["gamma"] ** (1 / scale))
    elif policy.function == "INV":
        values["gamma"] = float("%.10g" % (values["gamma"] / scale))
    return Policy(policy.function, **values)


def policies(target, scale):
    """{published text: the text that is trained under at that scale}.  Raises InputError when two would become the same."""
    found = {text: str(scaled(Policy.parse(text), scale)) for text in target.policies}
    if len(set(found.values())) < len(found):
        raise InputError(
            "at scale %g two policies of %s are the same: give a larger scale"
            % (scale, target.name)
        )
    return found


def scale_of(target, trials):
    """The scale at which trials were trained, by their max_iter.  Raises InputError for trials that are none of the target's."""
    if not trials:
        raise InputError(
            "no training of %s has begun, so that there is nothing to compare" % target.name
        )
    for trial in trials:
        if trial.setup.network.name != target.network:
            raise InputError(
                "a trial is of the network %s and %s is of %s: give the rows of its study"
                % (trial.setup.network.name, target.name, target.network)
            )
    lengths = {trial.setup.solver.get("max_iter") or 0 for trial in trials}
    if len(lengths) != 1:
        raise InputError(
            "the trials are %s iterations long: give those of one study of %s"
            % (" and ".join(str(length) for length in sorted(lengths)), target.name)
        )
    scale = exact_scale(target, lengths.pop() / target.setting.max_iter)
    known = set(policies(target, scale).values())
    if not any(trial.policy in known for trial in trials):
        raise InputError(
            "none of the trials is under a policy of %s: give the rows of its study" % target.name
        )
    return scale


def title(target, scale):
    """The title, which says when the trainings were made shorter than the paper's."""
    if scale == 1:
        return target.title
    return "%s, AT SCALE %.6g: %d iterations instead of %d" % (
        target.title,
        scale,
        round(scale * target.setting.max_iter),
        target.setting.max_iter,
    )


def finished(trials, policy):
    """The trials under a policy that count, see :func:`lrbench_caffe.ranking.counting`."""
    return counted_trials(trial for trial in trials if trial.policy == policy)


def comparison(target, trials, scale):
    """A Table with up to three lines for each policy: ours (mean and deviation over the seeds), published, and the difference.

    What the paper does not say has a dash, and so has the difference to a misprint.  Where trainings were made shorter, the
    difference of #Iter is to the published one made shorter alike.
    """
    columns = (
        Column("policy", None),
        Column(None, "policy"),
        Column("", "line"),
        Column(None, "scale"),
        Column("seeds", "seeds", str, True),
    ) + METRICS[:-1]
    lines = {published.policy: published for published in target.published}
    rows = []
    for text, policy in policies(target, scale).items():
        ours = finished(trials, policy)
        means = {
            column.name: spread(getattr(trial.summary, column.name) for trial in ours)
            for column in METRICS[:-1]
        }
        others = [trial for trial in trials if trial.policy == policy and trial.state != FINISHED]
        rows.append(
            (policy + states_note(others), policy, "ours", scale, len(ours)) + tuple(means.values())
        )
        if text in lines:
            rows.append(
                ("", text, "published", 1, None)
                + tuple(_printed(lines[text], name) for name in means)
            )
            rows.append(
                ("", policy, "difference", scale, None)
                + tuple(_difference(lines[text], name, means[name].mean, scale) for name in means)
            )
    return Table(title(target, scale), columns, tuple(rows))


def _printed(published, name):
    value = published.metrics.get(name)
    if name == "top1" and published.top1_std is not None:
        return Spread(value, published.top1_std, 5)
    return value


def _difference(published, name, ours, scale):
    if ours is None or name not in published.metrics or name in published.slips:
        return None
    return ours - published.metrics[name] * (scale if name == "iterations" else 1)
