"""Fixtures shared by all tests: the real ComfyUI as a server, as modules and in a browser; the DreamBench pictures.

A missing host or browser fails the tests that need it; only the DreamBench data may be absent. What a test needs
decides its markers, so that `make test-fast` leaves out what is slow to start without a list that somebody keeps.
"""

import signal
import uuid
from types import CodeType, FunctionType, SimpleNamespace

import pytest
import torch
from tiny_model import CONFIG, write_tiny_checkpoint

from tools.browser import launched_browser, open_front_end
from tools.client import Client
from tools.host import running_host
from tools.inprocess import load_comfy
from tools.places import ROOT

DREAMBENCH = ROOT.parent / "shared" / "data" / "dreambench"
# Marker -> fixtures, or names that the code of a test or the imports of its module have, that bring it.
NEEDS = {
    "server": ({"host", "bare_host", "browser_page"}, {"running_host", "Client"}),
    "browser": ({"browser", "browser_page"}, {"launched_browser"}),
    "reference": (set(), {"run_reference"}),
    "comfy": ({"comfy"}, {"load_comfy"}),
}


def pytest_configure():
    """Let Ctrl-C and a closed terminal act in the commands that tests start: background jobs hand down that they are
    ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    """Mark each test by what it needs: ComfyUI as a server or in this process, a browser, the reference libraries,
    other processes."""
    for item in items:
        for marker, (fixtures, helpers) in NEEDS.items():
            if fixtures & set(item.fixturenames) or helpers & vars(item.module).keys():
                item.add_marker(marker)
        if {"subprocess", "start_run"} & names_used(item):
            item.add_marker("process")


def names_used(item):
    """Names in the code of a test, of its fixtures, and of what they call in its module."""
    module, found = vars(item.module), set()
    fixtures = [each.func for defined in item._fixtureinfo.name2fixturedefs.values() for each in defined]
    codes = [function.__code__ for function in (item.function, *fixtures)]
    while codes:
        code = codes.pop()
        new = set(code.co_names) - found
        found |= new
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
        codes += [module[name].__code__ for name in new if isinstance(module.get(name), FunctionType)]
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Reports travel between processes as UTF-8, which hostile texts in the host's log are not."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


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


@pytest.fixture(scope="session")
def subject_error(comfy):
    """SubjectError as the host's copy of the pack raises it."""
    return comfy.module("blipdiff_impl.errors").SubjectError


@pytest.fixture(scope="session")
def load_tiny(comfy, tmp_path_factory):
    """`load_tiny(seed=..., config=CONFIG)`: what the loader node gives for a tiny model with random weights."""

    @torch.inference_mode()
    def load(seed, config=CONFIG):
        path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
        write_tiny_checkpoint(path, config, seed)
        source = comfy.module("nodes.host.blip_diffusion.sources").Source(str(path))
        return comfy.module("nodes.host.blip_diffusion.loader").load_model(source, "fp32")

    return load


@pytest.fixture
def on_node(comfy, monkeypatch):
    """The texts that the host is asked to show on the node that runs, in order: the test is one run of one node."""
    import server
    from comfy_execution.utils import CurrentNodeContext

    texts = []
    listener = SimpleNamespace(
        client_id=None, send_sync=lambda *_: None, send_progress_text=lambda text, node_id: texts.append(text)
    )
    monkeypatch.setattr(server.PromptServer, "instance", listener, raising=False)
    with CurrentNodeContext(str(uuid.uuid4()), "1"):
        yield texts


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
