"""The report and the live view, in a real headless Chromium; and the live view's server by itself."""

import dataclasses
import hashlib
import http.client
import json
import socket
import struct
import threading
import time

import browser as browsers
import pytest
from trials import NETWORK, record, trial

from lrbench_caffe import ranking
from lrbench_caffe.policies import Policy

psycopg2 = pytest.importorskip(
    "psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`"
)
pytest.importorskip("plotly", reason="needs plotly: run the tests with `make test`")
from lrbench_caffe.database import Store  # noqa: E402
from lrbench_caffe.report import content, curves, live, page  # noqa: E402

BEST, SECOND = "SIN2(k0=0.01, k1=0.06, l=100)", "FIX(k0=0.02)"
EVIL = "<img src=x onerror=\"document.title='stolen'\"> '\"&</script>"


@pytest.fixture(scope="module")
def chromium():
    try:
        with browsers.chromium() as driver:
            yield driver
    except browsers.NoBrowser as error:
        pytest.skip(str(error))


@pytest.fixture
def served(database):
    """The address of a live view on the database."""
    server = live.open_server(
        live.Source({}, ranking.parse_criterion("top1"), database), "127.0.0.1", 0
    )
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    yield "127.0.0.1:%d" % server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def study():
    """Three policies with a Top-1 each, the better the slower, and one that failed."""
    return (
        [trial(BEST, [0.1, 0.5, 0.99], seed) for seed in (1, 2)]
        + [trial(SECOND, [0.1, 0.95, 0.9], seed) for seed in (1, 2)]
        + [
            trial("FIX(k0=0.001)", [0.1, 0.3, 0.5]),
            trial("FIX(k0=0.5)", [0.1], state="failed", error="Check failed: " + EVIL),
        ]
    )


def column(driver, number):
    return [
        cell.text.split("\n")[0]
        for cell in driver.find_elements("css selector", "#body td:nth-child(%d)" % number)
    ]


def click(driver, selector):
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center'})",
        driver.find_element("css selector", selector),
    )
    driver.find_element("css selector", selector).click()


def wait(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def drawn(driver, chart):
    """The names of a chart's lines."""
    return driver.execute_script(
        "return document.getElementById(arguments[0]).data.filter(t => t.name).map(t => t.name)",
        chart,
    )


def complaints(driver):
    return [
        entry["message"]
        for entry in driver.get_log("browser")
        if entry["level"] == "SEVERE" and "favicon" not in entry["message"]
    ]


@pytest.fixture
def report(store, tmp_path, chromium):
    """Open the report on trials: report(trials)."""

    def opened(trials):
        record(store, *trials)
        path = tmp_path / "out.html"
        page.write(str(path), content.load(store, {}, ranking.parse_criterion("top1")))
        chromium.get_log("browser")
        chromium.get("file://%s" % path)
        wait(lambda: chromium.execute_script("return document.readyState") == "complete")
        return chromium

    return opened


def test_the_report_shows_the_ranking_and_draws_the_best(report):
    driver = report(study())
    assert complaints(driver) == []
    assert column(driver, 2) == [
        BEST + " Pareto",
        SECOND + " Pareto",
        "FIX(k0=0.001)",
        "FIX(k0=0.5) (1 failed)",
    ]
    assert column(driver, 1) == ["1", "2", "3", "-"] and column(driver, 6)[0] == "99.00 ± 0.00"
    assert (
        BEST + ", seed 1" in drawn(driver, "top1")
        and BEST in drawn(driver, "rate")
        and BEST in drawn(driver, "classes")
    )
    assert "Pareto front: FIX(k0=0.02)" in driver.find_element("id", "cost").get_attribute(
        "aria-label"
    )
    assert 'lr_policy: "%s"' % BEST in [
        e.text for e in driver.find_elements("css selector", "#lines pre")
    ]
    assert (
        driver.find_element("id", "trouble").is_displayed()
        and "Check failed" in driver.find_element("id", "troubles").text
    )
    assert complaints(driver) == []


def test_the_heads_sort_also_by_the_keyboard(report):
    from selenium.webdriver.common.keys import Keys

    driver = report(study())
    click(driver, "th[data-key=iterations] button")
    times = [float(text.split()[0]) for text in column(driver, 5)]
    assert times == sorted(times)
    driver.find_element("css selector", "th[data-key=iterations] button").send_keys(Keys.ENTER)
    times = [float(text.split()[0]) for text in column(driver, 5)]
    assert times == sorted(times, reverse=True)
    assert (
        driver.find_element("css selector", "th[data-key=iterations]").get_attribute("aria-sort")
        == "descending"
    )


def test_policies_are_chosen_and_found(report):
    driver = report(study())
    click(driver, "#choose-none")
    assert drawn(driver, "top1") == []
    click(driver, "#body tr:nth-child(2) input")
    assert drawn(driver, "top1") == [SECOND + ", seed 1", SECOND + ", seed 2"]
    driver.find_element("id", "find").send_keys("sin2 0.06")
    assert column(driver, 2) == [BEST + " Pareto"]


def test_the_four_curves_zoom_together(report):
    driver = report(study())
    driver.find_element("id", "to").send_keys("100\t")
    for chart in ("rate", "top1", "train_loss", "test_loss"):
        wait(
            lambda: (
                driver.execute_script(
                    "return document.getElementById(arguments[0]).layout.xaxis.range", chart
                )
                == [0, 100]
            )
        )


def test_names_are_text_whatever_they_are(report):
    driver = report(
        [trial(BEST, dataset=EVIL), trial(SECOND, dataset=EVIL, state="failed", error=EVIL)]
    )
    assert EVIL in driver.find_element("id", "h-ranking").text and driver.title != "stolen"
    assert driver.find_elements("css selector", "img[src=x]") == [] and complaints(driver) == []


def test_an_empty_database_says_so(report):
    driver = report([])
    assert (
        driver.find_element("id", "empty").is_displayed()
        and not driver.find_element("id", "ranking").is_displayed()
    )
    assert complaints(driver) == []


def test_three_constant_rates_make_a_range_test(report):
    driver = report(
        [
            trial("FIX(k0=%g)" % k0, [0.1, top1])
            for k0, top1 in ((0.001, 0.5), (0.01, 0.9), (0.1, 0.95))
        ]
        + [trial("FIX(k0=1)", [0.1], state="diverged")]
    )
    assert drawn(driver, "range") == ["100 iterations"]
    assert driver.execute_script(
        "return document.getElementById('range').data[0].y"
    ) == pytest.approx([50, 90, 95, 10])


def test_the_rate_of_a_plateau_is_drawn_as_each_seed_went(report):
    plateau = "WARMUP(k0=0.01) for 100 then PLATEAU(k0=0.1, gamma=0.5, l=100)"
    went = [
        dataclasses.replace(
            one, rows=tuple(dataclasses.replace(row, lr=lr) for row, lr in zip(one.rows, rates))
        )
        for one, rates in (
            (trial(plateau, [0.1, 0.5, 0.9, 0.9]), (0.01, 0.1, 0.1, 0.05)),
            (trial(plateau, [0.1, 0.5, 0.9, 0.9], 2), (0.01, 0.1, 0.05, 0.025)),
        )
    ]
    driver = report(
        went + [trial("SGDR(k0=0.1, k1=0, l=50)"), trial("FIX(k0=0.1) for 50 then FIX(k0=0.01)")]
    )
    assert sorted(drawn(driver, "rate")) == [
        "FIX(k0=0.1) for 50 then FIX(k0=0.01)",
        "SGDR(k0=0.1, k1=0.0, l=50)",
        plateau + ", seed 1",
        plateau + ", seed 2",
    ]
    x, y = driver.execute_script(
        "return (t => [t.x, t.y])(document.getElementById('rate').data.find(t => t.name.endsWith('seed 2')))"
    )
    at = dict(zip(x, y))
    assert [at[0], at[50], at[99], at[100], at[199], at[200], at[299], at[300]] == pytest.approx(
        [0.01, 0.055, 0.0991, 0.1, 0.1, 0.05, 0.05, 0.025]
    )
    assert 'lr_policy: "%s"' % plateau in [
        e.text for e in driver.find_elements("css selector", "#lines pre")
    ]
    assert complaints(driver) == []


def test_a_chart_without_anything_in_it_says_so(report):
    driver = report(
        [trial(BEST, state="running", classes=None), trial(SECOND, (), state="failed", error="no")]
    )
    said = {
        chart: driver.find_element("css selector", "figure:has(#%s) .nothing" % chart)
        for chart in ("top1", "cost", "classes")
    }
    assert [said[chart].is_displayed() for chart in said] == [False, True, True]
    assert (
        not driver.find_element("id", "classes").is_displayed()
        and "No confidence" in said["classes"].text
    )
    click(driver, "#choose-none")
    assert said["top1"].is_displayed() and not driver.find_element("id", "top1").is_displayed()
    click(driver, "#choose-best")
    assert (
        driver.find_element("id", "top1").is_displayed()
        and driver.find_element("css selector", "#top1 .main-svg").size["width"] > 300
    )
    assert complaints(driver) == []


def test_each_state_is_counted_and_what_went_wrong_is_told(report):
    driver = report(
        study()
        + [
            trial("EXP(k0=0.1, gamma=0.99)", [0.1, 0.2], state="running"),
            trial("COS(k0=0.01, k1=0.1, l=50)", [0.1], state="pruned", error="hopeless"),
        ]
    )
    assert {e.text for e in driver.find_elements("css selector", "#states li")} == {
        "5 finished",
        "1 failed",
        "1 pruned",
        "1 running",
    }
    assert [
        row.text.split()[-1]
        for row in driver.find_elements("css selector", "#troubles tr")
        if "pruned" in row.text
    ] == ["hopeless"]


def test_everything_has_a_name_for_a_screen_reader_and_is_reached_by_the_keyboard(report):
    from selenium.webdriver.common.keys import Keys

    driver = report(study())
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]
    for role in (
        "button",
        "checkbox",
        "searchbox",
        "spinbutton",
        "DisclosureTriangle",
        "columnheader",
    ):
        names = [name for kind, name in named if kind == role]
        assert names and all(name.strip() for name in names), role
    assert sum(role == "group" and "of " + BEST in name for role, name in named) >= 3, (
        "the charts say what is in them"
    )
    driver.find_element("css selector", "figure:has(#top1) summary").send_keys(Keys.ENTER)
    wait(lambda: BEST in driver.find_element("css selector", "figure:has(#top1) table").text)
    unseen = driver.execute_script("""return [...document.querySelectorAll('button, input, summary')].filter(e => e.checkVisibility()).filter(
        e => { e.focus({focusVisible: true}); return getComputedStyle(e).outlineWidth !== '3px'; }).map(e => e.outerHTML)""")
    assert unseen == [], "whatever has the keyboard is seen to have it"


def test_what_an_import_may_bring_is_drawn(report):
    """Iterations up to Caffe's last, rates that are none of the policy's, none at all."""
    unknown = [
        dataclasses.replace(
            trial("SIN(k0=0.01, k1=0.1, l=50)", [0.1], seed),
            rows=(
                dataclasses.replace(
                    trial("SIN(k0=0.01, k1=0.1, l=50)", [0.1], seed).rows[0], lr=lr
                ),
            ),
        )
        for seed, lr in enumerate((None, 0.1))
    ]
    strange = []
    for policy in (
        "TRI(k0=0.01, k1=0.1, l=50)",
        "POLY(k0=0.1, p=1, l=20)",
        "PLATEAU(k0=0.1, gamma=0.1, l=5)",
    ):
        for seed, lr in enumerate((None, -1.0, 0.0)):
            one = trial(policy, [0.1] * 3, seed)
            at = zip(one.rows, (0, 10, 2**31 - 1), (0.01, lr, 0.01))
            strange.append(
                dataclasses.replace(
                    one,
                    rows=tuple(
                        dataclasses.replace(row, iteration=n, lr=rate) for row, n, rate in at
                    ),
                )
            )
    driver = report(strange + unknown)
    assert len(drawn(driver, "rate")) >= 5 and complaints(driver) == []


def test_it_fits_a_phone(report):
    driver = report(study())
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        driver.refresh()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_live_page_grows_while_rows_arrive_and_keeps_what_the_reader_did(
    store, served, chromium
):
    record(store, *study())
    running = trial("TRI(k0=0.01, k1=0.06, l=100)", [0.1], state="running")
    record(store, running)
    chromium.get("http://%s/" % served)
    click(chromium, "#choose-none")
    click(chromium, "th[data-key=policy] button")
    boxes = dict(zip(column(chromium, 2), chromium.find_elements("css selector", "#body input")))
    boxes[running.policy + " (1 running)"].click()
    before = column(chromium, 2)
    for row in trial(top1=[0.1, 0.6, 0.7]).rows[1:]:
        store.add(running.id, row)
    wait(
        lambda: (
            chromium.execute_script("return document.getElementById('top1').data[0].y.length") == 3
        )
    )
    assert column(chromium, 2) == before, "still sorted by policy"
    assert drawn(chromium, "top1") == [running.policy + ", seed 1"]
    store.end(running.id, "finished", 1700000500.0)
    wait(lambda: running.policy in column(chromium, 2))
    record(store, trial("EXP(k0=0.05, gamma=0.995)"))
    wait(lambda: "EXP(k0=0.05, gamma=0.995)" in column(chromium, 2))
    assert drawn(chromium, "top1") == [running.policy + ", seed 1"] and complaints(chromium) == []


def test_a_live_page_on_an_empty_database_fills(store, served, chromium):
    chromium.get("http://%s/" % served)
    assert chromium.find_element("id", "empty").is_displayed()
    record(store, *study())
    wait(lambda: column(chromium, 2)[:1] == [BEST + " Pareto"])
    assert BEST in drawn(chromium, "rate")


def ask(address, path="/content.json", method="GET", **headers):
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def test_a_live_view_outlives_its_database_and_browsers_that_go_away(database, served, capfd):
    admin = psycopg2.connect(database.rpartition(" dbname=")[0])
    admin.autocommit = True

    def allow(word):
        admin.cursor().execute("ALTER DATABASE %s %s" % (database.rpartition("=")[2], word))

    assert ask(served)[0].status == 200
    allow("ALLOW_CONNECTIONS false")
    admin.cursor().execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
        [database.rpartition("=")[2]],
    )
    time.sleep(live.FRESH)
    answer, body = ask(served)
    assert answer.status == 503 and b"not currently accepting connections" in body
    allow("ALLOW_CONNECTIONS true")
    assert ask(served)[0].status == 200
    host, port = served.split(":")
    with socket.create_connection((host, int(port))) as gone:
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        gone.recv(100)
    time.sleep(0.5)
    assert ask(served)[0].status == 200 and capfd.readouterr().err == ""
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
def test_only_the_servers_own_names_are_answered(host, status, served):
    """A page elsewhere whose name was pointed here afterwards reads nothing (DNS rebinding)."""
    assert ask(served, Host=host)[0].status == status


def test_the_server_only_reads_and_has_two_addresses(store, served):
    assert (
        ask(served, "/../../etc/passwd")[0].status == 404
        and ask(served, method="POST")[0].status == 501
    )
    answer, body = ask(served)
    assert json.loads(body.decode())["tasks"] == []
    assert ask(served, **{"If-None-Match": answer.headers["ETag"]})[0].status == 304
    with pytest.raises(Exception, match="read-only"):
        reader = Store(store._dsn, read_only=True)
        reader.begin(trial())


@pytest.mark.parametrize("last", [70000, 2**31 - 1])
def test_a_curve_is_thinned_without_losing_a_peak(last):
    policy = Policy.parse("SIN2(k0=0.005, k1=0.08, l=70)")
    t, lr = curves.thinned(policy, last, 600)
    assert 100 < len(t) <= 602 and t[0] == 0 and t[-1] == last and lr == pytest.approx(policy(t))
    assert last > 70000 or lr.max() == pytest.approx(0.08)
    lr = curves.thinned(Policy.parse("TRI(k0=0.1, k1=1, l=537)"), last, 600)[1]
    assert lr[10:20].min() < 0.15 and lr[10:20].max() > 0.95, (
        "no cycle is always met at the same place"
    )


def test_caffes_own_schedules_are_pasted_as_its_fields():
    assert page.lines_to_paste(
        "multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, 7])"
    ).splitlines() == [
        'lr_policy: "multistep"',
        "base_lr: 0.1",
        "gamma: 1.5",
        "stepvalue: 5",
        "stepvalue: 7",
    ]


def test_networks_with_one_name_are_two_tasks(store):
    other = dataclasses.replace(
        NETWORK, prototxt="other", hash=hashlib.sha256(b"other").hexdigest()
    )
    record(store, trial(), trial(network=other))
    assert len(content.load(store, {}, ranking.parse_criterion("top1"))["tasks"]) == 2


@pytest.mark.parametrize("file", ["curve.png", "curve.svg"])
def test_plot_writes_pictures(file, tmp_path, lrbench):
    assert (
        lrbench("plot", BEST, "POLY(k0=0.05, p=1.2, l=50)", "--out", tmp_path / file).returncode
        == 0
    )
    assert (tmp_path / file).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


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
def test_plot_reaches_as_far_as_a_policy_has_something_to_show(policy, end, lrbench):
    done = lrbench("plot", policy, "--terminal")
    assert done.returncode == 0 and done.stdout.splitlines()[-4].split()[-1].rstrip(".0") == str(
        end
    ).rstrip(".0")
    assert str(Policy.parse(policy)) in done.stdout and "\x1b" not in done.stdout, (
        "no colours where no terminal is"
    )


def test_plot_ends_where_the_policy_ends_whatever_was_asked(lrbench):
    done = lrbench(
        "plot", "POLY(k0=0.05, p=1.2, l=50)", "FIX(k0=0.01)", "--max-iter", 100, "--terminal"
    )
    lowest = [line for line in done.stdout.splitlines() if "┤" in line or "│" in line][-1]
    assert done.returncode == 0 and "x" in lowest and lowest.rstrip("│").rstrip().endswith("x"), (
        "0 at 50, half-way"
    )


@pytest.mark.parametrize(
    "policy, words",
    [
        ("SGDR(k0=0.05, k1=0, l=5 epochs)", "give the number of iterations"),
        ("WARMUP(k0=0.1)", "needs one"),
        ("FIX(k0=1e308)", "Caffe's learning rates"),
    ],
)
def test_plot_says_what_it_cannot_draw(policy, words, lrbench):
    done = lrbench("plot", policy, "--terminal")
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("display, words", [(None, "DISPLAY is not set"), (":4242", ":4242")])
def test_plot_without_a_window_says_what_to_do_instead(display, words, lrbench, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    done = lrbench("plot", BEST)
    assert (
        done.returncode == 2
        and words in done.stderr
        and "--terminal" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("report", "/no/such/x.html"), "cannot be written"),
        (("rank", "--study", "none"), "no such trials"),
        (("report", "--study", "none", "x.html"), "no study none"),
        (("report", "--state", "done", "x.html"), "'done' is no state"),
    ],
)
def test_what_cannot_be_done_is_said(words, sentence, lrbench):
    done = lrbench(*words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
