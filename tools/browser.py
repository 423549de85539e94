"""A Chromium for the browser tests: find or install one, drive it, and wait for the host's front end in it."""

import os
import shutil
import subprocess
from contextlib import contextmanager

from tools.places import CACHE, VENV_PYTHON
from tools.problems import Problem

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PLAYWRIGHT_BROWSERS = CACHE / "browsers"
FLAGS = (
    "--no-sandbox",  # Chromium refuses its sandbox to root
    "--disable-gpu",
    "--use-gl=swiftshader",  # the canvas of the front end, drawn in software
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SLOW_MACHINE_MS = 300_000  # opening the front end takes 4 s on two idle cores
# What the front end of a fresh profile complains of by itself: files of the user that are not there yet, and models of
# the graph that it starts with, whose size it asks for in vain.
HOST_NOISE = (
    "user.css",
    "/api/userdata",
    "ComfyApp graph accessed before initialization",
    "missingModelDownload",
    "missingModelMetadata",
)
GREETED = "Comfy.TutorialCompleted"  # else the template browser greets new users, some time after the start
READY = (
    "window.app?.isGraphReady && window.app.extensionManager"
    " && Object.keys(LiteGraph.registered_node_types).length > 300"
)


def find_chromium():
    """Path of a Chromium: one of the machine's, else one that Playwright downloaded before; None if there is none."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    downloaded = sorted(PLAYWRIGHT_BROWSERS.glob("chromium-*/chrome-*/chrome"))
    return installed or (str(downloaded[-1]) if downloaded else None)


def install_chromium(log_path):
    """Install Chromium by the first way that works: Debian's package (as root), then Playwright's own download.

    Output of the installers goes to `log_path`. Raises Problem when there is no Chromium afterwards.
    """
    attempts = []
    if shutil.which("apt-get") and os.geteuid() == 0:
        attempts += [["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]]
    attempts.append([str(VENV_PYTHON), "-m", "playwright", "install", "chromium"])
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "PLAYWRIGHT_BROWSERS_PATH": str(PLAYWRIGHT_BROWSERS),
    }
    for command in attempts:
        with log_path.open("ab") as log:
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False)
        if find_chromium():
            return
    raise Problem(
        "The browser tests need Chromium: none of "
        f"{', '.join(NAMES)} is on the PATH, and it could not be installed (see {log_path}); install it and try again."
    )


@contextmanager
def launched_browser():
    """A headless Chromium under Playwright's control, for the duration of the block."""
    from playwright.sync_api import sync_playwright

    executable = find_chromium()
    if executable is None:
        raise Problem("There is no Chromium for the browser tests; `make test` installs one.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_front_end(browser, url, **context_options):
    """A Playwright page that shows the host's front end, ready for use, in a profile of its own.

    Playwright's options of a context are those of a desktop window, 1600x1000, without `context_options`.
    `page.errors` collects the text of every uncaught JavaScript error and of every error on the console.
    """
    context = browser.new_context(**{"viewport": {"width": 1600, "height": 1000}} | context_options)
    context.set_default_timeout(SLOW_MACHINE_MS)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.extend(_complaint(message)))
    try:
        page.request.post(f"{url}/api/settings/{GREETED}", data="true", headers={"Content-Type": "application/json"})
        page.goto(url)
        wait_until_ready(page)
        yield page
    finally:
        context.close()


def wait_until_ready(page):
    """Until the front end, opened or loaded anew, can be used, and the graph that it starts with has been checked."""
    page.wait_for_function(READY)
    page.wait_for_load_state("networkidle")


def _complaint(message):
    """The text of a console message if it is an error of more than the front end's own start."""
    text = f"{message.text} ({message.location.get('url', '')})"
    return [text] if message.type == "error" and not any(noise in text for noise in HOST_NOISE) else []
