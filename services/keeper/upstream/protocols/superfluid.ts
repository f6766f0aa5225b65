/**
 * Superfluid: what this delta adds to the protocol that is registered under the same slug.
 *
 * 1. Addresses by chain in one map, in the place of one address for all chains, with the agreement beside the
 *    forwarders because it, not the forwarder, emits the events.
 * 2. Pool reads, so that a workflow can look at units and connections before it changes them.
 * 3. Event outputs of the three pool writes (see lib/abi/event-outputs.ts).
 * 4. The agreement's events as triggers.
 *
 * Slugs and config keys of the three writes are the registered ones.
 */
import { defineAbiProtocol, type ProtocolDefinition } from "@/lib/protocol-registry";

export type SuperfluidDeployment = {
  cfaForwarder: string;
  gdaForwarder: string;
  /** GeneralDistributionAgreementV1: emits PoolCreated and FlowDistributionUpdated. */
  gdaAgreement: string;
};

const CANONICAL = {
  cfaForwarder: "0xcfA132E353cB4E398080B9700609bb008eceB125",
  gdaForwarder: "0x6DA13Bde224A05a288748d857b9e7DDEffd1dE08",
};

/** Source: @superfluid-finance/metadata 1.6.4, networks[].contractsV1; a test compares every entry. */
export const SUPERFLUID_DEPLOYMENTS: Readonly<Record<string, SuperfluidDeployment>> = {
  "1": { ...CANONICAL, gdaAgreement: "0xAAdBB3Eee3Bd080f5353d86DdF1916aCA3fAC842" },
  "10": { ...CANONICAL, gdaAgreement: "0x68Ae17fa7a31b86F306c383277552fd4813b0d35" },
  "56": { ...CANONICAL, gdaAgreement: "0x3bbFA4C406719424C7f66CD97A8Fe27Af383d3e2" },
  "137": { ...CANONICAL, gdaAgreement: "0x961dd5A052741B49B6CBf6759591f9D8576fCFb0" },
  "8453": { ...CANONICAL, gdaAgreement: "0xfE6c87BE05feDB2059d2EC41bA0A09826C9FD7aa" },
  "42161": { ...CANONICAL, gdaAgreement: "0x1e299701792a2aF01408B122419d65Fd2dF0Ba02" },
  "43114": { ...CANONICAL, gdaAgreement: "0xA7b197cD5b0cEF6d62c4A0a851E3581f5E62e4D2" },
  "11155111": { ...CANONICAL, gdaAgreement: "0x9823364056BcA85Dc3c4a3b96801314D082C8Eb9" },
};

/**
 * Chains that are asked for and are not in the map. A chain enters it only with a deployment whose bytecode was
 * compared with Superfluid's and whose addresses have a source that others can check; no guess stands here.
 */
export const NOT_YET: Readonly<Record<string, string>> = {
  "16602": "0G Galileo: not yet, needs a verified and sourced deployment of the protocol",
  "16661": "0G mainnet: not yet, needs a verified and sourced deployment of the protocol",
};

type Deployments = Readonly<Record<string, SuperfluidDeployment>>;

function addresses(deployments: Deployments, contract: keyof SuperfluidDeployment): Record<string, string> {
  return Object.fromEntries(
    Object.entries(deployments).map(([chainId, deployed]) => [chainId, deployed[contract]])
  );
}

type Param = { name: string; type: string; indexed?: boolean; components?: Param[] };

function param(name: string, type: string): Param {
  return { name, type };
}

function callable(name: string, stateMutability: "view" | "nonpayable", inputs: Param[], outputs: Param[]): object {
  return { type: "function", name, stateMutability, inputs, outputs };
}

function emitted(name: string, indexed: Param[], others: Param[]): object {
  return {
    type: "event",
    name,
    anonymous: false,
    inputs: [
      ...indexed.map((input) => ({ ...input, indexed: true })),
      ...others.map((input) => ({ ...input, indexed: false })),
    ],
  };
}

const TOKEN = param("token", "address");
const POOL = param("pool", "address");
const MEMBER = param("member", "address");
const USER_DATA = param("userData", "bytes");

// Writes have no outputs here, as in the registered definition: what they return is not available to later nodes.
const GDA_FORWARDER_ABI = JSON.stringify([
  callable(
    "createPool",
    "nonpayable",
    [
      TOKEN,
      param("admin", "address"),
      {
        name: "config",
        type: "tuple",
        components: [
          param("transferabilityForUnitsOwner", "bool"),
          param("distributionFromAnyAddress", "bool"),
        ],
      },
    ],
    []
  ),
  callable("updateMemberUnits", "nonpayable", [POOL, MEMBER, param("units", "uint128"), USER_DATA], []),
  callable(
    "distributeFlow",
    "nonpayable",
    [TOKEN, param("from", "address"), POOL, param("flowRate", "int96"), USER_DATA],
    []
  ),
  callable("isMemberConnected", "view", [POOL, MEMBER], [param("", "bool")]),
  callable(
    "getFlowDistributionFlowRate",
    "view",
    [TOKEN, param("from", "address"), param("to", "address")],
    [param("", "int96")]
  ),
]);

const POOL_ABI = JSON.stringify([
  callable("getUnits", "view", [MEMBER], [param("", "uint128")]),
  callable("getTotalUnits", "view", [], [param("", "uint128")]),
  callable("getMemberFlowRate", "view", [MEMBER], [param("", "int96")]),
  callable("getTotalFlowRate", "view", [], [param("", "int96")]),
  callable(
    "getClaimableNow",
    "view",
    [MEMBER],
    [param("claimableBalance", "int256"), param("timestamp", "uint256")]
  ),
  emitted(
    "MemberUnitsUpdated",
    [TOKEN, MEMBER],
    [param("oldUnits", "uint128"), param("newUnits", "uint128")]
  ),
]);

const GDA_AGREEMENT_ABI = JSON.stringify([
  emitted("PoolCreated", [TOKEN, param("admin", "address")], [POOL]),
  emitted(
    "FlowDistributionUpdated",
    [TOKEN, POOL, param("distributor", "address")],
    [
      param("operator", "address"),
      param("oldFlowRate", "int96"),
      param("newDistributorToPoolFlowRate", "int96"),
      param("newTotalDistributionFlowRate", "int96"),
      param("adjustmentFlowRecipient", "address"),
      param("adjustmentFlowRate", "int96"),
      USER_DATA,
    ]
  ),
]);

const USER_DATA_FIELD = { label: "User Data", default: "0x", advanced: true };
const TOKEN_FIELD = { label: "SuperToken Address" };
const POOL_FIELD = { label: "Pool Address" };
const MEMBER_FIELD = { label: "Member Address" };

/** The protocol on other deployments too, such as a local chain's. */
export function superfluidOn(deployments: Deployments): ProtocolDefinition {
  return defineAbiProtocol({
    name: "Superfluid",
    slug: "superfluid",
    contracts: {
      gdaForwarder: {
        label: "Superfluid GDAv1 Forwarder",
        abi: GDA_FORWARDER_ABI,
        addresses: addresses(deployments, "gdaForwarder"),
        overrides: {
          createPool: {
            label: "Create Distribution Pool",
            description:
              "Create a pool that shares what is streamed or sent into it among its members by their units. Outputs the pool's address.",
            inputs: {
              token: TOKEN_FIELD,
              admin: { label: "Pool Admin Address" },
              transferabilityForUnitsOwner: { label: "Members May Transfer Units", default: "false" },
              distributionFromAnyAddress: { label: "Anyone May Distribute", default: "false" },
            },
            eventOutputs: {
              event: "PoolCreated",
              abiOf: "gdaAgreement",
              emitter: { contract: "gdaAgreement" },
              match: { token: "token", admin: "admin" },
              take: "only",
              fields: { pool: { name: "pool", label: "Pool Address" } },
            },
          },
          updateMemberUnits: {
            label: "Set Member Units in a Pool",
            description: "Set a member's share of a pool. Outputs the units before and after.",
            inputs: { pool: POOL_FIELD, member: MEMBER_FIELD, units: { label: "Units" }, userData: USER_DATA_FIELD },
            eventOutputs: {
              event: "MemberUnitsUpdated",
              abiOf: "pool",
              emitter: { input: "pool" },
              match: { member: "member" },
              take: "last",
              fields: {
                oldUnits: { name: "oldUnits", label: "Units Before" },
                newUnits: { name: "newUnits", label: "Units Now" },
              },
            },
          },
          distributeFlow: {
            label: "Stream Into a Pool",
            description:
              "Open, change or (with 0) close a stream into a pool. The rate that flows may be below the requested one, because it must divide by the units: use the output actualFlowRate.",
            inputs: {
              token: TOKEN_FIELD,
              from: { label: "Sender Address" },
              pool: POOL_FIELD,
              flowRate: { label: "Flow Rate (wei/sec)" },
              userData: USER_DATA_FIELD,
            },
            eventOutputs: {
              event: "FlowDistributionUpdated",
              abiOf: "gdaAgreement",
              emitter: { contract: "gdaAgreement" },
              match: { token: "token", pool: "pool", distributor: "from" },
              take: "last",
              fields: {
                newDistributorToPoolFlowRate: { name: "actualFlowRate", label: "Flow Rate Now (wei/sec)" },
                oldFlowRate: { name: "oldFlowRate", label: "Flow Rate Before (wei/sec)" },
                newTotalDistributionFlowRate: {
                  name: "totalFlowRate",
                  label: "All Distributors' Flow Rate (wei/sec)",
                },
                adjustmentFlowRate: { name: "adjustmentFlowRate", label: "Adjustment Flow Rate (wei/sec)" },
              },
            },
          },
          isMemberConnected: {
            slug: "is-pool-member-connected",
            label: "Read Whether a Member Is Connected",
            description: "Whether the member's balance moves with the pool; if not, it has to claim.",
            inputs: { pool: POOL_FIELD, member: MEMBER_FIELD },
            outputs: { result: { name: "connected", label: "Connected" } },
          },
          getFlowDistributionFlowRate: {
            slug: "get-pool-distribution-flow-rate",
            label: "Read the Rate of a Stream Into a Pool",
            description: "Wei per second that one sender streams into a pool.",
            inputs: { token: TOKEN_FIELD, from: { label: "Sender Address" }, to: POOL_FIELD },
            outputs: { result: { name: "flowRate", label: "Flow Rate (wei/sec)" } },
          },
        },
      },
      pool: {
        label: "Superfluid Pool",
        abi: POOL_ABI,
        addresses: {},
        userSpecifiedAddress: true,
        overrides: {
          getUnits: {
            slug: "get-pool-units",
            label: "Read a Member's Units",
            description: "A member's share of the pool; 0 for who is none.",
            inputs: { member: MEMBER_FIELD },
            outputs: { result: { name: "units", label: "Units" } },
          },
          getTotalUnits: {
            slug: "get-pool-total-units",
            label: "Read a Pool's Total Units",
            description: "The units of all members. With 0, what is streamed goes back to the sender.",
            outputs: { result: { name: "totalUnits", label: "Total Units" } },
          },
          getMemberFlowRate: {
            slug: "get-pool-member-flow-rate",
            label: "Read a Member's Flow Rate",
            description: "Wei per second that the member gets from the pool now.",
            inputs: { member: MEMBER_FIELD },
            outputs: { result: { name: "flowRate", label: "Flow Rate (wei/sec)" } },
          },
          getTotalFlowRate: {
            slug: "get-pool-total-flow-rate",
            label: "Read a Pool's Flow Rate",
            description: "Wei per second that all members get together.",
            outputs: { result: { name: "flowRate", label: "Flow Rate (wei/sec)" } },
          },
          getClaimableNow: {
            slug: "get-pool-claimable",
            label: "Read What a Member Can Claim",
            description: "What a member that is not connected could claim now, in wei, and the second of it.",
            inputs: { member: MEMBER_FIELD },
            outputs: { claimableBalance: { label: "Claimable (wei)", decimals: 18 } },
          },
        },
        events: {
          MemberUnitsUpdated: {
            slug: "pool-member-units-updated",
            label: "Pool Member Units Updated",
            description: "Fires when a member's units in the pool change",
          },
        },
      },
      gdaAgreement: {
        label: "Superfluid GDAv1 Agreement",
        abi: GDA_AGREEMENT_ABI,
        addresses: addresses(deployments, "gdaAgreement"),
        events: {
          PoolCreated: {
            slug: "pool-created",
            label: "Pool Created",
            description: "Fires when a distribution pool comes to be",
          },
          FlowDistributionUpdated: {
            slug: "flow-distribution-updated",
            label: "Flow Distribution Updated",
            description: "Fires when a stream into a pool starts, changes or ends",
          },
        },
      },
    },
  });
}

export default superfluidOn(SUPERFLUID_DEPLOYMENTS);
