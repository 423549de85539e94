"""What the one who publishes the pack writes into pyproject.toml by `make name-address`."""

import shutil
import sys

import pytest
from PIL import Image

from tools.name_address import with_address
from tools.places import ROOT
from tools.problems import Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import pip._vendor.tomli as tomllib

TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ADDRESS = "https://github.com/some-owner/some.pack"


def test_address_gives_links_icon_banner_and_publisher():
    before, after = tomllib.loads(TEXT), tomllib.loads(with_address(TEXT, ADDRESS, "some-owner"))
    raw = "https://raw.githubusercontent.com/some-owner/some.pack/main/docs/brand"
    assert after["project"].pop("urls")["Repository"] == ADDRESS
    comfy = after["tool"].pop("comfy")
    assert (comfy["PublisherId"], comfy["Icon"], comfy["Banner"]) == (
        "some-owner", f"{raw}/icon.png", f"{raw}/banner.png",
    )  # fmt: skip
    for name in ("DisplayName", "requires-comfyui"):
        assert comfy[name] == before["tool"]["comfy"][name]
    before["project"].pop("urls", None), before["tool"].pop("comfy")
    assert after == before


def test_a_second_call_replaces_the_first():
    first = with_address(TEXT, "https://github.com/a/b", "first")
    again = with_address(first, f"{ADDRESS}.git", "some-owner")
    assert tomllib.loads(again) == tomllib.loads(with_address(TEXT, ADDRESS, "some-owner"))
    assert with_address(again, ADDRESS, "some-owner") == again


@pytest.mark.parametrize("address", ["", "github.com/a/b", "https://github.com/a", 'https://github.com/a/b"\nx = "1'])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(Problem, match="REPOSITORY="):
        with_address(TEXT, address, "owner")


@pytest.mark.parametrize("publisher", ["", "Upper", "two words", "-a", 'a"'])
def test_a_publisher_that_is_none_is_named(publisher):
    with pytest.raises(Problem, match="PUBLISHER="):
        with_address(TEXT, ADDRESS, publisher)


def test_the_pictures_have_the_shapes_that_the_registry_asks_for():
    icon, banner = (Image.open(ROOT / "docs" / "brand" / f"{name}.png") for name in ("icon", "banner"))
    assert icon.width == icon.height <= 400
    assert banner.width * 9 == banner.height * 21


def test_comfy_cli_takes_the_rewritten_file(tmp_path, monkeypatch):
    from tools import archive

    for name in ("pyproject.toml", "LICENSE", "README.md", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "pyproject.toml").write_text(with_address(TEXT, ADDRESS, "some-owner"), encoding="utf-8")
    monkeypatch.setattr(archive, "ROOT", tmp_path)
    assert "✓ All validation checks passed" in archive.comfy_cli("validate")
