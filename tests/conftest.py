"""Fixtures shared by all tests: the real ComfyUI as a server, as modules and in a browser; the DreamBench pictures.

A missing host or browser fails the tests that need it; only the DreamBench data may be absent.
"""

import pytest

from tools.browser import launched_browser, open_front_end
from tools.client import Client
from tools.host import running_host
from tools.inprocess import load_comfy
from tools.places import ROOT

DREAMBENCH = ROOT.parent / "shared" / "data" / "dreambench"


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """A running ComfyUI server with this pack (tools.client.Client): url, base_dir, log(), object_info(),
    run_workflow(path or dict), run_prompt(api prompt). Shared by all tests of a run: use file names of your own."""
    with running_host(tmp_path_factory.mktemp("host")) as server:
        yield Client(server)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """The host's own modules in this process, and the pack's nodes: see tools.inprocess.load_comfy."""
    return load_comfy(tmp_path_factory.mktemp("comfy"))


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium driven by Playwright, whose event loop runs in this thread: closed with each test module, so
    that other tests can have a loop of their own."""
    with launched_browser() as chromium:
        yield chromium


@pytest.fixture
def browser_page(browser, host):
    """The front end of the running host in a fresh profile, as a Playwright page; `.errors` lists JavaScript errors."""
    with open_front_end(browser, host.url) as front_end:
        yield front_end


@pytest.fixture(scope="session")
def dreambench():
    """Folder of the DreamBench subject photos; tests are skipped where that data set is not beside the checkout."""
    if not DREAMBENCH.is_dir():
        pytest.skip("the DreamBench photos are not beside this checkout (shared/data/dreambench)")
    return DREAMBENCH
