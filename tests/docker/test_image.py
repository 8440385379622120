"""The files that make the image agree with each other and with the rest of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
LOCKS = DOCKER / "locks"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
SCRIPTS = sorted(DOCKER.glob("*.sh"))
IMAGE = {"python_version": "3.11", "extra": ""}  # the Python of the base image


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [(name, rest) for name, rest in words]


def arguments() -> dict[str, str]:
    """The build arguments with their defaults."""
    found = (rest.partition("=") for name, rest in instructions() if name == "ARG")
    return {name: default.strip('"') for name, sign, default in found if sign}


def locked(*names: str) -> dict[str, str]:
    """Package → version in lock files."""
    text = "".join((LOCKS / f"{name}.lock").read_text(encoding="utf-8") for name in names)
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+) \\$", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def pinned() -> dict[str, str]:
    """Package → version in constraints.txt, for the Python of the image."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate(IMAGE)
    }


def required() -> list[Requirement]:
    """What setup.py asks for, for the Python of the image."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(r"install_requires=\[(.*?)\n    \],", text, flags=re.DOTALL)
    assert block
    found = [Requirement(entry) for entry in re.findall(r'^ +"(.+)",$', block[1], re.MULTILINE)]
    return [one for one in found if one.marker is None or one.marker.evaluate(IMAGE)]


def test_the_image_starts_mbrec_as_a_user_without_rights():
    last = dict(instructions())  # the last one of a name is what holds
    assert last["ENTRYPOINT"] == '["mbrec"]'
    assert last["USER"] == "1000:1000"
    assert last["VOLUME"] == '["/data", "/runs"]'
    assert "mbrec --version" in last["HEALTHCHECK"]


def test_no_image_is_made_that_cannot_train():
    names = [name for name, _ in instructions()]
    runs = [rest for name, rest in instructions() if name == "RUN"]
    assert "mbrec doctor" in runs[-1] and "mbrec demo" in runs[-1]
    assert names.index("USER") < len(names) - 1 - names[::-1].index("RUN")


def test_every_stage_and_file_that_the_dockerfile_names_exists():
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE))
    assert {"flavor-cpu", "flavor-cuda"} <= stages
    assert set(re.findall(r"from=([a-z]+)", DOCKERFILE)) <= stages
    sources = re.findall(r"type=bind,source=(docker\S*?),", DOCKERFILE)
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY"]
    for name in [*sources, *(name for names in copied for name in names)]:
        assert (ROOT / name).exists(), name


def test_what_the_dockerfile_copies_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY"]
    assert {name for names in copied for name in names} <= let_in
    assert {"docker/locks", "docker/wheelhouse"} <= let_in


def test_every_folder_that_setup_py_installs_gets_into_the_image():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = re.search(r"package_dir=\{(.*?)\}", text, flags=re.DOTALL)
    assert block
    copied = [rest for name, rest in instructions() if name == "COPY"]
    for folder in re.findall(r'": "([^"]+)"', block[1]):
        assert f"{folder} {folder}" in copied, f"the Dockerfile does not copy {folder}"


def test_pip_installs_nothing_whose_hash_it_does_not_know():
    installs = [
        command
        for name, rest in instructions()
        if name == "RUN"
        for command in re.findall(r"pip install ([^&]*)", rest)
    ]
    assert len(installs) >= 5
    for command in installs:
        assert "--no-deps" in command, command
        assert "--require-hashes" in command or "--no-index" in command, command


@pytest.mark.parametrize("name", ["requirements", "cpu", "cuda"])
def test_a_lock_has_a_hash_for_every_package(name):
    text = (LOCKS / f"{name}.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert entries
    for entry in entries:
        assert re.match(r"\S+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}\b", entry), entry[:80]


@pytest.mark.parametrize("flavor", ["cpu", "cuda"])
def test_a_flavor_has_all_that_setup_py_asks_for_in_versions_that_it_allows(flavor):
    have = locked("requirements", flavor)
    wheel = {"cpu": "TORCH_WHEEL", "cuda": "DGL_WHEEL"}[flavor]
    name, version = arguments()[wheel].rsplit("/", 1)[1].split("-")[:2]
    have[name] = version.split("%2B")[0]
    for requirement in required():
        name = canonicalize_name(requirement.name)
        assert name in have, f"{name} is new: run docker/lock.sh"
        assert requirement.specifier.contains(have[name]), name


def test_no_package_is_locked_twice():
    for flavor in ("cpu", "cuda"):
        assert not set(locked(flavor)) & set(locked("requirements"))


def test_the_image_has_the_versions_that_the_tests_pass_with():
    pins, have = pinned(), locked("requirements", "cpu")
    differing = {name for name in pins.keys() & have.keys() if pins[name] != have[name]}
    assert differing == set(), "run docker/lock.sh"
    assert f"/torch-{pins['torch']}%2Bcpu-cp311-" in arguments()["TORCH_WHEEL"]


def test_dgl_of_the_cuda_flavor_was_built_for_the_locked_torch_and_its_cuda():
    torch, have = locked("cuda")["torch"], locked("cuda")
    cuda = "".join(have["nvidia-cuda-runtime-cu12"].split(".")[:2])
    minor = ".".join(torch.split(".")[:2])
    assert f"/torch-{minor}/cu{cuda}/dgl-" in arguments()["DGL_WHEEL"]
    assert f"%2Bcu{cuda}-cp311-" in arguments()["DGL_WHEEL"]


def test_a_hash_is_either_a_sha256_or_demanded_by_the_build():
    defaults = arguments()
    assert re.fullmatch("[0-9a-f]{64}", defaults["TORCH_SHA256"])
    assert defaults["DGL_SHA256"] == ""  # its site publishes none: whoever builds has to give it


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_can_be_started(script):
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("call", [["--flavor", "tpu"], ["--unknown"]])
def test_a_mistyped_option_ends_the_build_script_with_a_hint(call):
    command = ["bash", str(DOCKER / "build-local.sh"), *call]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--flavor" in done.stderr


def test_the_guide_names_the_versions_that_are_installed():
    guide = (DOCKER / "README.md").read_text(encoding="utf-8")
    for version in (locked("cuda")["torch"], pinned()["torch"], locked("cpu")["dgl"]):
        assert version in guide
    assert "2.4.0+cu121" in guide
