"""The help texts of commands: their options in groups, and examples to paste."""

from __future__ import annotations

from typing import Any, Callable, Sequence

import click
import cloup

# The groups of options by the options' names, in the order in which the help has them.
GROUPS = {
    "Which trials": (
        ("study", "dataset", "network", "function", "policy", "state", "origin", "local", "since")
        + ("everything",)
    ),
    "What to train": (
        ("policy", "policies", "seed", "seeds", "max_iter", "data", "stages", "level", "scale")
        + ("functions", "goal", "budget", "sweep", "solver", "test_interval", "source")
    ),
    "What is measured": ("head", "test_net", "select", "validation"),
    "When a training ends": ("until_top1", "patience", "patience_metric", "min_delta", "prune"),
    "Where it starts, and snapshots": ("resume", "weights", "snapshot_prefix", "retry_failed"),
    "The model": ("keep_best", "no_model", "deploy"),
    "Where to train": ("gpu", "jobs", "cluster"),
    "Output": (
        ("by", "columns", "sort", "limit", "format", "out", "terminal", "to", "pad", "verbose")
        + ("log", "as_json", "host", "port", "validation_samples")
    ),
    "Database": ("name", "dsn", "force", "yes", "restore", "now"),
}
_ORDER = {name: n for n, name in enumerate(GROUPS)}
_SPECIAL = {
    ("train", "policy"): "What to train",
    ("weights", "policy"): "Which trials",
    ("tune", "origin"): "Database",
    ("tune", "local"): "Database",
}
_FILTERED = ("ls", "trials", "delete")  # commands whose --host selects trials

_SMALL = "solvers/digits_solver.prototxt"
EXAMPLES: dict[str, Sequence[str]] = {
    "lrbench train": (
        'train %s --data data --policy "SIN2(k0=0.005, k1=0.08, l=100)"' % _SMALL,
        "train my_solver.prototxt --max-iter 2000 --seed 1 --patience 5",
    ),
    "lrbench demo": ("demo", "demo --out curves.svg"),
    "lrbench study run": (
        'study run first %s --data data --policy "FIX(k0=0.01)" '
        '--policy "EXP(k0=0.05, gamma=0.995)" --seeds 3' % _SMALL,
        "study run first",
    ),
    "lrbench study list": ("study list", "study list --format csv"),
    "lrbench study show": ("study show first", "study show first --sort -top1 --limit 5"),
    "lrbench study stop": ("study stop first", "study stop first --now"),
    "lrbench study delete": ("study delete first",),
    "lrbench range": (
        "range %s --data data" % _SMALL,
        "range %s --data data --sweep --out range.png" % _SMALL,
    ),
    "lrbench tune": (
        "tune %s --data data --budget 9000" % _SMALL,
        "tune my_solver.prototxt --goal cost --function SIN2 --function POLY",
    ),
    "lrbench recommend": (
        "recommend --dataset digits --network Digits",
        "recommend --solver %s --data data" % _SMALL,
    ),
    "lrbench rank": (
        "rank --study first",
        "rank --dataset digits --by top1,iterations --columns policy,top1,ld",
        "rank --format csv",
    ),
    "lrbench report": ("report report.html", "report --study first first.html"),
    "lrbench serve": ("serve", "serve --study first --port 8080"),
    "lrbench plot": (
        'plot "SIN2(k0=0.01, k1=0.06, l=2000)" "FIX(k0=0.01)" --terminal',
        'plot "STEP(k0=0.1, gamma=0.1, l=4000)" --max-iter 10000 --out rates.svg',
    ),
    "lrbench ls": ("ls", "ls tasks", "ls trials --state failed --since 2h"),
    "lrbench show": ("show a066cc2f", "show first --limit 5"),
    "lrbench trials": ("trials --study first", "trials --sort -top1 --limit 10"),
    "lrbench trial": ("trial a066cc2f", "trial a066cc2f --format json"),
    "lrbench weights": (
        "weights a066cc2f --out best.caffemodel",
        "weights first --out best.caffemodel --deploy deploy.prototxt",
    ),
    "lrbench reproduce": ("reproduce table-7 --scale 0.05", "reproduce figure-3-lenet"),
    "lrbench data digits": ("data digits --to data", "data digits --to data --validation 200"),
    "lrbench data mnist": (
        "data mnist --to data --validation 5000",
        "data mnist --to data --from folder_with_the_official_files",
    ),
    "lrbench data cifar10": ("data cifar10 --to data", "data cifar10 --to data --pad 4"),
    "lrbench data split": ("data split my_train_lmdb --validation 1000",),
    "lrbench policies": ("policies", "policies SIN2"),
    "lrbench metrics": ("metrics", "metrics CDAC"),
    "lrbench about": ("about", "about --format json"),
    "lrbench completion": ("completion bash",),
    "lrbench db status": ("db status",),
    "lrbench db start": ("db start",),
    "lrbench db stop": ("db stop",),
    "lrbench db shell": ("db shell",),
    "lrbench db deliver": ("db deliver",),
    "lrbench db journals": ("db journals", "db journals --format json"),
    "lrbench db export": ("db export trials.jsonl", "db export first.jsonl --study first"),
    "lrbench db import": ("db import trials.jsonl",),
    "lrbench db origins": ("db origins",),
    "lrbench db delete": ("db delete a066cc2f", "db delete --study first --state failed"),
}


def _shell_lines(command: str, width: int) -> list[str]:
    """Break a command before its options, where it is wider than a width."""
    first, *options = command.split(" --")
    lines = [first]
    for option in options:
        if len(lines[-1]) + len(" --" + option + " \\") <= width:
            lines[-1] += " --" + option
        else:
            lines.append("    --" + option)
    return [line + " \\" for line in lines[:-1]] + lines[-1:]


class Command(cloup.Command):
    """A command with its options in groups and its examples at the end."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._group_options()

    def _group_options(self) -> None:
        groups: dict[str, Any] = {}
        for option in self.params:
            title = self._title(option)
            if title is not None:
                groups.setdefault(title, cloup.OptionGroup(title))
                option.group = groups[title]
        for title, group in groups.items():
            group.options = [option for option in self.params if self._title(option) == title]
        self.option_groups = [groups[title] for title in sorted(groups, key=lambda t: _ORDER[t])]
        self.ungrouped_options = [
            option
            for option in self.params
            if isinstance(option, click.Option) and self._title(option) is None
        ]

    def _title(self, option: click.Parameter) -> str | None:
        """The title of the group of an option; None for an argument."""
        if not isinstance(option, click.Option):
            return None
        if option.name == "host" and self.name in _FILTERED:
            return "Which trials"
        special = _SPECIAL.get((self.name or "", option.name or ""))
        titles = (title for title, names in GROUPS.items() if option.name in names)
        return special or next(titles, None)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        lines = EXAMPLES.get(context.command_path, ())
        if lines:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                for line in lines:
                    for piece in _shell_lines("lrbench " + line, formatter.width - len(indent)):
                        formatter.write(indent + piece + "\n")


class Group(cloup.Group):
    """A group of commands, each a :class:`Command`; a misspelt name gets the nearest one."""

    command_class = Command


def command(name: str | None = None) -> Callable[[Callable[..., Any]], Command]:
    """Make a :class:`Command` of a function."""
    return click.command(name, cls=Command)


def group(name: str | None = None) -> Callable[[Callable[..., Any]], Group]:
    """Make a :class:`Group` of a function."""
    return click.group(name, cls=Group)
