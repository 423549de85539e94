"""README.md and the page on MS-Diffusion against the pack: what they name is there, and their scripts run."""

import re
import subprocess
import sys

from imports import NODE_FILES
from PIL import Image

from tools.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_pictures_and_pages_that_it_links_are_there():
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert len(linked) > 5
    files = [target for target in linked if not target.startswith("#")]
    assert [target for target in files if not (ROOT / target.partition("#")[0]).is_file()] == []


def test_headings_that_it_links_are_there():
    linked = set(re.findall(r"\]\(#([^)]+)\)", README))
    headings = re.findall(r"^#+ (.+)$", README, flags=re.MULTILINE)
    assert linked and linked <= {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_files_that_it_names_are_there():
    named = re.findall(r"`((?:tests|docs|blipdiff_impl|workflows)/[\w./-]+)`", README)
    assert named and [name for name in named if not (ROOT / name).exists()] == []


def test_its_table_names_every_node():
    ids = [name for path in NODE_FILES for name in re.findall(r'node_id="(\w+)"', path.read_text(encoding="utf-8"))]
    assert len(ids) > 15 and [name for name in ids if f"`{name}`" not in README] == []


def test_its_table_names_every_workflow():
    names = [path.stem for path in (ROOT / "workflows").glob("*.json")]
    assert len(names) > 10 and [name for name in names if f"`{name}`" not in README] == []


def run_script(page, folder):
    """The page's one script, beside the example pictures."""
    (script,) = re.findall(r"```python\n(.+?)```", page, flags=re.DOTALL)
    (folder / "workflows").symlink_to(ROOT / "workflows")
    subprocess.run([sys.executable, "-c", script], cwd=folder, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=600)


def test_its_script_makes_a_picture(tmp_path):
    run_script(README, tmp_path)
    with Image.open(tmp_path / "mug.png") as picture:
        assert picture.size == (192, 192) and len(picture.getcolors(maxcolors=1 << 16)) > 100


MS_PAGE = (ROOT / "docs" / "ms_diffusion.md").read_text(encoding="utf-8")


def test_the_script_with_several_subjects_makes_a_picture(tmp_path):
    run_script(MS_PAGE, tmp_path)
    with Image.open(tmp_path / "two.png") as picture:
        assert picture.size == (192, 192) and len(picture.getcolors(maxcolors=1 << 16)) > 100


def test_pages_that_the_page_on_several_subjects_links_are_there():
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", MS_PAGE) if "://" not in target]
    assert len(linked) > 3
    for target in linked:
        name, _, heading = target.partition("#")
        headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        known = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert not heading or heading in known, target
