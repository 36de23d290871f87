"""A real headless Chromium for the tests of pages: the one on PATH, else the one that tests/browser.sh has unpacked."""

import contextlib
import glob
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
)


class NoBrowser(Exception):
    """There is none to be had; the text says why."""


def _found():
    """(browser, driver, environment)."""
    if shutil.which("chromium") and shutil.which("chromedriver"):
        try:
            import selenium  # noqa: F401

            return shutil.which("chromium"), shutil.which("chromedriver"), dict(os.environ)
        except ImportError:
            pass
    done = subprocess.run(
        [os.path.join(ROOT, "tests", "browser.sh")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise NoBrowser(
            "no Chromium with chromedriver, and none could be unpacked: "
            + " ".join(done.stderr.split())[-300:]
        )
    folder = done.stdout.strip()
    sys.path.append(os.path.join(folder, "python"))
    root = os.path.join(folder, "root")
    libraries = {
        os.path.dirname(path)
        for pattern in (
            "/usr/lib/*/*.so*",
            "/lib/*/*.so*",
            "/usr/lib/*/nss/*.so",
            "/usr/lib/*/pulseaudio/*.so",
        )
        for path in glob.glob(root + pattern)
    }
    fonts = os.path.join(
        tempfile.gettempdir(), "lrbench-test-fonts.conf"
    )  # fontconfig's own settings name absolute paths
    with open(fonts, "w") as file:
        file.write(
            "<fontconfig><dir>%s/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>%s</cachedir></fontconfig>"
            % (root, os.path.join(tempfile.gettempdir(), "lrbench-test-fonts"))
        )
    return (
        root + "/usr/lib/chromium/chromium",
        root + "/usr/bin/chromedriver",
        dict(os.environ, LD_LIBRARY_PATH=":".join(sorted(libraries)), FONTCONFIG_FILE=fonts),
    )


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A selenium driver of a headless Chromium.  Raises NoBrowser."""
    binary, driver, environment = _found()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ARGUMENTS + ("--window-size=%d,%d" % (width, height),):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(
        executable_path=driver,
        env=dict(environment, no_proxy="localhost,127.0.0.1", NO_PROXY="localhost,127.0.0.1"),
    )
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "localhost,127.0.0.1"
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()
