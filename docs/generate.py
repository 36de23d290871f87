"""Write the pages that are made from the program itself: command-line.md and python-api.md.

docker/run python3 docs/generate.py          # write them
docker/run python3 docs/generate.py --check  # exit status 1 if they are not current
"""

import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

import click  # noqa: E402

WIDTH = 88  # columns of a help text and of a signature

# The public API: (heading, introduction, [module.name]). A class is shown with its public methods.
API = [
    (
        "Train",
        "`lrbench_caffe` has the names that most programs need.",
        [
            "lrbench_caffe.train",
            "lrbench_caffe.weights",
            "lrbench_caffe.deploy_net",
            "lrbench_caffe.models.Model",
            "lrbench_caffe.InputError",
            "lrbench_caffe.TrialError",
        ],
    ),
    (
        "In a notebook",
        "[two_policies.ipynb](../examples/two_policies.ipynb) shows both.",
        ["lrbench_caffe.trials", "lrbench_caffe.plot"],
    ),
    (
        "Data sets",
        "LMDBs and mean files for Caffe. See [the samples](validation.md#the-samples).",
        [
            "lrbench_caffe.datasets.convert",
            "lrbench_caffe.datasets.Files",
            "lrbench_caffe.datasets.split",
            "lrbench_caffe.datasets.Split",
            "lrbench_caffe.stratified.choose",
        ],
    ),
    (
        "Policies",
        "The LR module needs numpy only. [policies.md](policies.md) describes the functions.",
        [
            "lrbench_caffe.policies.Policy",
            "lrbench_caffe.policies.Composition",
            "lrbench_caffe.policies.parameter_names",
            "lrbench_caffe.policies.parse_or_none",
        ],
    ),
    (
        "Trials",
        "Immutable values, which every other part of the program reads.",
        [
            "lrbench_caffe.trial.Trial",
            "lrbench_caffe.trial.Evaluation",
            "lrbench_caffe.trial.Summary",
            "lrbench_caffe.trial.Setup",
            "lrbench_caffe.trial.Framework",
            "lrbench_caffe.trial.Network",
            "lrbench_caffe.trial.Dataset",
            "lrbench_caffe.trial.Job",
            "lrbench_caffe.trial.to_dict",
            "lrbench_caffe.trial.from_dict",
        ],
    ),
    (
        "Metrics",
        "The metrics of one evaluation, from softmax outputs and labels. They need numpy only.",
        [
            "lrbench_caffe.metrics.Metrics",
            "lrbench_caffe.metrics.from_arrays",
            "lrbench_caffe.metrics.Accumulator",
            "lrbench_caffe.metrics.loss_difference",
        ],
    ),
    (
        "Ranking",
        "Pure functions from trials to ranked policies. See [ranking.md](ranking.md).",
        [
            "lrbench_caffe.ranking.parse_criterion",
            "lrbench_caffe.ranking.rank",
            "lrbench_caffe.ranking.Ranked",
            "lrbench_caffe.ranking.group_comparable",
            "lrbench_caffe.ranking.Block",
            "lrbench_caffe.ranking.Criterion",
            "lrbench_caffe.ranking.Spread",
            "lrbench_caffe.ranking.spread",
            "lrbench_caffe.ranking.is_tied",
            "lrbench_caffe.ranking.group_by_task",
            "lrbench_caffe.ranking.counted_trials",
            "lrbench_caffe.ranking.sort_by_top1",
            "lrbench_caffe.ranking.pareto_front",
        ],
    ),
    (
        "The database",
        "See [database.md](database.md) for the tables.",
        ["lrbench_caffe.database.Store"],
    ),
    (
        "Studies",
        "Many trainings, and where they run. See [studies.md](studies.md).",
        [
            "lrbench_caffe.study.run_study",
            "lrbench_caffe.study.run_jobs",
            "lrbench_caffe.study.cores.Cores",
            "lrbench_caffe.study.cluster.Cluster",
        ],
    ),
    (
        "The policy evaluator",
        "The range test, the tuner and the recommendation. See [tuning.md](tuning.md).",
        [
            "lrbench_caffe.evaluator.trainer.Trainer",
            "lrbench_caffe.evaluator.range_test.run",
            "lrbench_caffe.evaluator.range_test.sweep",
            "lrbench_caffe.evaluator.range_test.RangeTest",
            "lrbench_caffe.ranking.ranges.Range",
            "lrbench_caffe.evaluator.tuner.tune",
            "lrbench_caffe.evaluator.tuner.Tuned",
            "lrbench_caffe.evaluator.recommendation.query_by_names",
            "lrbench_caffe.evaluator.recommendation.query_from_setup",
            "lrbench_caffe.evaluator.recommendation.recommend",
            "lrbench_caffe.evaluator.recommendation.Recommendation",
        ],
    ),
]

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples", "Note")
_SECTION = re.compile(r"^(%s):$" % "|".join(SECTIONS))
_ITEM = re.compile(r"^(\*{0,2}[\w., ]+?)(?: \(([^)]*)\))?: (.*)$", re.DOTALL)


# --- command-line.md ----------------------------------------------------------------------------


def command_line() -> str:
    """The page of the command line: the help text of each command."""
    import cloup

    from lrbench_caffe.cli import main

    parts = [
        "# Command line",
        "`lrbench COMMAND --help` prints the texts of this page. `docker/run lrbench ...` runs the "
        "command in the environment with Caffe; with Caffe installed, `lrbench ...` does.",
    ]
    for path, command in _commands("lrbench", main):
        level = min(2 + path.count(" "), 3)
        context = cloup.Context(command, info_name=path, **_settings(command))
        parts += ["%s %s" % ("#" * level, path), _fence(command.get_help(context), "text")]
    parts += [
        "## Exit status",
        "| status | meaning |\n| ---: | --- |\n"
        "| 0 | the command did what it was asked for |\n"
        "| 1 | a training failed, or could not begin, the database was lost while a command read "
        "it, or the output could not be written; if measurements wait too, the message says so |\n"
        "| 2 | the input is invalid, or the database cannot be used at the start; the message "
        "names what, where and what to do instead |\n"
        "| 3 | everything was measured, but the database does not have all of it: the rest waits "
        "in [journals](database.md#measurements-that-wait), and `lrbench db deliver` delivers it. "
        "This is the status of `train`, `study run`, `range`, `tune`, `reproduce` and `demo`, and "
        "of `db deliver` itself while journals wait |\n"
        "| 4 | everything was measured, but the database rejects values: the rows with them are "
        "kept in [refused journals](database.md#measurements-that-wait), and waiting does not "
        "help. The commands are those of status 3 |\n"
        "| 130 | interrupted by Ctrl-C or a signal to terminate; what was measured is recorded |",
        "## Environment variables",
        "| variable | meaning |\n| --- | --- |\n"
        "| `LRBENCH_DSN` | the PostgreSQL database to use, as with `--dsn` |\n"
        "| `LRBENCH_HOME` | the folder of the private database, of journals, models and studies' "
        "snapshots; default `$XDG_DATA_HOME/lrbench`, else `~/.local/share/lrbench` |\n"
        "| `LRBENCH_DB_TIMEOUT` | the seconds after which a database that does not answer is given "
        "up, and the limit for waiting for a lock to record rows; default 30 |\n"
        "| `OPENBLAS_NUM_THREADS` | the number of BLAS threads of `lrbench train`; trainings of a "
        "study use one each |\n"
        "| `OPENBLAS_CORETYPE` | OpenBLAS's kernels; default SkylakeX on processors with AVX-512, "
        "see [costs.md](costs.md#speed-and-reproducible-digits) |",
    ]
    return _page(parts)


def _settings(command: click.Command) -> Dict[str, Any]:
    settings = dict(command.context_settings, help_option_names=["-h", "--help"])
    settings.update(terminal_width=WIDTH, max_content_width=WIDTH)
    return settings


def _commands(path: str, command: click.Command) -> Iterator[Tuple[str, click.Command]]:
    yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _commands("%s %s" % (path, name), child)


# --- python-api.md ------------------------------------------------------------------------------


def python_api() -> str:
    """The page of the Python API: signatures and docstrings, as Markdown."""
    parts = [
        "# Python API",
        "This page is made from the docstrings. Everything else in the package may change between "
        "versions. Programs that train need Caffe: start them with `docker/run python3 ...`.",
    ]
    for heading, introduction, names in API:
        parts += ["## %s" % heading, introduction]
        for name in names:
            parts += _documented(name)
    return _page(parts)


def _documented(name: str) -> List[str]:
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    if isinstance(value, ModuleType):
        raise TypeError("%s is a module" % name)
    title, imported = attribute, attribute
    if module.startswith("lrbench_caffe.evaluator.") and not inspect.isclass(value):
        module, _, imported = module.rpartition(".")  # `run` by itself says too little
        title = "%s.%s" % (imported, attribute)
    parts = ["### `%s`" % title, "`from %s import %s`" % (module, imported)]
    if not inspect.isclass(value):
        return parts + [_signature(attribute, value), *_markdown(value)]
    if not issubclass(value, Exception):
        parts.append(_signature(attribute, value))
    parts += _markdown(value) + _constructor(value)
    for member, function in _members(value):
        parts += _function_parts("%s.%s" % (attribute, member), function)
    return parts


def _function_parts(name: str, function: Any) -> List[str]:
    """The Markdown of a method or property."""
    kind = isinstance(function, property)
    title = name if kind else "%s()" % name
    parts = ["#### `%s`" % title.replace(".__call__", "")]
    if not kind:
        parts.append(_signature(name.rpartition(".")[2].replace("__call__", "policy"), function))
    return parts + _markdown(function.fget if kind else function)


def _members(value: type) -> Iterator[Tuple[str, Any]]:
    """The public methods and properties of a class and of its bases that have no own section."""
    sections = {name.rpartition(".")[2] for _, _, names in API for name in names}
    members: Dict[str, Any] = {}
    for base in reversed(value.__mro__):
        is_ours = base.__module__.startswith("lrbench_caffe.")
        if base is value or (is_ours and base.__name__ not in sections):
            members.update(vars(base))
    for member, function in members.items():
        plain = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        getter = plain.fget if isinstance(plain, property) else plain
        public = not member.startswith("_") or member == "__call__"
        if public and inspect.isfunction(getter) and getter.__doc__ and getter.__name__ == member:
            yield member, plain


def _constructor(value: type) -> List[str]:
    constructor = vars(value).get("__init__")
    generated = dataclasses.is_dataclass(value) or not inspect.isfunction(constructor)
    return [] if generated else _markdown(constructor)


def _signature(name: str, value: Any) -> str:
    signature = inspect.signature(value)
    parameters = [_clean(str(p)) for p in signature.parameters.values() if p.name != "self"]
    parameters = [p for p in parameters if p != "cls"]
    kinds = [p.kind for p in signature.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        first = next(
            n
            for n, p in enumerate(
                p for p in signature.parameters.values() if p.name not in ("self", "cls")
            )
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        )
        parameters.insert(first, "*")
    empty = inspect.Signature.empty
    annotation = signature.return_annotation
    returned = "" if annotation is empty or inspect.isclass(value) else _type(annotation)
    line = "%s(%s)%s" % (name, ", ".join(parameters), returned)
    if len(line) > WIDTH:
        line = "%s(\n%s)%s" % (name, "".join("    %s,\n" % p for p in parameters), returned)
    return _fence(line, "python")


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return " -> " + _clean(text)


def _clean(text: str) -> str:
    text = re.sub(r": '([^']*)'( = |$)", lambda found: ": %s%s" % found.groups(), text)
    text = re.sub(r"<function <lambda> at 0x\w+>", "...", text)
    text = re.sub(r"<function ([\w.]+) at 0x\w+>", r"\1", text)
    text = re.sub(r"<class '([\w.]+)'>", lambda found: found.group(1).rpartition(".")[2], text)
    text = re.sub(r"\b(?:lrbench_caffe|collections|typing)(?:\.[a-z_]+)*\.(?=[A-Z])", "", text)
    text = re.sub(r"'([^'\"]*)'", r'"\1"', text)  # as ruff formats it
    return text.replace("NoneType", "None")


def _docstring(value: Any) -> str:
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    generated = inspect.isclass(value) and (own or "").startswith(value.__name__ + "(")
    return "" if generated or not own else inspect.cleandoc(own)


def _markdown(value: Any) -> List[str]:
    """A Google-style docstring as Markdown paragraphs."""
    parts: List[str] = []
    section, lines = "", []
    for line in [*_docstring(value).split("\n"), "Note:"]:
        found = _SECTION.match(line)
        if found:
            parts += _section(section, textwrap.dedent("\n".join(lines)).strip("\n"))
            section, lines = found.group(1), []
        else:
            lines.append(line)
    return parts


def _section(name: str, text: str) -> List[str]:
    if not text:
        return []
    if name in ("", "Example", "Examples", "Note"):
        return [part for part in _paragraphs(text) if part]
    if name in ("Returns", "Yields"):
        return ["**%s**" % name, *_paragraphs(text)]
    return ["**%s**" % name, "\n".join(_items(text))]


def _items(text: str) -> Iterator[str]:
    """The items of an Args, Attributes, Returns or Raises section as a Markdown list."""
    entries: List[str] = []
    for line in text.split("\n"):
        words = line.strip()
        if not entries or (_ITEM.match(line) and not line.startswith(" ")):
            entries.append(words)
        elif words.startswith(("* ", "- ")):
            entries[-1] += "\n  - " + words[2:]
        elif words:
            entries[-1] += " " + words
    for entry in entries:
        found = _ITEM.match(entry)
        if not found:
            yield "- %s" % _inline(entry)
            continue
        name, kind, meaning = found.groups()
        yield "- `%s`%s: %s" % (name, " (%s)" % _inline(kind) if kind else "", _inline(meaning))


def _paragraphs(text: str) -> List[str]:
    """Paragraphs, with doctests and indented blocks as fences."""
    parts: List[str] = []
    for paragraph in re.split(r"\n\n+", text):
        lines = paragraph.split("\n")
        if lines[0].startswith(">>> "):
            parts.append(_fence(paragraph, "pycon"))
        elif all(line.startswith("    ") for line in lines):
            parts.append(_fence(textwrap.dedent(paragraph), "text"))
        else:
            parts.append(_inline(re.sub(r"::$", ":", paragraph)))
    return parts


def _inline(text: str) -> str:
    """Roles and literals of reStructuredText as Markdown."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    pieces = re.split(r"(`[^`]*`)", text.replace("\\|", "|"))
    pieces[0::2] = [re.sub(r"(?m)(?!^\* )([*<])", r"\\\1", piece) for piece in pieces[0::2]]
    return "".join(pieces)


# --- both ---------------------------------------------------------------------------------------


def _fence(text: str, language: str) -> str:
    lines = (line.rstrip() for line in text.split("\n"))
    return "```%s\n%s\n```" % (language, "\n".join(lines))


def _page(parts: List[str]) -> str:
    notes = ["<!-- Made by docs/generate.py: do not edit. -->", "<!-- fmt: off -->"]  # for ruff
    return "\n\n".join([*notes, *parts]) + "\n"


PAGES = {"command-line.md": command_line, "python-api.md": python_api}


def outdated() -> List[str]:
    """The names of the generated pages that differ from what would be written now."""
    return [
        name
        for name, make in PAGES.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != make()
    ]


def main() -> None:
    """The command line, see the module's docstring."""
    if sys.argv[1:] == ["--check"]:
        old = outdated()
        if old:
            sys.exit("not current, run `docker/run python3 docs/generate.py`: %s" % ", ".join(old))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        for name, make in PAGES.items():
            (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
