"""The compose file says what the design says: same roles, nothing published but the gateway on loopback.

Containers are not run; the file's structure, its commands and its variables are held against the code.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from services.access import server_conf
from services.settings import Settings
from services.stack.prepare import STORE_DIR
from services.stack.stack import role_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose/compose.yaml").read_text())
    return found


def test_the_roles_are_those_of_the_stack(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {
        "keys", "schema", "nats", "postgres", "orchestrator", "projector", "gateway", "node",
    }  # fmt: skip


def test_only_the_gateway_is_published_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: spec["ports"] for name, spec in compose["services"].items() if spec.get("ports")}
    assert list(published) == ["gateway"]
    assert all(port.startswith("127.0.0.1:") for port in published["gateway"])
    assert compose["networks"]["inside"]["internal"] is True


def test_servers_and_roles_without_a_client_reach_only_the_inner_network(compose: dict[str, Any]) -> None:
    outside = {name for name, spec in compose["services"].items() if "edge" in (spec.get("networks") or [])}
    assert outside == {"gateway"}


def test_our_containers_run_without_rights_they_do_not_need(compose: dict[str, Any]) -> None:
    ours = [spec for spec in compose["services"].values() if spec["image"] == "computepool:local"]
    assert len(ours) == 7
    for spec in ours:
        assert spec["read_only"] is True
        assert spec["cap_drop"] == ["ALL"]
        assert spec["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER (?!root)\S+$", (ROOT / "compose/Dockerfile").read_text(), re.MULTILINE)


def test_every_module_a_container_starts_exists(compose: dict[str, Any]) -> None:
    started = [
        spec["command"][2]
        for spec in compose["services"].values()
        if spec.get("command", [])[:2] == ["python", "-m"]
    ]
    assert len(started) == 5
    for module in started:
        assert importlib.util.find_spec(module) is not None, module


def test_what_depends_on_is_there_and_ends_or_is_probed(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, spec in services.items():
        for needed, how in spec.get("depends_on", {}).items():
            target = services[needed]
            if how["condition"] == "service_healthy":
                assert "healthcheck" in target, (name, needed)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert target["restart"] == "no", (name, needed)


def test_every_volume_is_declared_and_only_appenders_write_beside_the_seeds(compose: dict[str, Any]) -> None:
    used = [
        (name, *volume.split(":"))
        for name, spec in compose["services"].items()
        for volume in spec.get("volumes", [])
        if not volume.startswith(("$", "."))
    ]
    assert {volume for _, volume, *_ in used} == set(compose["volumes"])
    writers = {name for name, volume, _, *mode in used if volume == "seeds" and mode != ["ro"]}
    assert writers == {"keys", "orchestrator", "gateway"}, "appenders keep the log's head there"


def test_every_variable_is_a_setting_or_explained(compose: dict[str, Any]) -> None:
    known = set(role_environment(Settings(database_url="x", nats_url="x")))
    known |= {"COMPUTEPOOL_NATS_SEEDS_DIR", "COMPUTEPOOL_GATEWAY_URL", "COMPUTEPOOL_TOKEN", "NODE_LABEL"}
    ours = [s for s in compose["services"].values() if s["image"] == "computepool:local"]
    for spec in ours:
        assert set(spec["environment"]) <= known
    explained = set(re.findall(r"^([A-Z_]+)=", (ROOT / "compose/env.example").read_text(), re.MULTILINE))
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", (ROOT / "compose/compose.yaml").read_text()))
    assert asked == explained


def test_the_server_configuration_is_the_generated_template() -> None:
    assert (ROOT / "compose/nats.conf").read_text() == server_conf("0.0.0.0", 4222, STORE_DIR)
