"""What a node's decider decides."""

import pytest

from events import node
from events.node import node as decider
from tests.aggregates import registered
from tests.spec.scenario import given

ME = registered(1)
MEASURED = node.CapabilitiesMeasured(1_000_000, 12.5, "cpu", "2.15")
LOST = node.Lost(100)


def test_a_node_registers_once() -> None:
    given(decider).when(node.Register(ME)).then(ME)


def test_registering_again_with_the_same_keys_changes_nothing() -> None:
    relabelled = registered(1, label="other", receipt_key=ME.receipt_key.upper().replace("0X", "0x"))
    given(decider, ME).when(node.Register(relabelled)).nothing()


@pytest.mark.parametrize(
    "field", ["mesh_key", "nats_key", "receipt_key", "seal_key", "payout_wallet", "chain_id"]
)
def test_an_id_belongs_to_one_set_of_keys(field: str) -> None:
    value = 5 if field == "chain_id" else getattr(registered(2), field)
    other = registered(1, **{field: value})
    given(decider, ME).when(node.Register(other)).refused(node.NodeAlreadyRegistered)


@pytest.mark.parametrize(
    "command",
    [
        node.ReportCapabilities(1, 1.0, "cpu", "1"),
        node.Drain("x"),
        node.MarkLost(1),
        node.Recover(1),
        node.Retire("x"),
    ],
)
def test_an_unknown_node_can_do_nothing(command: node.NodeCommand) -> None:
    given(decider).when(command).refused(node.NodeUnknown)


def test_measurements_are_recorded_when_they_change() -> None:
    report = node.ReportCapabilities(1_000_000, 12.5, "cpu", "2.15")
    given(decider, ME).when(report).then(MEASURED)
    given(decider, ME, MEASURED).when(report).nothing()
    faster = node.ReportCapabilities(1_000_000, 13.0, "cpu", "2.15")
    state = (
        given(decider, ME, MEASURED)
        .when(faster)
        .then(node.CapabilitiesMeasured(1_000_000, 13.0, "cpu", "2.15"))
    )
    assert state.capabilities.matmul_gflops == 13.0


def test_a_silent_node_is_lost_once() -> None:
    given(decider, ME).when(node.MarkLost(100)).then(LOST)
    given(decider, ME, LOST).when(node.MarkLost(200)).nothing()


def test_only_a_later_sign_of_life_brings_a_node_back() -> None:
    given(decider, ME, LOST).when(node.Recover(100)).nothing()
    state = given(decider, ME, LOST).when(node.Recover(101)).then(node.Recovered(101))
    assert state.reachable
    given(decider, ME).when(node.Recover(101)).nothing()


def test_draining_is_said_once() -> None:
    state = given(decider, ME).when(node.Drain("upgrade")).then(node.Drained("upgrade"))
    assert state.draining
    given(decider, ME, node.Drained("upgrade")).when(node.Drain("again")).nothing()


def test_a_retired_node_stays_retired() -> None:
    gone = node.Retired("sold")
    state = given(decider, ME).when(node.Retire("sold")).then(gone)
    assert state == node.Gone(ME)
    given(decider, ME, gone).when(node.Retire("sold")).nothing()
    given(decider, ME, gone).when(node.Register(ME)).refused(node.NodeRetired)
    given(decider, ME, gone).when(node.MarkLost(1)).refused(node.NodeRetired)
