"""An operator consents to its nodes' seats from its own machine, in a contract that it has derived itself.

The contract's address follows from the pool's id and the terms, so neither the gateway nor whoever opens the
epoch can put another one in its place.
"""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec

from services.chain import manifest
from services.chain.artifacts import artifact
from services.chain.coalitions import CoalitionTerms, Seat, coalition_of
from services.chain.contract import Contract
from services.chain.networks import network_of
from services.chain.rpc import connected
from services.coalition_opening import is_local, plan_of, seats_of, terms_of
from services.gateway_rest import checked, client
from services.node_keys import NodeKeys
from services.seat_signing import SignedSeat, sign_seat
from services.settings import Settings


class ConsentNotGiven(Exception):
    """consent_not_given: nothing was signed; the message says why."""

    code = "consent_not_given"
    remedy = (
        "Compare the terms with whoever opens the pool's epoch: computepool operator consent --terms FILE"
    )


class Consenting:
    """What an operator would sign: look at it, then `give` it. Made by `consenting`.

    Without `signed` there is nothing to sign at present: `why_nothing`.
    """

    def __init__(
        self, rest: httpx.AsyncClient, pool: dict[str, Any], terms: CoalitionTerms, coalition: str,
        signed: tuple[SignedSeat, ...] = (), why_nothing: str = "",
    ) -> None:  # fmt: skip
        self._rest, self.pool, self.terms, self.coalition, self.signed = rest, pool, terms, coalition, signed
        self.why_nothing = why_nothing

    async def give(self) -> list[dict[str, Any]]:
        """The gateway's answers, one for each node. Raises GatewayRefused."""
        path, params = f"/pools/{self.pool['pool_id']}/consents", {"epoch": plan_of(self.pool)}
        return [
            checked(await self._rest.post(path, params=params, content=msgspec.json.encode(one)))
            for one in self.signed
        ]


async def consenting(
    stack: AsyncExitStack,
    settings: Settings,
    token: str,
    pool_id: str,
    node_dirs: Sequence[Path],
    terms_file: Path | None = None,
) -> Consenting:
    """The seats of the pool's plan that belong to nodes in `node_dirs`, signed but not yet sent.

    Raises ConsentNotGiven, CoalitionNotOpened, GatewayRefused, ChainAway.
    """
    if settings.chain_rpc_url is None:
        raise ConsentNotGiven("CHAIN_RPC_URL is needed, or a running local stack")
    rest = await stack.enter_async_context(client(settings.public_url, token))
    rpc = await stack.enter_async_context(connected(settings.chain_rpc_url))
    pool = checked(await rest.get(f"/pools/{pool_id}"))
    network = network_of(await rpc.chain_id())
    local = terms_file is None and is_local(network)
    steward = checked(await rest.get("/keeper"))["wallet"] if local else ""
    terms = terms_of(terms_file, network, settings, steward, deterministic=bool(pool["deterministic"]))
    known = manifest.read(settings.manifest_of(network.chain_id))
    place = coalition_of(known, pool_id, terms)
    if pool["coalition"] is not None and pool["coalition"].lower() != place.address.lower():
        raise ConsentNotGiven(f"these terms are those of {place.address}; the pool's is {pool['coalition']}")
    if not await rpc.code(place.address):
        why = f"the coalition of these terms does not stand yet ({place.address}): open-coalition puts it up"
        return Consenting(rest, pool, terms, place.address, why_nothing=why)
    held = {keys.node_id: keys for keys in map(NodeKeys.load_or_make, node_dirs)}
    mine = own_seats(await seats_of(rest, pool), held)
    if not mine:
        why = f"no node of plan {plan_of(pool)} has its payout key here: --dir DIRECTORY"
        return Consenting(rest, pool, terms, place.address, why_nothing=why)
    contract = Contract(artifact("Coalition"), place.address)
    signed = [await sign_seat(rpc, known, contract, seat, held[seat.node_id].payout) for seat in mine]
    return Consenting(rest, pool, terms, place.address, tuple(signed))


def own_seats(seats: Sequence[Seat], held: Mapping[str, NodeKeys]) -> list[Seat]:
    """Those of the nodes whose keys are `held` (by node id). Raises ConsentNotGiven.

    A seat that names another's receipt key would answer with this operator's bond for what that key signs.
    """
    mine = [seat for seat in seats if seat.node_id in held]
    for seat in mine:
        keys = held[seat.node_id]
        for what, shown, own in (
            ("receipt key", seat.receipt_key, keys.receipt_key),
            ("payout wallet", seat.operator, keys.payout_wallet),
        ):
            if shown.lower() != own.lower():
                raise ConsentNotGiven(
                    f"the gateway shows {shown} as {what} of node {seat.node_id}, not {own}"
                )
    return mine
