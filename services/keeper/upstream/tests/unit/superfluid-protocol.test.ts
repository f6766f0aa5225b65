import { createRequire } from "node:module";
import { ethers } from "ethers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { golden } from "../mocks/goldens";
import { chain, emits, reset } from "../mocks/platform";
import { ADMIN, HASH, MEMBER, POOL, TOKEN } from "../mocks/values";

vi.mock("server-only", () => ({}));
vi.mock("@/plugins/web3/steps/write-contract-core", async () => (await import("../mocks/platform")).writeModule);
vi.mock("@/lib/rpc/provider-factory", async () => (await import("../mocks/platform")).providerModule);

import superfluid, { NOT_YET, SUPERFLUID_DEPLOYMENTS } from "@/protocols/superfluid";
import { protocolWrite } from "@/plugins/protocol-write";

type Metadata = { chainId: number; contractsV1: Record<string, string> }[];
const metadata = (createRequire(import.meta.url)("@superfluid-finance/metadata") as { networks: Metadata }).networks;

const MAINNET = "1";
const AGREEMENT = SUPERFLUID_DEPLOYMENTS[MAINNET]?.gdaAgreement as string;
const abiOf = (contract: string): string => superfluid.contracts[contract]?.abi as string;
const CREATE = { token: TOKEN, admin: ADMIN, distributionFromAnyAddress: "true" };
const FLOW = { token: TOKEN, from: ADMIN, pool: POOL, flowRate: "1000000000001" };
const UNITS = { pool: POOL, member: MEMBER, units: "6250" };

function poolCreated(emitter: string, pool: string, admin = ADMIN): void {
  emits(emitter, abiOf("gdaAgreement"), "PoolCreated", [TOKEN, admin, pool]);
}

function flowUpdated(rate: number, pool = POOL): void {
  const args = [TOKEN, pool, ADMIN, ADMIN, 0, rate, rate, ADMIN, 0, "0x"];
  emits(AGREEMENT, abiOf("gdaAgreement"), "FlowDistributionUpdated", args);
}

beforeEach(reset);

describe("addresses", () => {
  it.each(Object.entries(SUPERFLUID_DEPLOYMENTS))("of chain %s are those of Superfluid's metadata", (id, ours) => {
    const theirs = metadata.find((network) => network.chainId === Number(id))?.contractsV1;
    expect(ours).toEqual({
      cfaForwarder: theirs?.cfaV1Forwarder,
      gdaForwarder: theirs?.gdaV1Forwarder,
      gdaAgreement: theirs?.gdaV1,
    });
  });

  it.each(Object.keys(NOT_YET))("chain %s, on which nobody deployed it with a source, is in no map", (id) => {
    expect(metadata.some((network) => network.chainId === Number(id))).toBe(false);
    for (const contract of Object.values(superfluid.contracts)) {
      expect(contract.addresses).not.toHaveProperty(id);
    }
  });

  it("a write on such a chain is refused before anything is sent", async () => {
    const result = await protocolWrite(superfluid, "create-pool", "16602", CREATE);
    expect(result).toMatchObject({ success: false, error: expect.stringContaining("not deployed") });
    expect(chain.writes).toEqual([]);
  });
});

describe("calldata is what cast makes", () => {
  it.each([
    ["create-pool", CREATE],
    ["update-member-units", UNITS],
    ["distribute-flow", FLOW],
  ])("%s", async (slug, inputs) => {
    await protocolWrite(superfluid, slug, MAINNET, inputs);
    const to = SUPERFLUID_DEPLOYMENTS[MAINNET]?.gdaForwarder;
    expect(chain.writes).toEqual([expect.objectContaining({ to, calldata: golden(slug) })]);
  });

  it.each([
    ["is-pool-member-connected", [POOL, MEMBER]],
    ["get-pool-distribution-flow-rate", [TOKEN, ADMIN, POOL]],
    ["get-pool-units", [MEMBER]],
    ["get-pool-total-units", []],
    ["get-pool-member-flow-rate", [MEMBER]],
    ["get-pool-total-flow-rate", []],
    ["get-pool-claimable", [MEMBER]],
  ])("%s, a read", (slug, args) => {
    const action = superfluid.actions.find((one) => one.slug === slug);
    expect(action?.type).toBe("read");
    const abi = new ethers.Interface(abiOf(action?.contract as string));
    expect(abi.encodeFunctionData(action?.function as string, args)).toBe(golden(slug));
  });
});

describe("event outputs", () => {
  it("create-pool outputs the pool", async () => {
    poolCreated(AGREEMENT, POOL);
    const result = await protocolWrite(superfluid, "create-pool", MAINNET, CREATE);
    expect(result).toMatchObject({ success: true, transactionHash: HASH, pool: ethers.getAddress(POOL) });
  });

  it("of a sponsored transaction only this call's events count", async () => {
    chain.outcomes.createPool = { sponsored: true };
    poolCreated(MEMBER, TOKEN); // a look-alike of a stranger's contract
    poolCreated(AGREEMENT, MEMBER, MEMBER); // another's call in the same bundle
    poolCreated(AGREEMENT, POOL);
    const result = await protocolWrite(superfluid, "create-pool", MAINNET, CREATE);
    expect(result).toMatchObject({ success: true, sponsored: true, pool: ethers.getAddress(POOL) });
  });

  it("two pools of the same terms in one transaction are not guessed between", async () => {
    poolCreated(AGREEMENT, POOL);
    poolCreated(AGREEMENT, MEMBER);
    const result = await protocolWrite(superfluid, "create-pool", MAINNET, CREATE);
    expect(result).toMatchObject({ success: true, eventOutputsError: expect.stringContaining("2 times") });
    expect(result).not.toHaveProperty("pool");
  });

  it("distribute-flow outputs the rate that was granted, not the one that was asked for", async () => {
    flowUpdated(5, MEMBER);
    flowUpdated(1_000_000_000_000);
    const result = await protocolWrite(superfluid, "distribute-flow", MAINNET, FLOW);
    expect(result).toMatchObject({ actualFlowRate: "1000000000000", oldFlowRate: "0", adjustmentFlowRate: "0" });
  });

  it("update-member-units outputs the units before and after, said by the pool itself", async () => {
    emits(AGREEMENT, abiOf("pool"), "MemberUnitsUpdated", [TOKEN, MEMBER, 1, 2]);
    emits(POOL, abiOf("pool"), "MemberUnitsUpdated", [TOKEN, MEMBER, 0, 6250]);
    const result = await protocolWrite(superfluid, "update-member-units", MAINNET, UNITS);
    expect(result).toMatchObject({ oldUnits: "0", newUnits: "6250" });
  });

  it("a mined transaction whose receipt cannot be read stays a success, so that it is not sent twice", async () => {
    chain.receipt = false;
    const result = await protocolWrite(superfluid, "create-pool", MAINNET, CREATE);
    expect(result).toMatchObject({ success: true, transactionHash: HASH, eventOutputsError: "RPC away" });
    expect(result).not.toHaveProperty("pool");
  });

  it("a revert has no outputs", async () => {
    chain.outcomes.createPool = { success: false, error: "GDA_NON_CRITICAL" };
    poolCreated(AGREEMENT, POOL);
    const result = await protocolWrite(superfluid, "create-pool", MAINNET, CREATE);
    expect(result).toMatchObject({ success: false, error: "GDA_NON_CRITICAL" });
    expect(result).not.toHaveProperty("pool");
  });
});

it("every action has a slug of its own", () => {
  const slugs = superfluid.actions.map((action) => action.slug);
  expect(new Set(slugs).size).toBe(slugs.length);
});
