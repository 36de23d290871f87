"""Measures how fast a browser opens the report of 1,000 trials.

    docker/run python3 benchmarks/page.py                1,000 trials, 2 seeds each
    docker/run python3 benchmarks/page.py 5000           as many trials
    docker/run python3 benchmarks/page.py a.html ...     existing reports, in turn

The first forms import made-up trials into a database of a temporary LRBENCH_HOME and report them.
Each run starts a fresh Chromium, the one of the tests. A line shows the medians and the ranges of
the runs: the processor time of the page's main thread until everything is drawn, of which the
scripts, and styles and layout; then the times from the start of loading, which depend on how busy
the machine is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests"), os.path.join(ROOT, "benchmarks")]

import browser
from many_trials import SEEDS, write_export

if TYPE_CHECKING:
    from collections.abc import Sequence

TRIALS, RUNS = 1000, 7
LIMIT = 1.0  # seconds of the main thread
DRAWN = "return 'started' in document.documentElement.dataset"  # the last script has run
TIMES = """
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const [loading] = performance.getEntriesByType("navigation");
    return [paint.startTime, loading.domContentLoadedEventStart];"""
PARTS = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")


def measure(path: str) -> dict[str, float]:
    """Open a report in a fresh browser and return seconds by their names."""
    with browser.chromium() as driver:
        driver.set_script_timeout(600)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        before = _metrics(driver)
        driver.get("file://%s" % os.path.abspath(path))
        while not driver.execute_script(DRAWN):
            time.sleep(0.05)
        # Two frames later, what the scripts have made is on the screen.
        driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
        after = _metrics(driver)
        painted, drawn = driver.execute_script(TIMES)
    task, script, layout, styles = (after[name] - before[name] for name in PARTS)
    return {
        "main thread": task,
        "scripts": script,
        "layout": layout + styles,
        "first content": painted / 1000,
        "all drawn": drawn / 1000,
    }


def _metrics(driver: object) -> dict[str, float]:
    answer = driver.execute_cdp_cmd("Performance.getMetrics", {})  # type: ignore[attr-defined]
    return {metric["name"]: metric["value"] for metric in answer["metrics"]}


def compare(paths: Sequence[str]) -> None:
    """Measure reports in turn and print a line for each."""
    runs: dict[str, list[dict[str, float]]] = {path: [] for path in paths}
    for _ in range(RUNS):
        for path in paths:
            runs[path].append(measure(path))
    for path in paths:
        print("%s, %.2f MB" % (path, os.path.getsize(path) / 1e6))
        for name in runs[path][0]:
            seconds = [run[name] for run in runs[path]]
            middle, ends = statistics.median(seconds), (min(seconds), max(seconds))
            print("  %-14s %6.2f s  (%.2f to %.2f)" % (name, middle, *ends), flush=True)
        kept = statistics.median(run["main thread"] for run in runs[path]) <= LIMIT
        print("  limit of the main thread, %g s: %s" % (LIMIT, "kept" if kept else "NOT KEPT"))


def measure_made_up(trials: int) -> None:
    """Report made-up trials of a new database and measure the page."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, LRBENCH_HOME=os.path.join(folder, "home"), PYTHONPATH=ROOT)
        environment.pop("LRBENCH_DSN", None)
        export, report = os.path.join(folder, "trials.jsonl"), os.path.join(folder, "report.html")
        write_export(export, trials, SEEDS)
        lrbench = [sys.executable, "-m", "lrbench_caffe"]
        try:
            for command in (("db", "import", export), ("report", report)):
                subprocess.run([*lrbench, *command], env=environment, check=True)
            compare([report])
        finally:
            subprocess.run([*lrbench, "db", "stop"], env=environment, check=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments and not arguments[0].isdigit():
        compare(arguments)
    else:
        measure_made_up(int(arguments[0]) if arguments else TRIALS)
