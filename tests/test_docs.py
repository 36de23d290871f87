"""The documentation: its commands run, its generated pages are current, its links resolve."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, needs_caffe
from trials import trial
from waiting import LIMIT

from lrbench_caffe import Policy

DOCS = Path(ROOT, "docs")
NOTEBOOK = Path(ROOT, "examples", "two_policies.ipynb")
sys.path.insert(0, str(DOCS))

import blocks  # noqa: E402

LINKED = [
    *blocks.pages(),
    Path(ROOT, "CONTRIBUTING.md"),
    Path(ROOT, "CHANGELOG.md"),
    *sorted(Path(ROOT, "results").glob("*.md")),
]
COMMANDS = ("sh", "python", "sql", "psql")
EPOCH = 1000  # iterations


# The pages that a new user follows. `make soak` runs all commands of all pages.
FIRST_PAGES = ("README.md", "docs/getting-started.md")


def with_commands(pages):
    """The pages that have commands to run."""
    return [
        pytest.param(page, id=str(page.relative_to(ROOT)))
        for page in pages
        if any(block.kind == "run" for block in blocks.read(page))
    ]


@needs_caffe
@pytest.mark.parametrize("page", with_commands(Path(ROOT, page) for page in FIRST_PAGES))
def test_commands_of_a_first_page_run(page):
    blocks.run_page(page)


@needs_caffe
@pytest.mark.long
@pytest.mark.parametrize("page", with_commands(blocks.pages()))
def test_all_commands_of_a_page_run(page):
    blocks.run_page(page, long=True)


def test_the_example_reads_trainings_that_were_not_evaluated(store, database):
    for example in (trial(top1=()), trial(dataset="other")):
        store.begin(example)
        for row in example.rows:
            store.add(example.id, row)
        store.end(example.id, example.state, example.ended, example.error)
    done = subprocess.run(
        [sys.executable, str(Path(ROOT, "examples", "read_database.py"))],
        env=dict(os.environ, LRBENCH_DSN=database),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    lines = done.stdout.splitlines()
    assert "net on data: FIX(k0=0.01), not evaluated" in lines, done.stderr
    assert "net on other: FIX(k0=0.01), Top-1 90.00 %" in lines


@pytest.mark.parametrize("page", blocks.pages(), ids=lambda page: page.name)
def test_every_command_is_run_or_says_why_not(page):
    for block in blocks.read(page):
        if block.language in COMMANDS and page.name != "python-api.md":
            assert block.kind in ("run", "not run", "file"), "line %d has no mark" % block.first
            assert block.kind != "not run" or block.options, "line %d has no reason" % block.first


def test_generated_pages_are_current():
    pytest.importorskip("click")
    pytest.importorskip("psycopg2")
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr


@needs_caffe
def test_notebook_runs():
    """Run the code cells of the notebook in one process, as Jupyter does."""
    pytest.importorskip("pandas")
    cells = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    with blocks.workplace() as folder:
        block = blocks.Block("run", "", "python", "\n".join(cells), 0, 0, "")
        assert "2 trials of this net are recorded" in blocks.run(block, folder)


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = without_code(page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), "%s: there is no %s" % (page.name, link)
        if anchor:
            assert anchor in anchors(target), "%s: there is no %s" % (page.name, link)


def without_code(text):
    """The text without fences and code spans."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"(?ms)^( *)```.*?^\1```$", "", text))


def anchors(page):
    """The anchors of a page's headings, as repository browsers and Sphinx make them."""
    text = re.sub(r"(?ms)^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"))
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def test_pages_are_listed_in_the_index_and_in_the_readme():
    for listing in (DOCS / "index.md", Path(ROOT, "README.md")):
        text = listing.read_text(encoding="utf-8")
        for page in DOCS.glob("*.md"):
            assert page.name == "index.md" or page.name + ")" in text, "%s lacks %s" % (
                listing.name,
                page.name,
            )


def test_readme_is_short():
    assert len(Path(ROOT, "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_schedules_to_copy_have_the_rates_that_the_page_shows():
    text = (DOCS / "policies.md").read_text(encoding="utf-8")
    section = text.split("### Ten schedules to copy")[1].split("\n### ")[0]
    rows = re.findall(r"^\| [^|]+ \| `([^`|]+)` \| (.*) \|$", section, re.M)
    assert len(rows) == 10
    for policy_text, rates in rows:
        policy = Policy.parse(policy_text, epoch=EPOCH)
        assert Policy.parse(str(policy)) == policy
        for time, epochs, rate in re.findall(r"([\d.]+)(e?): ([\d.]+)", rates):
            t = round(float(time) * (EPOCH if epochs else 1))
            assert policy(t) == pytest.approx(float(rate), rel=1e-2, abs=1e-4), (policy_text, t)


# --- the runner itself --------------------------------------------------------------------------

PAGE = """
<!-- file: greeting.txt -->
```text
hello
```

<!-- run -->
```sh
cat greeting.txt && %s
```

<!-- output: exact -->
```text
hello
```
"""


def test_a_failing_command_fails_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE % "false")
    with pytest.raises(blocks.ExampleError, match="exit status 1"):
        blocks.run_page(page)


def test_other_output_fails_the_page_until_it_is_refreshed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE % "echo you")
    with pytest.raises(blocks.ExampleError, match="the command prints"):
        blocks.run_page(page)
    blocks.run_page(page, refresh=True)
    assert page.read_text() == (PAGE % "echo you").replace(
        "text\nhello\n```\n", "text\nhello\nyou\n```\n"
    ).replace("txt -->\n```text\nhello\nyou", "txt -->\n```text\nhello")
    blocks.run_page(page)
