"""Whether what stands on a chain is what this program would put there: by doing it again and comparing.

The plan is carried out anew on an empty anvil with the same chain id and, by impersonation, the same owner.
The addresses are then the same, so the code at each must be the same to the byte, with libraries, immutables
and proxies as they are. Knows no contract by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chain import anvil
from services.chain.artifacts import Origin
from services.chain.contracts import plan_of
from services.chain.deployer import standing
from services.chain.manifest import Entry, Manifest
from services.chain.plan import Plan, Step, digest
from services.chain.recompile import COMPILERS, Recompiled, recompile
from services.chain.rpc import Rpc
from services.chain.transactions import receipt_of

STEP_WITHIN_S = 60.0
PLENTY_WEI = 10**24


class RebuildFailed(Exception):
    """rebuild_failed: the plan could not be carried out on an empty chain; the message names the step."""

    code = "rebuild_failed"


@dataclass(frozen=True)
class Finding:
    """One contract: `wrong` is empty when all is well."""

    name: str
    address: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """`setup`: steps whose effect does not hold (any more). `recompiled` is empty in the quick form."""

    chain_id: int
    contracts: tuple[Finding, ...]
    setup: tuple[str, ...]
    recompiled: tuple[Recompiled, ...]

    @property
    def well(self) -> bool:
        return not (
            self.setup
            or any(finding.wrong for finding in self.contracts)
            or any(made.differing for made in self.recompiled)
        )


async def verify(rpc: Rpc, manifest: Manifest, *, quick: bool = False) -> Verdict:
    """`quick` believes the artifacts; else they are compiled again first.

    Raises ArtifactMissing, CompileFailed, AnvilFailed, RebuildFailed, ChainAway.
    """
    usdc = manifest.contracts.get("USDC")
    foreign = usdc.address if usdc is not None and not usdc.origin else None
    plan = plan_of(manifest.owner, foreign)
    recompiled = () if quick else tuple([await _again(origin, plan) for origin in COMPILERS])
    undone = [step.title for step, done in zip(plan, await standing(rpc, plan), strict=True) if not done]
    if digest(plan) != manifest.plan:
        undone.append("the manifest is of another plan than this version's")
    async with anvil.running(chain_id=manifest.chain_id) as empty:
        await _rebuild(empty, plan, await rpc.code(foreign) if foreign else b"")
        findings = [await _compare(rpc, empty, name, plan, manifest) for name in plan.placed]
    unknown = [name for name in manifest.contracts if name not in plan.placed]
    findings += [Finding(name, manifest.at(name), ("not of this version",)) for name in unknown]
    return Verdict(manifest.chain_id, tuple(findings), tuple(undone), recompiled)


async def _again(origin: Origin, plan: Plan) -> Recompiled:
    names = {placed.artifact for placed in plan.placed.values() if placed.origin == origin}
    return await recompile(origin, names)


async def _rebuild(empty: Rpc, plan: Plan, foreign_code: bytes) -> None:
    await empty.ask("anvil_autoImpersonateAccount", True)
    await empty.ask("anvil_setBalance", plan.owner, hex(PLENTY_WEI))
    if foreign_code:
        await empty.ask("anvil_setCode", plan.at("USDC"), "0x" + foreign_code.hex())
    for step, done in zip(plan, await standing(empty, plan), strict=True):
        if not done:
            receipt = await receipt_of(empty, await _send(empty, plan.owner, step), STEP_WITHIN_S)
            if not receipt.succeeded:
                raise RebuildFailed(f"{step.title} was reverted")


async def _send(empty: Rpc, owner: str, step: Step) -> str:
    if step.presigned is not None:
        await empty.ask("anvil_setBalance", step.presigned.signer, hex(step.presigned.cost_wei))
        return await empty.send(step.presigned.raw)
    request = {"from": owner, "to": step.to, "data": "0x" + step.data.hex(), "gas": hex(12_000_000)}
    return str(await empty.ask("eth_sendTransaction", request))


async def _compare(rpc: Rpc, empty: Rpc, name: str, plan: Plan, manifest: Manifest) -> Finding:
    placed = plan.placed[name]
    there, here = await rpc.code(placed.address), await empty.code(placed.address)
    wrong = [*_listed(manifest.contracts.get(name), placed.address)]
    if not there:
        wrong.append("nothing stands there")
    elif there != here:
        first = next((at for at, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), None)
        at = min(len(there), len(here)) if first is None else first
        wrong.append(f"the code differs from byte {at} on ({len(there)} bytes there, {len(here)} here)")
    return Finding(name, placed.address, tuple(wrong))


def _listed(entry: Entry | None, address: str) -> Sequence[str]:
    if entry is None:
        return ("the manifest does not list it",)
    return () if entry.address == address else (f"the manifest says {entry.address}",)
