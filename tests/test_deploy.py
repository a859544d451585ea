"""deploy/: what its files name is what the server knows. Nothing of it is run here."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bart_onnx.ray_serve import Scale
from bart_onnx.server.options import PREFIX, ServerOptions, option_parser

yaml = pytest.importorskip("yaml", reason="the serve extra is not installed: no PyYAML")

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document.get('kind', 'config')}")
    for path in sorted(DEPLOY.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
OPTIONS = {field.name for field in dataclasses.fields(ServerOptions)}
# Where bundles are kept is no option of the server.
VARIABLES = {f"{PREFIX}{name.upper()}" for name in OPTIONS} | {f"{PREFIX}HOME", f"{PREFIX}CONFIG"}


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """Whatever in a document has an image or arguments."""
    if isinstance(value, dict):
        if "image" in value or "args" in value:
            yield value
        for each in value.values():
            yield from containers(each)
    elif isinstance(value, list):
        for each in value:
            yield from containers(each)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_variables_and_flags_are_options(document):
    found = list(containers(document))
    for container in found:
        names = {each["name"] for each in container.get("env", [])}
        assert names <= VARIABLES
        arguments = container.get("args", [])
        if isinstance(arguments, list):
            option_parser("serve", "").parse_args(arguments)
        else:
            assert set(arguments) <= OPTIONS | {each.name for each in dataclasses.fields(Scale)}
    assert found or document["kind"] == "Service"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_probes_ask_routes_that_need_no_key(document):
    from bart_onnx.server.guard import OPEN_PATHS

    for container in containers(document):
        ports = {each.get("name", each["containerPort"]) for each in container.get("ports", [])}
        probes = [value for name, value in container.items() if name.endswith("Probe")]
        assert len(probes) == (3 if "image" in container else 0)
        for probe in probes:
            assert probe["httpGet"]["path"] in OPEN_PATHS
            assert probe["httpGet"]["port"] in ports


def test_a_pod_ends_after_its_server():
    options = ServerOptions(preset=("any",))
    longest = options.drain_delay + options.drain_timeout
    found = re.findall(
        r"terminationGracePeriodSeconds: (\d+)",
        "".join(path.read_text() for path in DEPLOY.glob("*.yaml")),
    )
    assert len(found) == 2
    assert all(int(seconds) > longest for seconds in found)


def test_pods_run_without_rights():
    for document in (each.values[0] for each in DOCUMENTS):
        for container in (each for each in containers(document) if "image" in each):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}


def test_the_image_runs_as_nobody_in_particular_and_names_what_there_is():
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", DOCKERFILE)) <= VARIABLES
    stages = re.split(r"^FROM base AS ", DOCKERFILE, flags=re.MULTILINE)[1:]
    assert [stage.split()[0] for stage in stages] == ["cuda", "cpu"]
    assert all(
        re.findall(r"^USER .*", stage, re.MULTILINE) == ["USER 1000:1000"] for stage in stages
    )
    assert "VOLUME /data" in DOCKERFILE
    assert "/health/ready" in DOCKERFILE
    for source in re.findall(r"^COPY ([\w./ ]+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / each).exists() for each in source.split())


def test_the_image_has_every_extra_that_it_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.findall(r"\*\.whl\)\[([\w,]+)\]", DOCKERFILE)
    assert len(asked) == 2
    assert {name for each in asked for name in each.split(",")} <= set(
        project["optional-dependencies"]
    )
