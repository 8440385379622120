"""A build sees the package indexes that pip sees on the machine that builds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "pip_settings.py"


@pytest.fixture(scope="module")
def pip_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pip_settings", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_environment_wins_and_what_is_no_setting_of_an_index_is_left_out(pip_settings):
    listing = "\n".join(
        [
            ":env:.index-url='https://b.example/simple'",
            "global.index-url='https://a.example/simple'",
            "global.no-color='true'",
            "freeze.timeout='10'",
            "install.timeout='30'",
        ]
    )
    found = {"index-url": "https://b.example/simple", "timeout": "30"}
    assert pip_settings.settings(listing) == found


def test_files_and_folders_of_this_machine_get_a_place_in_the_build(pip_settings, tmp_path):
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "ca.crt").touch()
    mounts: list[Path] = []
    see = pip_settings.mounted
    assert see(str(tmp_path / "ca.crt"), mounts) == "/run/host/0"
    index = f"file://{tmp_path}/index/simple"  # its pages may refer to ../files
    assert see(index, mounts) == "file:///run/host/1/simple"
    assert see("https://a.example/simple", mounts) == "https://a.example/simple"
    assert mounts == [tmp_path / "ca.crt", tmp_path / "index"]
