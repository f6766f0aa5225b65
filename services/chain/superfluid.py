"""The whole Superfluid framework as steps of a plan, in the order its own deployer uses.

The host is made non-upgradable, so that neither it nor its agreements nor the token factory can be replaced.
Source of the order: SuperfluidFrameworkDeploymentSteps in the package. Knows no contract of ours but Genesis.
"""

from services.chain import abi
from services.chain.addresses import DETERMINISTIC_PROXY, create, salt_of
from services.chain.artifacts import PLACES, Artifact, artifact, read_json
from services.chain.plan import (
    Answers,
    HasCode,
    Placed,
    Plan,
    Presigned,
    Slot,
    Step,
    is_address,
    is_true,
    view,
)

CALLBACK_GAS_LIMIT = 3_000_000
DEFAULT_PERIODS_S = (4 * 3600, 30 * 60)
"""Liquidation and patrician period of tokens for which nobody sets others; Superfluid's own defaults."""
PERIODS_S = (600, 120)
"""Those of USDCx: a small voucher must not be eaten up by the buffer (liquidation period times rate)."""
SEMI_UPGRADABLE = 1
EXCLUSIVE_ADMIN = salt_of("ACL_POOL_CONNECT_EXCLUSIVE_ROLE_ADMIN")
EXCLUSIVE = salt_of("ACL_POOL_CONNECT_EXCLUSIVE_ROLE")
NOBODY = "0x" + "00" * 20

PROXY_DEPLOYMENT = Presigned(
    bytes.fromhex(
        "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffff"
        "ffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
        "1ba0" + "22" * 32 + "a0" + "22" * 32
    ),
    "0x3fAB184622Dc19b6109349B94811493BF2a45362",
    10**16,
)
"""The one transaction that puts the deterministic proxy on any chain."""
REGISTRY = "0x1820a4B7618BdE71Dce8cdc73aAB6C95905faD24"
REGISTRY_SIGNER = "0xa990077c3205cbDf861e17Fa532eeB069cE9fF96"
REGISTRY_COST_WEI = 8 * 10**16


def _of(name: str) -> Artifact:
    return artifact(name, "superfluid")


def registry_deployment() -> Presigned:
    """The one transaction that puts the ERC-1820 registry on any chain (EIP-1820)."""
    code = bytes.fromhex(read_json(PLACES["superfluid"] / "ERC1820Registry.json")["bin"])
    head, tail = "f90a388085174876e800830c35008080b909e5", "1ba0" + "1820" * 16 + "a0" + "1820" * 16
    raw = bytes.fromhex(head) + code + bytes.fromhex(tail)
    return Presigned(raw, REGISTRY_SIGNER, REGISTRY_COST_WEI)


def plan_framework(plan: Plan) -> None:
    """Everything up to the token factory. Leaves the names that `Plan.at` knows."""
    proxy = DETERMINISTIC_PROXY
    plan.steps.append(Step("create the CREATE2 proxy", "", b"", HasCode(proxy), PROXY_DEPLOYMENT))
    plan.steps.append(Step("create ERC1820Registry", "", b"", HasCode(REGISTRY), registry_deployment()))
    plan.made(Placed("ERC1820Registry", REGISTRY, "ERC1820Registry", None, "presigned"))
    slots = plan.by_proxy("SlotsBitmapLibrary", _of("SlotsBitmapLibrary"))
    pool_maker = plan.by_proxy("SuperfluidPoolDeployerLibrary", _of("SuperfluidPoolDeployerLibrary"))
    plan.begin()
    host, governance = _host(plan)
    gda = _agreements(plan, host, governance, slots, pool_maker)
    _forwarders(plan, host, governance)
    _tokens(plan, host, governance, gda)
    _lookup(plan, host, governance)


def _host(plan: Plan) -> tuple[str, str]:
    governance = plan.create("Governance", _of("TestGovernance"))
    simple = plan.create("SimpleForwarder", _of("SimpleForwarder"))
    signed = plan.create("ERC2771Forwarder", _of("ERC2771Forwarder"))
    acl = plan.create("SimpleACL", _of("SimpleACL"))
    host = plan.create("Host", _of("Superfluid"), True, False, CALLBACK_GAS_LIMIT, simple, signed, acl)
    for name, forwarder in (("SimpleForwarder", simple), ("ERC2771Forwarder", signed)):
        plan.call(
            f"give {name} to the host",
            forwarder,
            "transferOwnership(address)",
            host,
            done=is_address(forwarder, "owner()", expected=host),
        )
    plan.call(
        "give the host its governance",
        host,
        "initialize(address)",
        governance,
        done=is_address(host, "getGovernance()", expected=governance),
    )
    plan.call(
        "set the governance's defaults",
        governance,
        "initialize(address,address,uint256,uint256,address[])",
        host,
        plan.genesis,
        *DEFAULT_PERIODS_S,
        [],
        done=_periods(governance, host, NOBODY, DEFAULT_PERIODS_S),
    )
    return host, governance


def _agreements(plan: Plan, host: str, governance: str, slots: str, pool_maker: str) -> str:
    cfa = plan.create("CFAv1", _of("ConstantFlowAgreementV1"), host)
    ida = plan.create(
        "IDAv1", _of("InstantDistributionAgreementV1"), host, libraries={"SlotsBitmapLibrary": slots}
    )
    bootstrap = plan.create("BootstrapPool", _of("SuperfluidPool"), NOBODY)
    beacon = plan.create("PoolBeacon", _of("SuperfluidUpgradeableBeacon"), bootstrap)
    gda = plan.create(
        "GDAv1",
        _of("GeneralDistributionAgreementV1"),
        host,
        beacon,
        libraries={"SlotsBitmapLibrary": slots, "SuperfluidPoolDeployerLibrary": pool_maker},
    )
    for name, agreement in (("CFAv1", cfa), ("IDAv1", ida), ("GDAv1", gda)):
        plan.call(
            f"register {name}",
            governance,
            "registerAgreementClass(address,address)",
            host,
            agreement,
            done=is_true(host, "isAgreementClassListed(address)", agreement),
        )
    pool = plan.create("PoolLogic", _of("SuperfluidPool"), gda)
    plan.call("lock PoolLogic", pool, "castrate()", done=Slot(pool, 0, 1))
    plan.call(
        "point PoolBeacon at PoolLogic",
        beacon,
        "upgradeTo(address)",
        pool,
        done=is_address(beacon, "implementation()", expected=pool),
    )
    plan.call(
        "give PoolBeacon to the host",
        beacon,
        "transferOwnership(address)",
        host,
        done=is_address(beacon, "owner()", expected=host),
    )
    acl = plan.at("SimpleACL")
    plan.call(
        "name who admits exclusive pools",
        acl,
        "setRoleAdmin(bytes32,bytes32)",
        EXCLUSIVE,
        EXCLUSIVE_ADMIN,
        done=view(acl, "getRoleAdmin(bytes32)", EXCLUSIVE, answers=(("bytes32",), (EXCLUSIVE_ADMIN,))),
    )
    plan.call(
        "let GDAv1 admit exclusive pools",
        acl,
        "grantRole(bytes32,address)",
        EXCLUSIVE_ADMIN,
        gda,
        done=is_true(acl, "hasRole(bytes32,address)", EXCLUSIVE_ADMIN, gda),
    )
    return gda


def _forwarders(plan: Plan, host: str, governance: str) -> None:
    for name in (
        "CFAv1Forwarder",
        "GDAv1Forwarder",
        "BlindMacroForwarder",
        "ClearMacroForwarderV1WithPermit2",
    ):
        forwarder = plan.create(name, _of(name), host)
        plan.call(
            f"trust {name}",
            governance,
            "enableTrustedForwarder(address,address,address)",
            host,
            NOBODY,
            forwarder,
            done=is_true(governance, "isTrustedForwarder(address,address,address)", host, NOBODY, forwarder),
        )


def _tokens(plan: Plan, host: str, governance: str, gda: str) -> None:
    logic = plan.create("PoolAdminNFTLogic", _of("PoolAdminNFT"), host, gda)
    plan.call("lock PoolAdminNFTLogic", logic, "castrate()", done=Slot(logic, 0, 1))
    nft = plan.create("PoolAdminNFT", _of("UUPSProxy"))
    plan.call(
        "point PoolAdminNFT at its logic",
        nft,
        "initializeProxy(address)",
        logic,
        done=is_address(nft, "getCodeAddress()", expected=logic),
    )
    plan.call(
        "name PoolAdminNFT",
        nft,
        "initialize(string,string)",
        "Pool Admin NFT",
        "PA",
        done=view(nft, "symbol()", answers=(("string",), ("PA",))),
    )
    token = plan.create("SuperTokenLogic", _of("SuperToken"), host, nft)
    factory = plan.create("SuperTokenFactory", _of("SuperTokenFactory"), host, token, logic, NOBODY)
    plan.call(
        "give the host its token factory",
        governance,
        "updateContracts(address,address,address[],address,address)",
        host,
        NOBODY,
        [],
        factory,
        NOBODY,
        done=is_address(host, "getSuperTokenFactory()", expected=factory),
    )


def _lookup(plan: Plan, host: str, governance: str) -> None:
    """What Superfluid's own tools look for; no contract depends on it."""
    resolver = plan.create("Resolver", _of("Resolver"))
    loader = plan.create("SuperfluidLoader", _of("SuperfluidLoader"), resolver)
    plan.create("BatchLiquidator", _of("BatchLiquidator"), host)
    named = {
        "Superfluid.v1": host,
        "Governance.v1": governance,
        "SuperfluidLoader-v1": loader,
        "CFAv1Forwarder": plan.at("CFAv1Forwarder"),
        "GDAv1Forwarder": plan.at("GDAv1Forwarder"),
    }
    for name, address in named.items():
        plan.call(
            f"list {name}",
            resolver,
            "set(string,address)",
            name,
            address,
            done=is_address(resolver, "get(string)", name, expected=address),
        )


def plan_wrapper(plan: Plan, name: str, underlying: str, decimals: int, label: str, symbol: str) -> str:
    """A super token over `underlying`, the first that the factory makes (so its address is known)."""
    host, governance, factory = plan.at("Host"), plan.at("Governance"), plan.at("SuperTokenFactory")
    token = create(factory, 1)
    plan.call(
        f"create {name}",
        factory,
        "createERC20Wrapper(address,uint8,uint8,string,string)",
        underlying,
        decimals,
        SEMI_UPGRADABLE,
        label,
        symbol,
        done=is_address(token, "getUnderlyingToken()", expected=underlying),
    )
    plan.made(Placed(name, token, "UUPSProxy", "superfluid", "SuperTokenFactory", logic="SuperTokenLogic"))
    plan.call(
        f"set the buffer of {name}",
        governance,
        "setPPPConfig(address,address,uint256,uint256)",
        host,
        token,
        *PERIODS_S,
        done=_periods(governance, host, token, PERIODS_S),
    )
    return token


def _periods(governance: str, host: str, token: str, periods_s: tuple[int, int]) -> Answers:
    return Answers(
        governance,
        abi.call("getPPPConfig(address,address)", host, token),
        abi.encode(("uint256", "uint256"), *periods_s),
    )
