"""compose.yaml: every service is what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
VERBS = ("prep", "train", "evaluate", "export")


class Loader(yaml.SafeLoader):
    """Knows `!reset`, by which Compose takes a setting of an earlier file back."""


Loader.add_constructor("!reset", lambda loader, node: "reset")


def read(name: str) -> dict[str, Any]:
    return yaml.load((DOCKER / name).read_text(encoding="utf-8"), Loader)


def test_every_step_and_tensorboard_are_services():
    assert set(read("compose.yaml")["services"]) == {*VERBS, "tensorboard"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_service_runs_the_verb_of_its_name_on_the_volumes(verb):
    service = read("compose.yaml")["services"][verb]
    assert service["entrypoint"] == ["mbrec", verb]
    assert [volume.rsplit(":", 1)[1] for volume in service["volumes"]] == ["/data", "/runs"]
    assert service["build"]["dockerfile"] == "docker/Dockerfile"
    assert not service["user"].endswith(":-0}")


@pytest.mark.parametrize("verb", VERBS[1:])
def test_what_computes_gets_the_gpu_and_gives_it_back_on_a_cpu(verb):
    (device,) = read("compose.yaml")["services"][verb]["deploy"]["resources"]["reservations"][
        "devices"
    ]
    assert device["capabilities"] == ["gpu"]
    assert read("compose.cpu.yaml")["services"][verb]["deploy"] == "reset"


def test_on_a_cpu_every_service_uses_the_cpu_flavor():
    services = read("compose.cpu.yaml")["services"]
    assert set(services) == set(read("compose.yaml")["services"])
    assert {service["image"] for service in services.values()} == {"mbrec:cpu"}
    assert {service["build"]["args"]["FLAVOR"] for service in services.values()} == {"cpu"}


def test_tensorboard_is_shown_to_this_machine_only_and_cannot_change_a_run():
    service = read("compose.yaml")["services"]["tensorboard"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume.endswith(":ro") for volume in service["volumes"])
