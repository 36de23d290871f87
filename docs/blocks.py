"""Run the commands that README.md and the pages of docs/ show, and refresh the output below them.

An HTML comment on the line before a fence marks it. A reader of the page does not see it.

    <!-- run -->              run the fence: with bash, Python or psql, by its language
    <!-- run: long -->        run it in `make soak` only, because it takes longer than some seconds
    <!-- run: fails -->       run it; its exit status must not be 0
    <!-- not run: REASON -->  leave it out: it needs a network, a GPU, Docker or hours
    <!-- file: NAME -->       write the fence to a file that later commands use
    <!-- output -->           what the command before printed. Options, separated by commas: exact:
                              the test compares it; markdown: it is not a fence, but ends at
                              <!-- end -->; rows N: of more than N rows that begin with the same
                              word only the first N are shown; tail N: only the last N lines;
                              quiet: without the lines that show progress

The commands of a page run in order in an empty folder with copies of solvers/ and prototxt/, where
`docker/run` is the Python that runs this script, and LRBENCH_HOME is a folder of the page's own.

    docker/run python3 docs/blocks.py docs/ranking.md            # run the page's commands
    docker/run python3 docs/blocks.py --refresh docs/ranking.md  # and write what they print into it
    docker/run python3 docs/blocks.py --refresh                  # all pages
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("solvers", "prototxt")  # what commands may read beside; the rest is linked
LINKED = ("Makefile", "examples", "results", "benchmarks")
PICTURES = Path("docs", "images")
TIMEOUT = 3600  # seconds for one block: it ends commands that hang, on a slow machine too

_MARK = re.compile(r"^ *<!-- (run|not run|file|output)(?:: (.*?))? -->$")
_FENCE = re.compile(r"^( *)```(\w*)$")
_RUN = """#!/bin/bash
[[ $1 != lrbench ]] || { shift; set -- "%(python)s" -m lrbench_caffe "$@"; }
[[ $1 != python3 ]] || { shift; set -- "%(python)s" "$@"; }
export PYTHONPATH="%(root)s${PYTHONPATH:+:$PYTHONPATH}"
exec "$@"
"""
_MAKE = """#!/bin/bash
# The environment has no make: run the recipe of a target.
sed -n "/^$1:/,/^$/ s/^\\t//p" Makefile | bash -e
"""


class Block(NamedTuple):
    """A marked part of a page.

    Attributes:
        kind: "run", "not run", "file", "output", or "" for a fence without a mark.
        options: What the mark says after its colon.
        language: The fence's language, or "".
        text: The content, without the fence's indentation.
        first, last: The content's line numbers, counted from 0; last is one beyond it.
        indent: The fence's indentation.
    """

    kind: str
    options: str
    language: str
    text: str
    first: int
    last: int
    indent: str


class ExampleError(Exception):
    """A command of a page did not do what the page says."""


def pages() -> List[Path]:
    """The pages with commands: README.md, those of docs/, and that of examples/."""
    return [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "examples" / "README.md",
    ]


def read(page: Path) -> List[Block]:
    """The blocks of a page, in order."""
    lines, found, n = page.read_text(encoding="utf-8").split("\n"), [], 0
    kind = options = ""
    while n < len(lines):
        mark, fence = _MARK.match(lines[n]), _FENCE.match(lines[n])
        if fence:
            end = lines.index(fence.group(1) + "```", n + 1)
        elif kind == "output" and "markdown" in options:
            end = lines.index("<!-- end -->", n)
        if fence or (kind == "output" and "markdown" in options):
            first = n + 1 if fence else n
            indent = fence.group(1) if fence else ""
            text = "\n".join(line[len(indent) :] for line in lines[first:end])
            found.append(
                Block(kind, options, fence.group(2) if fence else "", text, first, end, indent)
            )
            kind, options, n = "", "", end
        elif mark:
            kind, options = mark.group(1), mark.group(2) or ""
        n += 1
    return found


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A folder in which commands run as they do in a clone; its database is stopped at the end."""
    folder = Path(tempfile.mkdtemp(prefix="lrbench-docs-"))
    try:
        for name in COPIED:
            shutil.copytree(str(ROOT / name), str(folder / name))
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        (folder / PICTURES).mkdir(parents=True)
        (folder / "matplotlibrc").write_text("svg.hashsalt: lrbench\n")  # the same picture again
        _write_program(folder / "docker" / "run", _RUN % {"python": sys.executable, "root": ROOT})
        if not shutil.which("make"):
            _write_program(folder / "bin" / "make", _MAKE)
        yield folder
    finally:
        _execute(folder, ["docker/run", "lrbench", "db", "stop"])
        shutil.rmtree(str(folder))


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _environment(folder: Path) -> dict:
    environment = dict(os.environ, LRBENCH_HOME=str(folder / "home"), MPLBACKEND="Agg")
    environment.pop("LRBENCH_DSN", None)
    environment["PATH"] = "%s:%s" % (folder / "bin", os.environ["PATH"])
    environment.update(
        SOURCE_DATE_EPOCH="0", PSQL_PAGER="", PAGER="cat", COLUMNS="110", LC_ALL="C.UTF-8"
    )
    return environment


def _execute(
    folder: Path, command: List[str], standard_input: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=str(folder),
        env=_environment(folder),
        input=standard_input,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        encoding="utf-8",
    )


def run(block: Block, folder: Path) -> str:
    """Run a block and return what it prints.

    Raises:
        ExampleError: Its exit status is not what the page says.
    """
    if block.language == "python":
        done = _execute(folder, ["docker/run", "python3", "-"], block.text)
    elif block.language in ("sql", "psql"):
        sql = "\\set ON_ERROR_STOP on\n\\pset footer off\n" + block.text + "\n"
        done = _execute(folder, ["docker/run", "lrbench", "db", "shell"], sql)
        done.stdout = done.stdout.replace("Pager usage is off.\n", "")
        done.stdout = "\n".join(
            line for line in done.stdout.split("\n") if line != "Default footer is off."
        )
    else:
        done = _execute(folder, ["bash", "-e", "-o", "pipefail", "-c", block.text])
    if (done.returncode != 0) != ("fails" in block.options):
        raise ExampleError(
            "line %d: exit status %d of\n%s\n\n%s"
            % (block.first, done.returncode, block.text, done.stdout)
        )
    return normalized(done.stdout, folder)


def normalized(printed: str, folder: Path) -> str:
    """What a command printed, without what differs from run to run."""
    printed = printed.replace(str(folder), "/home/you/lrbench-caffe")
    return "\n".join(line.rstrip() for line in printed.strip("\n").split("\n"))


def shown(printed: str, options: str) -> str:
    """The part of a command's output that a page shows."""
    lines = printed.split("\n")
    if "quiet" in options:
        lines = [line for line in lines if not re.match(r" *\d+/\d+  ", line)]
    tail = re.search(r"tail (\d+)", options)
    if tail:
        lines = lines[-int(tail.group(1)) :]
    rows = re.search(r"rows (\d+)", options)
    if rows:
        lines = _shortened(lines, int(rows.group(1)))
    return "\n".join(lines)


def _shortened(lines: List[str], rows: int) -> List[str]:
    """The lines, with only the first rows of those that begin with the same word."""
    short, word, count = [], "", 0
    for line in lines:
        first = line.split()[0] if line.startswith(" ") and line.split() else ""
        count = count + 1 if first and first == word else 1
        word = first
        if count <= rows:
            short.append(line)
        elif count == rows + 1:
            short.append(" ...")
    return short


def run_page(page: Path, long: bool = False, refresh: bool = False) -> None:
    """Run the commands of a page in order.

    Args:
        page: The Markdown file.
        long: Whether to run those that are marked long too.
        refresh: Whether to write what they print, and the pictures that they draw, into the page.

    Raises:
        ExampleError: A command failed, or printed other text than the page shows as exact.
    """
    replaced = []
    with workplace() as folder:
        printed: Optional[str] = None
        for block in read(page):
            if block.kind == "file":
                (folder / block.options).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.options).write_text(block.text + "\n", encoding="utf-8")
            elif block.kind == "run":
                left_out = "long" in block.options and not long
                printed = None if left_out else run(block, folder)
            elif block.kind == "output" and printed is not None:
                text = shown(printed, block.options)
                if refresh:
                    replaced.append((block, text))
                elif "exact" in block.options and text != block.text:
                    raise ExampleError(
                        "line %d: the page shows\n%s\n\nbut the command prints\n%s"
                        % (block.first, block.text, text)
                    )
        if refresh:
            _write(page, replaced)
            for picture in sorted((folder / PICTURES).iterdir()):
                shutil.copy(str(picture), str(ROOT / PICTURES / picture.name))


def _write(page: Path, replaced: list) -> None:
    lines = page.read_text(encoding="utf-8").split("\n")
    for block, text in reversed(replaced):
        lines[block.first : block.last] = [
            (block.indent + line).rstrip() for line in text.split("\n")
        ]
    page.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    """The command line, see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--refresh", action="store_true", help="write the output into the pages")
    parser.add_argument("--short", action="store_true", help="leave out what is marked long")
    parser.add_argument("pages", nargs="*", type=Path, help="default: all pages with commands")
    options = parser.parse_args()
    failed = False
    for page in options.pages or pages():
        if any(block.kind == "run" for block in read(page)):
            print(page, flush=True)
            try:
                run_page(page.resolve(), not options.short, options.refresh)
            except ExampleError as error:
                failed = True
                print("%s, %s" % (page, error), file=sys.stderr, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
