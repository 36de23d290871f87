"""The report and the live page in a real headless Chromium, the live page's server, and plots."""

import dataclasses
import hashlib
import http.client
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse

import browser
import pytest
from conftest import ROOT
from test_choosing import trial as trial_of_sets
from trials import NETWORK, record, trial
from waiting import LIMIT, wait_until

from lrbench_caffe import ranking
from lrbench_caffe.errors import InputError
from lrbench_caffe.policies import Policy
from lrbench_caffe.ranking import ranges
from lrbench_caffe.trial import Job

psycopg2 = pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
from lrbench_caffe.database import Store, studies  # noqa: E402
from lrbench_caffe.report import content, curves, live, page, plots  # noqa: E402

BEST, SECOND = "SIN2(k0=0.01, k1=0.06, l=100)", "FIX(k0=0.02)"
WORST = "FIX(k0=0.001)"
EVIL = "<img src=x onerror=\"document.title='stolen'\"> '\"&</script>"


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser.chromium() as driver:
            yield driver
    except browser.NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture
def address(database):
    """The host and port of a live page on the database."""
    source = live.ContentSource({}, ranking.parse_criterion("top1"), database)
    server = live.open_server(source, "127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    yield "127.0.0.1:%d" % server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def example_trials():
    """Three policies of different Top-1, of which the better is the slower, and one that failed."""
    return (
        [trial(BEST, [0.1, 0.5, 0.99], seed) for seed in (1, 2)]
        + [trial(SECOND, [0.1, 0.95, 0.9], seed) for seed in (1, 2)]
        + [
            trial("FIX(k0=0.001)", [0.1, 0.3, 0.5]),
            trial("FIX(k0=0.5)", [0.1], state="failed", error="Check failed: " + EVIL),
        ]
    )


def column(driver, number):
    """The texts in a column of the ranking, counted from 1, without their second lines."""
    return [
        cell.text.split("\n")[0]
        for cell in driver.find_elements("css selector", "#body td:nth-child(%d)" % number)
    ]


def click(driver, selector):
    element = driver.find_element("css selector", selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def traces(driver, chart, expression):
    """The values of a JavaScript expression of each trace of a chart."""
    return driver.execute_script("return Charts.shown('%s').traces.map(%s)" % (chart, expression))


def drawn(driver, chart):
    """The names of the lines in a chart."""
    return [name for name in traces(driver, chart, "t => t.name") if name]


def prototxt_lines(driver):
    return [element.text for element in driver.find_elements("css selector", "#prototxt-lines pre")]


def browser_errors(driver):
    """The errors in the browser's console since it was last read."""
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ]


def open_page(driver, url):
    """Open a page and wait until its scripts have drawn it."""
    driver.get("about:blank")  # a page with another fragment would not be loaded again
    driver.get_log("browser")  # that of the live page of another test, whose server has ended
    driver.get(url)
    script = "return 'started' in document.documentElement.dataset"
    wait_until(lambda: driver.execute_script(script))


@pytest.fixture
def report(store, tmp_path, chromium):
    """A function that opens the report of some trials in the browser."""

    def open_report(trials):
        record(store, *trials)
        path = tmp_path / "out.html"
        page.write(str(path), content.load(store, {}, ranking.parse_criterion("top1")))
        open_page(chromium, "file://%s" % path)
        return chromium

    return open_report


def test_report_shows_the_ranking_and_draws_the_best_policies(report):
    driver = report(example_trials())
    assert browser_errors(driver) == []
    assert column(driver, 2) == [
        BEST + " Pareto",
        SECOND + " Pareto",
        "FIX(k0=0.001)",
        "FIX(k0=0.5) (1 failed)",
    ]
    assert column(driver, 1) == ["1", "2", "3", "-"] and column(driver, 3)[0] == "99.00 ± 0.00"
    assert column(driver, 4) == ["equal values", "equal values", "one seed", "-"]
    assert BEST in drawn(driver, "top1")
    assert BEST in drawn(driver, "rate") and BEST in drawn(driver, "classes")
    cost = driver.find_element("id", "cost").get_attribute("aria-label")
    assert "Pareto front: FIX(k0=0.02)" in cost
    assert 'lr_policy: "%s"' % BEST in prototxt_lines(driver)
    assert driver.find_element("id", "problem").is_displayed()
    assert "Check failed" in driver.find_element("id", "problems").text
    assert browser_errors(driver) == []


def answer(driver):
    """The sentences at the top of the page."""
    return driver.find_element("id", "best").text.split("\n")


def test_the_page_begins_with_the_best_policy_and_its_lead(report):
    driver = report(
        [trial(BEST, [0.1, 0.5, top1], seed) for seed, top1 in enumerate((0.90, 0.91, 0.92))]
        + [trial(SECOND, [0.1, top1], seed) for seed, top1 in enumerate((0.60, 0.61, 0.62))]
    )
    name, text, lines, _ = answer(driver)
    assert name == "Best policy: " + BEST and lines == 'lr_policy: "%s"' % BEST
    assert text == (
        "Top-1 91.0 \u00b1 1.0 % after 200 \u00b1 0 iterations, 3 seeds. It is better than the "
        "next policy, FIX(k0=0.02), by 30.00 points in Top-1: more than the noise of the seeds."
    )


def test_headings_sort_by_click_and_by_keyboard(report):
    from selenium.webdriver.common.keys import Keys

    driver = report(example_trials())
    heading = driver.find_element("css selector", "th[data-key=iterations]")
    click(driver, "th[data-key=iterations] button")
    iterations = [float(text.split()[0]) for text in column(driver, 6)]
    assert iterations == sorted(iterations)
    heading.find_element("css selector", "button").send_keys(Keys.ENTER)
    iterations = [float(text.split()[0]) for text in column(driver, 6)]
    assert iterations == sorted(iterations, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"


def test_policies_can_be_selected_and_searched(report):
    driver = report(example_trials())
    click(driver, "#choose-none")
    assert drawn(driver, "top1") == []
    click(driver, "#body tr:nth-child(2) input")
    assert drawn(driver, "top1") == [SECOND]
    click(driver, "#seeds")
    assert drawn(driver, "top1") == [SECOND + ", seed 1", SECOND + ", seed 2"]
    driver.find_element("id", "search").send_keys("sin2 0.06")
    assert column(driver, 2) == [BEST + " Pareto"]


def test_the_four_curves_zoom_together(report):
    driver = report(example_trials())
    driver.find_element("id", "to").send_keys("100\t")
    script = "return Charts.shown(arguments[0]).x.range"
    for chart in ("rate", "top1", "train_loss", "test_loss"):
        wait_until(lambda: driver.execute_script(script, chart) == [0, 100])


def drag(driver, chart, start, end):
    """Drag from one share of a chart's width and height to another."""
    from selenium.webdriver.common.action_chains import ActionChains

    element = driver.find_element("id", chart)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    width, height = element.size["width"], element.size["height"]
    (x, y), (to_x, to_y) = (
        (round((a - 0.5) * width), round((b - 0.5) * height)) for a, b in (start, end)
    )
    actions = ActionChains(driver).move_to_element_with_offset(element, x, y).click_and_hold()
    actions.move_by_offset(to_x - x, to_y - y).release().perform()


def axis_ticks(driver, chart):
    """The positions of the iterations below a chart, as [text, pixels from its left side]."""
    return driver.execute_script(
        "return [...document.querySelectorAll('#%s text[text-anchor=middle]')]"
        ".map(t => [t.textContent, t.getAttribute('x')])" % chart
    )


def test_charts_over_iterations_have_the_same_axis_also_when_zoomed(report):
    from selenium.webdriver.common.action_chains import ActionChains

    driver = report(example_trials())
    charts = ("rate", "top1", "train_loss", "test_loss")
    before = axis_ticks(driver, "top1")
    assert all(axis_ticks(driver, chart) == before for chart in charts)
    drag(driver, "top1", (0.5, 0.3), (0.7, 0.6))
    (low, high), *others = (
        driver.execute_script("return Charts.shown('%s').x.range" % chart) for chart in charts
    )
    assert 0 < low < high < 200 and others == [[low, high]] * 3
    after = axis_ticks(driver, "top1")
    assert after != before and all(axis_ticks(driver, chart) == after for chart in charts)
    ActionChains(driver).double_click(driver.find_element("id", "rate")).perform()
    assert axis_ticks(driver, "test_loss") == before


def test_a_logarithmic_axis_zooms_from_zero(report):
    driver = report(example_trials())
    click(driver, "#log-iteration")
    driver.find_element("id", "to").send_keys("100\t")
    wait_until(lambda: driver.execute_script("return Charts.shown('top1').x.range") == [1, 100])
    assert [text for text, _ in axis_ticks(driver, "top1")] == ["1", "10", "100", "iteration"]
    assert "NaN" not in driver.execute_script("return document.getElementById('top1').innerHTML")


def test_other_charts_zoom_to_a_rectangle(report):
    driver = report(example_trials())
    drag(driver, "cost", (0.3, 0.3), (0.6, 0.6))
    x, y = driver.execute_script("const {x, y} = Charts.shown('cost'); return [x.range, y.range]")
    assert 0 < x[0] < x[1] < 200 and 80 < y[0] < y[1] < 99
    assert driver.execute_script("return Charts.shown('top1').x.range[1]") == 200


def test_the_point_under_the_pointer_is_named_and_the_other_policies_fade(report):
    from selenium.webdriver.common.action_chains import ActionChains

    driver = report(example_trials())
    marks = driver.find_element("css selector", "#cost .trace[data-label^=SIN2] .marks")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", marks)
    ActionChains(driver).move_to_element(marks).perform()
    tip = driver.find_element("css selector", "#cost .tip")
    assert tip.text == "99.00 \u00b1 0.00 % after 200 \u00b1 0 iterations\n" + BEST
    assert faded(driver, "#body tr") and BEST + " Pareto" not in faded(driver, "#body tr")
    ActionChains(driver).move_to_element(driver.find_element("id", "title")).perform()
    assert not tip.is_displayed() and faded(driver, "#body tr") == []


def test_a_long_table_begins_with_the_best_policies(report):
    trials = [trial("FIX(k0=%g)" % (0.01 + n / 1000), [0.1, 0.9 - n / 1000]) for n in range(60)]
    driver = report(trials)
    assert [text.split(" ")[0] for text in column(driver, 2)] == [t.policy for t in trials[:50]]
    click(driver, "#show-all")
    assert len(column(driver, 2)) == 60
    assert not driver.find_element("id", "show-all").is_displayed()


def line_through(driver, points):
    """The path that the page draws through points, as [[x, y] or None, ...]."""
    chart = "{traces: [{kind: 'line', x: p.map(q => q[0]), y: p.map(q => q[1])}], x: {}, y: {}}"
    return driver.execute_script(
        "const p = arguments[0]; const {svg, area} = Drawing.draw(%s, 400, 300, 0);"
        "return [svg.querySelector('.line').getAttribute('d'), area.left, area.right]" % chart,
        points,
    )


def test_a_line_of_many_points_keeps_its_peaks_and_its_gaps(report):
    driver = report(example_trials())
    points = [[n, 0.0] for n in range(10000)]
    points[5001][1], points[7003][1], points[9000][1] = 5.0, -5.0, None
    path, left, right = line_through(driver, points)
    heights = [float(y) for y in re.findall(r"[ML]\S+ (\S+?)(?=[ML]|$)", path)]
    assert len(heights) < 4 * (right - left) + 10 and path.count("M") == 2
    assert sorted(set(heights))[0] < sorted(set(heights))[1] < sorted(set(heights))[2]


def test_axes_have_round_numbers(report):
    driver = report([])
    script = """
        const [low, high, isLog, count] = arguments;
        const scale = Axes.scale([low, high], [0, 100], isLog);
        return Axes.ticks(scale, count).map(({text}) => text).join(" ");"""
    for axis, expected in (
        ((0, 200, False, 5), "0 50 100 150 200"),
        ((0, 70000, False, 4), "0 20,000 40,000 60,000"),
        ((-0.01, 0.05, False, 4), "0.00 0.02 0.04"),
        ((97.2, 98.9, False, 4), "97.5 98.0 98.5"),
        ((0.002, 1.2, True, 3), "0.01 0.1 1"),
        ((0.02, 0.3, True, 4), "0.02 0.05 0.1 0.2"),
        ((1e-9, 1, True, 4), "10\u207b\u2079 10\u207b\u2076 0.001 1"),
        ((0.5, 0.6, True, 2), "0.50 0.55 0.60"),
    ):
        assert driver.execute_script(script, *axis) == expected


def test_the_mean_over_the_seeds_is_drawn_in_a_band_of_one_deviation(report):
    driver = report([trial(BEST, [0.1, top1], seed) for seed, top1 in enumerate((0.6, 0.7, 0.8))])
    band, line = traces(driver, "top1", "({kind, x, y}) => [kind, x, y]")
    (kind, around, edge), (_, iterations, means) = band, line
    assert (kind, iterations) == ("band", [0, 100]) and means == pytest.approx([10, 70])
    assert around == [0, 100, 100, 0] and edge == pytest.approx([10, 80, 60, 10])


def test_a_single_evaluation_is_visible(report):
    driver = report([trial(BEST, [0.6])])
    (marks,) = driver.find_elements("css selector", "#top1 .marks")
    assert marks.size["width"] >= 8


def faded(driver, selector):
    """The texts of the elements that are faded."""
    elements = driver.find_elements("css selector", selector + ".faded")
    return [element.text.split("\n")[0] for element in elements]


def test_one_policy_is_shown_in_all_charts_and_the_table(report):
    driver = report(example_trials())
    click(driver, "#legend button")
    others = driver.find_elements("css selector", "#legend button")[1:]
    assert faded(driver, "#legend button") == [button.text for button in others]
    assert len(faded(driver, "#body tr")) == len(column(driver, 2)) - 1
    script = """
        const traces = [...document.querySelectorAll('#top1 .trace')];
        return traces.map(trace => [trace.dataset.label, getComputedStyle(trace).opacity]);"""
    opacities = driver.execute_script(script)
    assert {opacity for label, opacity in opacities if label == BEST} == {"1"}
    assert {opacity for label, opacity in opacities if label != BEST} == {"0.12"}
    click(driver, "#legend button")
    driver.execute_script("document.getElementById('title').scrollIntoView()")
    assert faded(driver, "#legend button") == []


def test_thirteen_policies_have_different_lines(report):
    policies = ["FIX(k0=0.0%d)" % n for n in range(10, 23)]
    driver = report([trial(policy) for policy in policies])
    for checkbox in driver.find_elements("css selector", "#body input:not(:checked)"):
        driver.execute_script("arguments[0].click()", checkbox)
    looks = traces(driver, "top1", "({color, dash, symbol}) => [color, dash, symbol].join()")
    assert len(set(looks)) == len(policies)
    assert len(driver.find_elements("css selector", "#legend button")) == len(policies)


def compared(driver):
    """The cells of the comparison by the name of the metric."""
    rows = driver.find_elements("css selector", "#differences tr")
    cells = [[cell.text for cell in row.find_elements("css selector", "td")] for row in rows]
    return {name: values for name, *values in cells}


def test_selected_policies_are_compared_and_noise_is_called_noise(report):
    near = "SIN(k0=0.01, k1=0.06, l=100)"
    driver = report(
        [trial(BEST, [0.1, top1], seed) for seed, top1 in enumerate((0.90, 0.91, 0.92))]
        + [trial(near, [0.1, top1], seed) for seed, top1 in enumerate((0.89, 0.91, 0.90))]
        + [trial(SECOND, [0.1, top1], seed) for seed, top1 in enumerate((0.60, 0.61, 0.62))]
        + [trial("FIX(k0=0.001)", [0.1, 0.5])]
    )
    first, *others = compared(driver)["Top-1 %"]
    assert first == "91.0 \u00b1 1.0"
    assert others == [
        "90.0 \u00b1 1.0 (\u22121.00, within the noise)",
        "61.0 \u00b1 1.0 (\u221230.00, worse)",
        "50.00 (\u221241.00, one seed)",
    ]
    click(driver, "#choose-none")
    assert not driver.find_element("id", "comparison").is_displayed()


def test_the_set_that_decides_says_what_is_noise_in_the_comparison(report):
    """On the test set the difference looks large, or small; the validation set has the word."""
    driver = report(
        [
            trial_of_sets(policy, [0.1, decides + seed / 100], [0.1, reported + seed / 100], seed)
            for policy, decides, reported in (
                (BEST, 0.95, 0.9),
                (SECOND, 0.949, 0.6),
                (WORST, 0.5, 0.9),
            )
            for seed in (0, 1, 2)
        ]
    )
    assert compared(driver)["Top-1 %"] == [
        "91.0 \u00b1 1.0",
        "61.0 \u00b1 1.0 (\u221230.00, within the noise)",
        "91.0 \u00b1 1.0 (+0.00, worse)",
    ]
    text = driver.find_element("id", "comparison-text").text
    assert "which policy is better is decided on the validation set" in text


def test_the_address_keeps_what_the_reader_sees(report):
    driver = report(example_trials())
    click(driver, "#choose-none")
    click(driver, "#body tr:nth-child(2) input")
    click(driver, "th[data-key=iterations] button")
    click(driver, "#log-rate")
    driver.find_element("id", "to").send_keys("100\t")
    wait_until(lambda: "zoom=0-100" in driver.current_url)
    before = (column(driver, 2), drawn(driver, "top1"))
    open_page(driver, driver.current_url)
    assert (column(driver, 2), drawn(driver, "top1")) == before == (before[0], [SECOND])
    assert driver.find_element("id", "log-rate").is_selected()
    assert driver.find_element("id", "to").get_attribute("value") == "100"


def test_charts_are_saved_as_pictures_and_numbers(report):
    driver = report(example_trials())
    driver.execute_script("""
        window.saved = [];
        HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href]); };
        """)
    for button in driver.find_elements("css selector", "figure:has(#top1) .tools button"):
        driver.execute_script("arguments[0].click()", button)
    wait_until(lambda: driver.execute_script("return saved.length") == 3)
    saved = dict(driver.execute_script("return saved"))
    names = ("top-1-accuracy.png", "top-1-accuracy.svg", "top-1-accuracy.csv")
    assert sorted(saved) == sorted(names)
    assert saved[names[0]].startswith("data:image/png;base64,")
    assert saved[names[1]].startswith("data:image/svg+xml")
    lines = urllib.parse.unquote(saved[names[2]].partition(",")[2]).splitlines()
    assert lines[0] == "line,x,y" and '"%s",200,99' % BEST in lines


def test_the_facts_name_what_was_trained(report):
    driver = report(example_trials())
    names = [element.text for element in driver.find_elements("css selector", "#facts dt")]
    values = [element.text for element in driver.find_elements("css selector", "#facts dd")]
    facts = dict(zip(names, values))
    assert facts["shape of a sample"] == "1x8x8" and facts["train samples"] == "1000"
    assert facts["framework"] == "Caffe 1.0.0" and facts["trained"].startswith("2023-11-1")


def test_a_page_without_trials_is_small(store):
    empty = content.load(store, {}, ranking.parse_criterion("top1"))
    assert len(page.render(empty)) <= 2e5


def test_html_in_names_is_shown_as_text(report):
    driver = report(
        [trial(BEST, dataset=EVIL), trial(SECOND, dataset=EVIL, state="failed", error=EVIL)]
    )
    assert EVIL in driver.find_element("id", "h-ranking").text and driver.title != "stolen"
    assert driver.find_elements("css selector", "img[src=x]") == []
    assert browser_errors(driver) == []


def test_empty_database_shows_a_sentence_instead_of_the_ranking(report):
    driver = report([])
    assert driver.find_element("id", "empty").is_displayed()
    assert not driver.find_element("id", "ranking").is_displayed()
    assert browser_errors(driver) == []


def test_three_constant_rates_make_a_range_test(report):
    top1_of = {0.001: 0.5, 0.01: 0.9, 0.1: 0.95}
    driver = report(
        [trial("FIX(k0=%g)" % k0, [0.1, top1]) for k0, top1 in top1_of.items()]
        + [trial("FIX(k0=1)", [0.1], state="diverged")]
    )
    assert drawn(driver, "range") == ["100 iterations"]
    (top1,) = traces(driver, "range", "trace => trace.y")
    assert top1 == pytest.approx([50, 90, 95, 10])


def with_rates(original, rates):
    """The trial with these learning rates in its rows."""
    rows = [dataclasses.replace(row, lr=lr) for row, lr in zip(original.rows, rates)]
    return dataclasses.replace(original, rows=tuple(rows))


def test_plateau_has_a_rate_curve_for_each_seed(report):
    plateau = "WARMUP(k0=0.01) for 100 then PLATEAU(k0=0.1, gamma=0.5, l=100)"
    top1 = [0.1, 0.5, 0.9, 0.9]
    driver = report(
        [
            with_rates(trial(plateau, top1), (0.01, 0.1, 0.1, 0.05)),
            with_rates(trial(plateau, top1, 2), (0.01, 0.1, 0.05, 0.025)),
            trial("SGDR(k0=0.1, k1=0, l=50)"),
            trial("FIX(k0=0.1) for 50 then FIX(k0=0.01)"),
        ]
    )
    assert sorted(drawn(driver, "rate")) == [
        "FIX(k0=0.1) for 50 then FIX(k0=0.01)",
        "SGDR(k0=0.1, k1=0.0, l=50)",
        plateau + ", seed 1",
        plateau + ", seed 2",
    ]
    curves_of = {name: (x, y) for name, x, y in traces(driver, "rate", "t => [t.name, t.x, t.y]")}
    rate_at = dict(zip(*curves_of[plateau + ", seed 2"]))
    iterations = (0, 50, 99, 100, 199, 200, 299, 300)
    assert [rate_at[iteration] for iteration in iterations] == pytest.approx(
        [0.01, 0.055, 0.0991, 0.1, 0.1, 0.05, 0.05, 0.025]
    )
    assert 'lr_policy: "%s"' % plateau in prototxt_lines(driver)
    assert browser_errors(driver) == []


def test_chart_without_data_is_replaced_by_a_sentence(report):
    driver = report(
        [trial(BEST, state="running", classes=None), trial(SECOND, (), state="failed", error="no")]
    )
    top1, cost, classes = (
        driver.find_element("css selector", "figure:has(#%s) .no-data" % chart)
        for chart in ("top1", "cost", "classes")
    )
    assert not top1.is_displayed() and cost.is_displayed() and classes.is_displayed()
    assert "No confidence" in classes.text
    assert not driver.find_element("id", "classes").is_displayed()
    click(driver, "#choose-none")
    assert top1.is_displayed() and not driver.find_element("id", "top1").is_displayed()
    click(driver, "#choose-best")
    assert driver.find_element("id", "top1").is_displayed()
    assert driver.find_element("css selector", "#top1 svg").size["width"] > 300
    assert browser_errors(driver) == []


def test_states_are_counted_and_errors_are_listed(report):
    driver = report(
        example_trials()
        + [
            trial("EXP(k0=0.1, gamma=0.99)", [0.1, 0.2], state="running"),
            trial("COS(k0=0.01, k1=0.1, l=50)", [0.1], state="pruned", error="hopeless"),
        ]
    )
    states = {element.text for element in driver.find_elements("css selector", "#states li")}
    assert states == {"5 finished", "1 failed", "1 pruned", "1 running"}
    problems = [row.text for row in driver.find_elements("css selector", "#problems tr")]
    assert [text.split()[-1] for text in problems if "pruned" in text] == ["hopeless"]


def test_controls_have_accessible_names_and_visible_focus(report):
    from selenium.webdriver.common.keys import Keys

    driver = report(example_trials())
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]
    controls = ("button", "checkbox", "searchbox", "spinbutton", "DisclosureTriangle")
    for role in (*controls, "columnheader"):
        names = [name for kind, name in named if kind == role]
        assert names and all(name.strip() for name in names), role
    assert sum(role == "image" and "of " + BEST in name for role, name in named) >= 3, (
        "the charts are described"
    )
    driver.find_element("css selector", "figure:has(#top1) summary").send_keys(Keys.ENTER)
    wait_until(lambda: BEST in driver.find_element("css selector", "figure:has(#top1) table").text)
    script = """
        const controls = [...document.querySelectorAll('button, input, summary')];
        const isOutlined = control => {
            control.focus({focusVisible: true});
            return getComputedStyle(control).outlineWidth === '3px';
        };
        return controls.filter(control => control.checkVisibility())
            .filter(control => !isOutlined(control)).map(control => control.outerHTML);"""
    without_outline = driver.execute_script(script)
    assert without_outline == [], "the control with the keyboard focus is outlined"


def test_strange_imported_rows_are_drawn(report):
    """Iterations up to Caffe's last one; rates that the policy cannot have; no rates at all."""
    unfitting = [
        with_rates(trial("SIN(k0=0.01, k1=0.1, l=50)", [0.1], seed), [lr])
        for seed, lr in enumerate((None, 0.1))
    ]
    far = []
    for policy in (
        "TRI(k0=0.01, k1=0.1, l=50)",
        "POLY(k0=0.1, p=1, l=20)",
        "PLATEAU(k0=0.1, gamma=0.1, l=5)",
    ):
        for seed, lr in enumerate((None, -1.0, 0.0)):
            original = with_rates(trial(policy, [0.1] * 3, seed), (0.01, lr, 0.01))
            rows = [
                dataclasses.replace(row, iteration=iteration)
                for row, iteration in zip(original.rows, (0, 10, 2**31 - 1))
            ]
            far.append(dataclasses.replace(original, rows=tuple(rows)))
    driver = report(far + unfitting)
    assert len(drawn(driver, "rate")) >= 5 and browser_errors(driver) == []


def test_page_fits_a_phone(report):
    driver = report(example_trials())
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        open_page(driver, driver.current_url)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
        top1 = driver.find_element("css selector", "#body td:nth-child(3)")
        assert top1.location["x"] + top1.size["width"] <= 360, "in sight without scrolling"
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_live_page_grows_and_keeps_selection_and_sorting(store, address, chromium):
    record(store, *example_trials())
    running = trial("TRI(k0=0.01, k1=0.06, l=100)", [0.1], state="running")
    record(store, running)
    open_page(chromium, "http://%s/" % address)
    click(chromium, "#choose-none")
    click(chromium, "th[data-key=policy] button")
    checkboxes = chromium.find_elements("css selector", "#body input")
    (checkbox,) = (
        checkbox
        for text, checkbox in zip(column(chromium, 2), checkboxes)
        if text.startswith(running.policy + " (1 running: ")
    )
    checkbox.click()
    before = [text.partition(" (")[0] for text in column(chromium, 2)]
    for row in trial(top1=[0.1, 0.6, 0.7]).rows[1:]:
        store.add(running.id, row)
    wait_until(lambda: traces(chromium, "top1", "trace => trace.y.length") == [3])
    after = [text.partition(" (")[0] for text in column(chromium, 2)]
    assert after == before, "still sorted by policy"
    assert drawn(chromium, "top1") == [running.policy]
    store.end(running.id, "finished", 1700000500.0)
    wait_until(lambda: running.policy in column(chromium, 2))
    record(store, trial("EXP(k0=0.05, gamma=0.995)"))
    wait_until(lambda: "EXP(k0=0.05, gamma=0.995)" in column(chromium, 2))
    assert drawn(chromium, "top1") == [running.policy]
    assert browser_errors(chromium) == []


def test_live_page_shows_how_far_trainings_are(store, address, chromium):
    made = trial("TRI(k0=0.01, k1=0.06, l=100)", [0.1, 0.5], state="running")
    started = dataclasses.replace(made, started=time.time() - 60)
    record(store, *example_trials(), started)
    open_page(chromium, "http://%s/" % address)
    (running,) = [text for text in column(chromium, 2) if text.startswith("TRI")]
    assert re.search(r"\(1 running: [\d]+ %, about [\d:]+( s)? left\)", running), running
    assert made.policy in drawn(chromium, "top1"), "it is drawn from its first rows on"


def texts(driver, selector):
    """The texts of elements at one moment; the live page replaces them while a test reads."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
    return driver.execute_script(script, selector)


def test_live_page_lists_tasks_and_studies(store, address, chromium):
    record(store, *example_trials(), trial(BEST, dataset="other"))
    studies.add(store, "a study", [Job("x.prototxt")])
    open_page(chromium, "http://%s/" % address)
    tasks = texts(chromium, "#tasks tr")
    assert len(tasks) == 2 and BEST + " 99.00" in " ".join(tasks[0].split())
    assert texts(chromium, "#studies tr")[0].startswith("a study")
    click(chromium, "#tasks tr:nth-child(2) a")
    wait_until(lambda: any("other" in title for title in texts(chromium, "#h-ranking")))
    assert browser_errors(chromium) == []


def test_live_page_begins_with_the_task_that_was_trained_last(store, address, chromium):
    now = dataclasses.replace(trial(BEST, dataset="newest"), started=time.time())
    record(store, *example_trials(), now)
    open_page(chromium, "http://%s/" % address)
    assert "newest" in texts(chromium, "#h-ranking")[0]
    assert answer(chromium)[0] == "Best policy: " + BEST


def test_live_page_says_that_its_server_is_gone(database, store, chromium):
    record(store, *example_trials())
    command = [sys.executable, "-m", "lrbench_caffe", "serve", "--port", "0", "--dsn", database]
    environment = dict(os.environ, PYTHONPATH=ROOT)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as server:
        open_page(chromium, server.stdout.readline().decode().split()[0])
        wait_until(lambda: chromium.find_element("id", "status").text.startswith("Live"))
        banner = chromium.find_element("id", "banner")
        assert not banner.is_displayed()
        server.kill()
    wait_until(banner.is_displayed)
    assert "the server does not answer" in banner.text and "Not up to date since" in banner.text


def test_live_page_of_an_empty_database_shows_the_first_trials(store, address, chromium):
    open_page(chromium, "http://%s/" % address)
    assert chromium.find_element("id", "empty").is_displayed()
    record(store, *example_trials())
    wait_until(lambda: column(chromium, 2)[:1] == [BEST + " Pareto"])
    assert BEST in drawn(chromium, "rate")


def ask(address, path="/content.json", method="GET", **headers):
    """The server's answer and its body."""
    connection = http.client.HTTPConnection(address, timeout=LIMIT)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def test_server_survives_a_lost_database_and_a_lost_browser(database, address, capfd):
    server_dsn, _, name = database.rpartition(" dbname=")
    admin = psycopg2.connect(server_dsn)
    admin.autocommit = True

    def allow_connections(allowed):
        admin.cursor().execute("ALTER DATABASE %s ALLOW_CONNECTIONS %s" % (name, allowed))

    assert ask(address)[0].status == 200
    allow_connections("false")
    admin.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
    )
    wait_until(lambda: ask(address)[0].status == 503)  # what it has read is shown for a moment
    answer, body = ask(address)
    assert answer.status == 503 and b"not currently accepting connections" in body
    allow_connections("true")
    assert ask(address)[0].status == 200
    host, port = address.split(":")
    threads = threading.active_count()
    with socket.create_connection((host, int(port))) as browser_socket:
        browser_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        browser_socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        browser_socket.recv(100)
    wait_until(lambda: threading.active_count() <= threads)
    assert ask(address)[0].status == 200 and capfd.readouterr().err == ""
    admin.close()


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        ("192.168.1.5:8642", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("", 403),
    ],
)
def test_only_addresses_and_own_names_are_served(host, status, address):
    """DNS rebinding: a foreign name that was pointed at this server reads nothing."""
    assert ask(address, Host=host)[0].status == status


def test_server_is_read_only_and_serves_two_paths(store, address):
    assert ask(address, "/../../etc/passwd")[0].status == 404
    assert ask(address, method="POST")[0].status == 501
    answer, body = ask(address)
    assert json.loads(body.decode())["tasks"] == []
    assert ask(address, **{"If-None-Match": answer.headers["ETag"]})[0].status == 304
    with pytest.raises(Exception, match="read-only"):
        reader = Store(store._dsn, read_only=True)
        reader.begin(trial())


@pytest.mark.parametrize("last", [70000, 2**31 - 1])
def test_sampled_curve_keeps_the_peaks(last):
    policy = Policy.parse("SIN2(k0=0.005, k1=0.08, l=70)")
    t, lr = curves.sample_schedule(policy, last, 600)
    assert 100 < len(t) <= 602 and t[0] == 0 and t[-1] == last
    assert lr == pytest.approx(policy(t))
    assert last > 70000 or lr.max() == pytest.approx(0.08)
    _, lr = curves.sample_schedule(Policy.parse("TRI(k0=0.1, k1=1, l=537)"), last, 600)
    assert lr[10:20].min() < 0.15 and lr[10:20].max() > 0.95, (
        "samples meet the cycles at varying phases"
    )


def test_schedule_of_caffe_becomes_solver_fields():
    lines = page.prototxt_lines("multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, 7])")
    assert lines.splitlines() == [
        'lr_policy: "multistep"',
        "base_lr: 0.1",
        "gamma: 1.5",
        "stepvalue: 5",
        "stepvalue: 7",
    ]


def test_two_networks_of_the_same_name_are_two_tasks(store):
    other_hash = hashlib.sha256(b"other").hexdigest()
    other = dataclasses.replace(NETWORK, prototxt="other", hash=other_hash)
    record(store, trial(), trial(network=other))
    assert len(content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]) == 2


def test_trainings_of_another_length_are_another_task_that_keeps_its_id(store):
    def tasks():
        return content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]

    short = {"max_iter": 50, "type": "SGD"}
    record(
        store,
        *(trial(BEST, [0.1, top1], seed, solver=short) for seed, top1 in ((1, 0.8), (2, 0.9))),
    )
    (before,) = tasks()
    record(store, trial(SECOND))
    long, after = tasks()
    assert [long["title"], after["title"]] == [
        "net on data, 100 iterations",
        "net on data, 50 iterations",
    ]
    assert before["id"] == after["id"] != long["id"]
    (entry,), (single,) = after["policies"], long["policies"]
    assert entry["interval"] == pytest.approx(
        [0.85 - 12.706 * 0.05, 0.85 + 12.706 * 0.05], rel=1e-4
    )
    assert (single["interval"], single["rank"], single["tied"]) == (None, 1, False)
    mean, deviation, seeds, text = entry["metrics"]["final_top1"]
    assert (mean, deviation) == (pytest.approx(0.85), pytest.approx(0.0707, 1e-2))
    assert (seeds, text) == (2, "85.0 \u00b1 7.1")


@pytest.mark.parametrize(
    "ending, start", [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_ending_of_the_name_chooses_the_format_of_a_picture(ending, start, tmp_path, invoke):
    path = tmp_path / ("curve." + ending)
    done = invoke("plot", BEST, "POLY(k0=0.05, p=1.2, l=50)", "--out", path)
    assert done.returncode == 0 and path.read_bytes().startswith(start)
    plots.curves(example_trials()[:4], str(path), "title")
    assert path.read_bytes().startswith(start)


def range_test_of(trials):
    """A range test with these trials, for its picture."""
    from lrbench_caffe.evaluator.range_test import RangeTest

    lines = tuple(ranges.top1_curves(trials))
    return RangeTest("name", "title", tuple(trials), lines, None, 100, 22.0)


def figures(monkeypatch, tmp_path):
    """The figures of all kinds of pictures, as they are written."""
    written = []
    save = plots.save
    monkeypatch.setattr(
        plots, "save", lambda figure, path: [written.append(figure), save(figure, path)]
    )
    path = str(tmp_path / "picture.svg")
    policies = ["FIX(k0=0.%d)" % n for n in range(1, 8)]
    trials = [trial(policy, [0.1, 0.5 + n / 20]) for n, policy in enumerate(policies)]
    plots.curves(trials, path, "title")
    plots.rates([Policy.parse(policy) for policy in policies], out=path)
    plots.range_test(range_test_of(trials), path)
    return written


def test_pictures_are_legible_and_their_lines_differ_without_colour(monkeypatch, tmp_path):
    """A page shows nine inches as they are; texts have 8 points or more, and axes have labels."""
    from matplotlib.text import Text

    written = figures(monkeypatch, tmp_path)
    assert len(written) == 3
    for figure in written:
        assert figure.get_figwidth() == 9
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
        assert len(sizes) > 10 and min(sizes) >= 8
        for panel in figure.axes:
            assert panel.get_ylabel()
            looks = [
                (str(line._dashSeq), str(line.get_marker()), line.get_color())
                for line in panel.lines
                if len(line.get_xdata()) > 1 and not set(line.get_label()) & set("_")
            ]
            dashes_and_marks = {look[:2] for look in looks}
            assert len(dashes_and_marks) >= min(len(looks), 5), looks
        assert figure.axes[-1].get_xlabel()


def test_the_demonstration_leaves_a_report_of_its_trials(store, database, tmp_path):
    from lrbench_caffe import demo

    recorded = record(store, *example_trials())
    demo._write_report(recorded, str(tmp_path / "demo.html"), database)
    assert BEST in (tmp_path / "demo.html").read_text()


@pytest.mark.parametrize("file", ["out.html", "curve.png"])
def test_a_file_that_does_not_fit_on_the_disk_leaves_nothing(file, small_disk, store):
    path = small_disk / file
    path.write_text("old")
    (small_disk / "filler").write_bytes(bytes(290000))
    with pytest.raises(InputError, match=r"%s \(No space left on device\): name another" % path):
        if file == "curve.png":
            plots.rates([Policy.parse(BEST)], out=str(path))
        else:
            record(store, trial())
            page.write(str(path), content.load(store, {}, ranking.parse_criterion("top1")))
    assert path.read_text() == "old"
    assert sorted(os.listdir(str(small_disk))) == sorted([file, "filler"])


@pytest.mark.parametrize(
    "policy, end",
    [
        ("WARMUP(k0=0.01) for 400 then FIX(k0=0.1)", 800),
        ("SGDR(k0=0.05, k1=0, l=100, mult=2)", 700),
        ("PLATEAU(k0=0.1, gamma=0.1, l=500)", 500),
        ("WARMUP(k0=0.01) for 22 then PLATEAU(k0=0.1, gamma=0.1, l=44)", 66),
        ("TRI(k0=0.1, k1=1, l=40) for 80 then POLY(k0=0.1, p=1, l=20)", 100),
        ("FIX(k0=0.1)", 10000),
        ("STEP(k0=0.1, gamma=0.1, l=9007199254740992)", 2**31 - 1),
    ],
)
def test_plot_shows_the_typical_length_of_a_policy(policy, end, invoke):
    done = invoke("plot", policy, "--terminal")
    assert done.returncode == 0
    last_tick = done.stdout.splitlines()[-4].split()[-1]
    assert last_tick.rstrip(".0") == str(end).rstrip(".0")
    assert str(Policy.parse(policy)) in done.stdout
    assert "\x1b" not in done.stdout, "colours are for terminals"


def test_plot_ends_a_curve_with_its_policy(invoke):
    policies = ("POLY(k0=0.05, p=1.2, l=50)", "FIX(k0=0.01)")
    done = invoke("plot", *policies, "--max-iter", 100, "--terminal")
    assert done.returncode == 0
    lowest = [line for line in done.stdout.splitlines() if "┤" in line or "│" in line][-1]
    assert lowest.rstrip("│").rstrip().endswith("x"), "POLY is 0 at 50, half-way, and ends"


@pytest.mark.parametrize(
    "policy, message",
    [
        ("SGDR(k0=0.05, k1=0, l=5 epochs)", "give a number of iterations"),
        ("WARMUP(k0=0.1)", "needs a next piece"),
        ("FIX(k0=1e308)", "Caffe's learning rates"),
    ],
)
def test_plot_reports_policies_that_it_cannot_draw(policy, message, invoke):
    done = invoke("plot", policy, "--terminal")
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("display, reason", [(None, "DISPLAY is not set"), (":4242", ":4242")])
def test_plot_without_a_display_suggests_other_outputs(display, reason, lrbench, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    done = lrbench("plot", BEST)
    assert done.returncode == 2 and reason in done.stderr and "--terminal" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("report", "/no/such/x.html"), "cannot write the report to /no/such/x.html"),
        (("report", "--state", "done", "x.html"), "--state: invalid state 'done'"),
        (("plot", BEST, "--out", "curve"), "cannot write the picture to curve: unknown file type"),
        (("plot", BEST, "--out", "/no/x.png"), "/no/x.png (No such file or directory): name"),
    ],
)
def test_invalid_input_is_reported_in_one_line(arguments, message, invoke):
    done = invoke(*arguments)
    assert done.returncode == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1
