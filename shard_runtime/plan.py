"""Who stands where in one pool's ring at one epoch; knows nothing of frames, of weights or of requests."""

from dataclasses import dataclass

from shard_runtime.messages import LoadSlice, PlanMember

SENDER_HEX = 26
"""Leading hex digits of a sender's key that a stock mesh node can tell; our own node tells all 64."""


class PlanInvalid(Exception):
    """plan_invalid: the plan's members do not make a ring with this node in it; propose the pool again."""

    code = "plan_invalid"


@dataclass(frozen=True)
class Plan:
    """The ring as one member sees it. Stage 0 is the entry, the last stage the exit (the same when alone)."""

    pool_id: str
    epoch: int
    members: tuple[PlanMember, ...]
    me: int

    @property
    def my_key(self) -> str:
        return self.members[self.me].mesh_key

    @property
    def receipt_keys(self) -> tuple[str, ...]:
        """The addresses that sign frames, by stage."""
        return tuple(member.receipt_key for member in self.members)

    @property
    def is_entry(self) -> bool:
        return self.me == 0

    @property
    def is_exit(self) -> bool:
        return self.me == len(self.members) - 1

    def key(self, stage: int) -> str:
        return self.members[stage].mesh_key

    def stage_of(self, mesh_key: str) -> int | None:
        for stage, member in enumerate(self.members):
            if member.mesh_key == mesh_key:
                return stage
        return None

    @property
    def upstream(self) -> int:
        """The stage whose hidden states (or, at the entry, tokens) this one takes."""
        return (self.me - 1) % len(self.members)

    @property
    def downstream(self) -> int:
        return (self.me + 1) % len(self.members)

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(stage for stage in range(len(self.members)) if stage != self.me)


def same_sender(claimed_key: str, seen_by_mesh: str) -> bool:
    """Does the key in the frame agree with the mesh's own account of the sender, as far as that goes?"""
    return len(seen_by_mesh) >= SENDER_HEX and claimed_key[:SENDER_HEX] == seen_by_mesh[:SENDER_HEX].lower()


def plan_of(command: LoadSlice, node_id: str, peer_id: str, receipt_address: str) -> Plan:
    """The ring of `command` as this node sees it. Raises PlanInvalid."""
    members = command.members
    me = next((stage for stage, member in enumerate(members) if member.node_id == node_id), None)
    if me is None:
        raise PlanInvalid(f"{node_id} is not a member")
    if members[me].mesh_key != peer_id:
        raise PlanInvalid(f"{node_id} stands with another mesh key than that of its mesh node")
    if members[me].receipt_key.lower() != receipt_address:
        raise PlanInvalid(f"{node_id} stands with another receipt key than its own")
    if len({member.mesh_key for member in members}) != len(members):
        raise PlanInvalid("two members have the same mesh key")
    ends = [0, *(member.end_layer for member in members)]
    if any(member.first_layer != end for member, end in zip(members, ends, strict=False)):
        raise PlanInvalid("the members' layer ranges do not follow each other")
    return Plan(command.pool_id, command.epoch, members, me)
