"""The report and the live view, in a real headless Chromium; and the live view's server by itself."""
import dataclasses
import hashlib
import http.client
import json
import threading
import time

import pytest

import browser as browsers
from lrbench_caffe import ranking
from lrbench_caffe.policies import Policy
from trials import NETWORK, record, trial

pytest.importorskip("psycopg2", reason="needs psycopg2 and PostgreSQL: run the tests with `make test`")
pytest.importorskip("plotly", reason="needs plotly: run the tests with `make test`")
from lrbench_caffe.database import Store  # noqa: E402
from lrbench_caffe.report import content, live, page  # noqa: E402

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
    server = live.open_server(live.Source({}, ranking.criterion("top1"), database), "127.0.0.1", 0)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
    thread.start()
    yield "127.0.0.1:%d" % server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def study():
    """Three policies with a Top-1 each, the better the slower, and one that failed."""
    return [trial(BEST, [0.1, 0.5, 0.99], seed) for seed in (1, 2)] + [trial(SECOND, [0.1, 0.95, 0.9], seed) for seed in (1, 2)] \
        + [trial("FIX(k0=0.001)", [0.1, 0.3, 0.5]), trial("FIX(k0=0.5)", [0.1], state="failed", error="Check failed: " + EVIL)]


def column(driver, number):
    return [cell.text.split("\n")[0] for cell in driver.find_elements("css selector", "#body td:nth-child(%d)" % number)]


def click(driver, selector):
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", driver.find_element("css selector", selector))
    driver.find_element("css selector", selector).click()


def wait(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def drawn(driver, chart):
    """The names of a chart's lines."""
    return driver.execute_script("return document.getElementById(arguments[0]).data.filter(t => t.name).map(t => t.name)", chart)


def complaints(driver):
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]


@pytest.fixture
def report(store, tmp_path, chromium):
    """Open the report on trials: report(trials)."""
    def opened(trials):
        record(store, *trials)
        path = tmp_path / "out.html"
        page.write(str(path), content.read(store, {}, ranking.criterion("top1")))
        chromium.get_log("browser")
        chromium.get("file://%s" % path)
        return chromium
    return opened


def test_the_report_shows_the_ranking_and_draws_the_best(report):
    driver = report(study())
    assert column(driver, 2) == [BEST + " Pareto", SECOND + " Pareto", "FIX(k0=0.001)", "FIX(k0=0.5) (1 failed)"]
    assert column(driver, 1) == ["1", "2", "3", "-"] and column(driver, 6)[0] == "99.00 ± 0.00"
    assert BEST + ", seed 1" in drawn(driver, "top1") and BEST in drawn(driver, "rate") and BEST in drawn(driver, "classes")
    assert "Pareto front: FIX(k0=0.02)" in driver.find_element("id", "cost").get_attribute("aria-label")
    assert 'lr_policy: "%s"' % BEST in [e.text for e in driver.find_elements("css selector", "#lines pre")]
    assert driver.find_element("id", "trouble").is_displayed() and "Check failed" in driver.find_element("id", "troubles").text
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
    assert driver.find_element("css selector", "th[data-key=iterations]").get_attribute("aria-sort") == "descending"


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
        wait(lambda: driver.execute_script("return document.getElementById(arguments[0]).layout.xaxis.range", chart) == [0, 100])


def test_names_are_text_whatever_they_are(report):
    driver = report([trial(BEST, dataset=EVIL), trial(SECOND, dataset=EVIL, state="failed", error=EVIL)])
    assert EVIL in driver.find_element("id", "h-ranking").text and driver.title != "stolen"
    assert driver.find_elements("css selector", "img[src=x]") == [] and complaints(driver) == []


def test_an_empty_database_says_so(report):
    driver = report([])
    assert driver.find_element("id", "empty").is_displayed() and not driver.find_element("id", "ranking").is_displayed()
    assert complaints(driver) == []


def test_three_constant_rates_make_a_range_test(report):
    driver = report([trial("FIX(k0=%g)" % k0, [0.1, top1]) for k0, top1 in ((0.001, 0.5), (0.01, 0.9), (0.1, 0.95))]
                    + [trial("FIX(k0=1)", [0.1], state="diverged")])
    assert drawn(driver, "range") == ["100 iterations"]
    assert driver.execute_script("return document.getElementById('range').data[0].y") == pytest.approx([50, 90, 95, 10])


def test_it_fits_a_phone(report):
    driver = report(study())
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True})
    try:
        driver.refresh()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_live_page_grows_while_rows_arrive_and_keeps_what_the_reader_did(store, served, chromium):
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
    wait(lambda: chromium.execute_script("return document.getElementById('top1').data[0].y.length") == 3)
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


@pytest.mark.parametrize("host, status", [("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:80", 200), ("192.168.1.5:8642", 200),
                                          ("evil.example", 403), ("127.0.0.1.evil.example:80", 403), ("", 403)])
def test_only_the_servers_own_names_are_answered(host, status, served):
    """A page elsewhere whose name was pointed here afterwards reads nothing (DNS rebinding)."""
    assert ask(served, Host=host)[0].status == status


def test_the_server_only_reads_and_has_two_addresses(store, served):
    assert ask(served, "/../../etc/passwd")[0].status == 404 and ask(served, method="POST")[0].status == 501
    answer, body = ask(served)
    assert json.loads(body.decode())["tasks"] == []
    assert ask(served, **{"If-None-Match": answer.headers["ETag"]})[0].status == 304
    with pytest.raises(Exception, match="read-only"):
        reader = Store(store._dsn, read_only=True)
        reader.begin(trial())


def test_a_curve_is_thinned_without_losing_a_peak():
    text = "SIN2(k0=0.005, k1=0.08, l=70)"
    t, lr = content.rates(text, 70000)
    assert len(t) <= content.POINTS + 2 and t[0] == 0 and t[-1] == 70000 and max(lr) == pytest.approx(0.08)
    assert lr[:50] == pytest.approx([float(Policy.parse(text)(n)) for n in t[:50]], rel=1e-5)


def test_caffes_own_schedules_are_pasted_as_its_fields():
    assert page.paste("multistep(base_lr=0.1, gamma=1.5, stepvalue=[5, 7])").splitlines() == [
        'lr_policy: "multistep"', "base_lr: 0.1", "gamma: 1.5", "stepvalue: 5", "stepvalue: 7"]


def test_networks_with_one_name_are_two_tasks(store):
    other = dataclasses.replace(NETWORK, prototxt="other", hash=hashlib.sha256(b"other").hexdigest())
    record(store, trial(), trial(network=other))
    assert len(content.read(store, {}, ranking.criterion("top1"))["tasks"]) == 2


@pytest.mark.parametrize("file", ["curve.png", "curve.svg"])
def test_plot_writes_pictures(file, tmp_path, lrbench):
    assert lrbench("plot", BEST, "POLY(k0=0.05, p=1.2, l=50)", "--out", tmp_path / file).returncode == 0
    assert (tmp_path / file).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_plot_in_the_terminal_and_without_a_window(lrbench, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert "learning rate" in lrbench("plot", BEST, "--terminal").stdout
    done = lrbench("plot", BEST)
    assert done.returncode == 2 and "--terminal" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words, sentence", [(("report", "/no/such/x.html"), "cannot be written"), (("rank", "--study", "none"), "no such trials"),
                                             (("report", "--study", "none", "x.html"), "no study none")])
def test_what_cannot_be_done_is_said(words, sentence, lrbench):
    done = lrbench(*words)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.splitlines()) == 1
