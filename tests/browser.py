"""A real headless Chromium for the tests of pages: from PATH, or unpacked by tests/browser.sh."""

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
LIBRARIES = (
    "/usr/lib/*/*.so*",
    "/lib/*/*.so*",
    "/usr/lib/*/nss/*.so",
    "/usr/lib/*/pulseaudio/*.so",
)
NO_PROXY = "localhost,127.0.0.1"


class NoBrowser(Exception):
    """No Chromium can be used; the message says why."""


def _installed():
    """(Chromium, chromedriver, environment) from PATH, or None."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        return None
    try:
        import selenium  # noqa: F401
    except ImportError:
        return None
    return chromium, driver, dict(os.environ)


def _unpacked():
    """(Chromium, chromedriver, environment) from tests/browser.sh."""
    script = os.path.join(ROOT, "tests", "browser.sh")
    done = subprocess.run([script], capture_output=True, text=True)
    if done.returncode:
        reason = " ".join(done.stderr.split())[-300:]
        raise NoBrowser("Chromium and chromedriver are not installed and not unpacked: " + reason)
    folder = done.stdout.strip()
    sys.path.append(os.path.join(folder, "python"))
    root = os.path.join(folder, "root")
    files = [path for pattern in LIBRARIES for path in glob.glob(root + pattern)]
    libraries = sorted({os.path.dirname(path) for path in files})
    environment = dict(
        os.environ, LD_LIBRARY_PATH=":".join(libraries), FONTCONFIG_FILE=_write_fonts_file(root)
    )
    return root + "/usr/lib/chromium/chromium", root + "/usr/bin/chromedriver", environment


def _write_fonts_file(root):
    """The path of a fontconfig file for the unpacked fonts: their own has absolute paths."""
    path = os.path.join(tempfile.gettempdir(), "lrbench-test-fonts.conf")
    cache = os.path.join(tempfile.gettempdir(), "lrbench-test-fonts")
    with open(path, "w") as file:
        file.write("<fontconfig><dir>%s/usr/share/fonts</dir>" % root)
        file.write("<dir>/usr/share/fonts</dir><cachedir>%s</cachedir></fontconfig>" % cache)
    return path


@contextlib.contextmanager
def chromium(width=1280, height=900):
    """A selenium driver of a headless Chromium within the block; raises NoBrowser."""
    binary, driver, environment = _installed() or _unpacked()
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, "--window-size=%d,%d" % (width, height)):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = NO_PROXY  # for selenium's own requests
    environment.update(no_proxy=NO_PROXY, NO_PROXY=NO_PROXY)
    service = webdriver.ChromeService(executable_path=driver, env=environment)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        yield browser
    finally:
        browser.quit()
