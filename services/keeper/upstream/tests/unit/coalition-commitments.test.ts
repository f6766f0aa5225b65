import { readdirSync } from "node:fs";
import { ethers } from "ethers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { golden } from "../mocks/goldens";
import { chain, emits, Refusal, reset } from "../mocks/platform";
import { COALITION, FACTORY, POOL, SESSION, VOTERS, word } from "../mocks/values";

vi.mock("server-only", () => ({}));
vi.mock("@/plugins/web3/steps/write-contract-core", async () => (await import("../mocks/platform")).writeModule);
vi.mock("@/plugins/web3/steps/read-contract-core", async () => (await import("../mocks/platform")).readModule);
vi.mock("@/lib/rpc/provider-factory", async () => (await import("../mocks/platform")).providerModule);
vi.mock("@/plugins/web3/steps/sign-typed-data-core", () => ({
  signTypedDataCore: async (input: { typedData: SignedData }) => {
    signed.push(input.typedData);
    return await signing();
  },
}));

import plugin from "@/plugins/coalition";
import { BREACH_TYPES, COALITION_ABI, COALITION_FACTORY_ABI, domainOf } from "@/plugins/coalition/contracts/abi";
import { activateStep } from "@/plugins/coalition/steps/activate";
import { breachStep } from "@/plugins/coalition/steps/breach";
import { checkStatusStep } from "@/plugins/coalition/steps/check-status";
import { proposeStep } from "@/plugins/coalition/steps/propose";
import { signStep } from "@/plugins/coalition/steps/sign";
import { slashStep } from "@/plugins/coalition/steps/slash";

type SignedData = { domain: object; primaryType: string; types: Record<string, ethers.TypedDataField[]>; message: object };
const signed: SignedData[] = [];
let signing: () => Promise<object>;

const OPERATOR = ethers.getAddress(VOTERS[0] as string);
const RECEIPT_KEY = ethers.getAddress(`0x${"d2".repeat(20)}`);
const seat = { operator: OPERATOR, units: "10000", node: word("d1"), receiptKey: RECEIPT_KEY };
const row = [OPERATOR, "10000", word("d1"), RECEIPT_KEY];
const breach = {
  session: SESSION, operator: OPERATOR, kind: "STALL", amount: "50000", evidenceHash: word("d3"), failedProbes: "3",
  probeWindow: "600", deadline: "1900000000",
};
const base = { network: "1", coalition: COALITION };

beforeEach(() => {
  reset();
  signed.length = 0;
  signing = () => Promise.resolve({ success: true, signature: "0x1234", signer: OPERATOR });
});

describe("propose", () => {
  const input = { network: "1", factory: FACTORY, salt: word("04"), initCode: "0x6001600255" };

  beforeEach(() => {
    chain.answers.addressOf = COALITION;
  });

  it.each([false, true])("puts it up at the address that follows from its terms (sponsored: %s)", async (sponsored) => {
    chain.outcomes.propose = { sponsored };
    emits(FACTORY, COALITION_FACTORY_ABI, "CoalitionProposed", [word("04"), COALITION, OPERATOR]);
    const result = await proposeStep(input);
    expect(result).toMatchObject({ success: true, coalition: ethers.getAddress(COALITION), alreadyProposed: false, sponsored });
    expect(chain.writes).toEqual([expect.objectContaining({ calldata: golden("propose") })]);
  });

  it("finds it standing there and sends nothing", async () => {
    chain.code = "0x60";
    expect(await proposeStep(input)).toMatchObject({ success: true, alreadyProposed: true });
    expect(chain.writes).toEqual([]);
  });

  it("refuses what is no code", async () => {
    expect(await proposeStep({ ...input, initCode: "0x123" })).toMatchObject({ success: false });
  });

  it("says what the contract refused", async () => {
    chain.outcomes.propose = { success: false, error: "CreationFailed()" };
    expect(await proposeStep(input)).toEqual({ success: false, error: "propose: CreationFailed()" });
  });
});

describe("sign", () => {
  const input = { ...base, units: "10000", node: word("d1"), receiptKey: RECEIPT_KEY };

  it("consents to a seat in the next epoch", async () => {
    chain.answers.epoch = "4";
    expect(await signStep(input)).toEqual({ success: true, consent: "0x1234", operator: OPERATOR, epoch: "5" });
    expect(signed[0]).toMatchObject({
      primaryType: "Accept",
      domain: { name: "ComputePool Coalition", chainId: 1, verifyingContract: ethers.getAddress(COALITION) },
      message: { epoch: "5", units: "10000", node: word("d1"), receiptKey: RECEIPT_KEY },
    });
    expect(chain.writes).toEqual([]);
  });

  it("has no consent when the wallet refuses", async () => {
    chain.answers.epoch = "0";
    signing = () => Promise.resolve({ success: false, error: "policy", code: "POLICY_BLOCKED" });
    expect(await signStep(input)).toEqual({ success: false, error: "policy" });
  });

  it("refuses a seat without a node", async () => {
    expect(await signStep({ ...input, node: "north" })).toMatchObject({ success: false, error: expect.stringContaining("node") });
  });
});

describe("check-status and activate", () => {
  const input = { ...base, seats: JSON.stringify([seat]), consents: '["0x1234"]' };

  beforeEach(() => {
    Object.assign(chain.answers, { epoch: "1", gdaPool: POOL, seatsOf: [row], bondNeeded: "100", bondOf: "250", lockedOf: "0", isEvicted: false });
  });

  it("shows members with their bonds", async () => {
    expect(await checkStatusStep(base)).toEqual({
      success: true, epoch: "1", active: true, gdaPool: ethers.getAddress(POOL), bondNeeded: "100",
      seats: [{ ...seat, bond: "250", locked: "0", evicted: false }],
    });
    expect(chain.reads.find((one) => one.function === "seatsOf")?.calldata).toBe(golden("seats-of"));
  });

  it("before its first epoch it has no members and is not active", async () => {
    Object.assign(chain.answers, { epoch: "0", gdaPool: ethers.ZeroAddress });
    expect(await checkStatusStep(base)).toMatchObject({ success: true, active: false, seats: [] });
  });

  it.each([false, true])("opens an epoch and outputs its pool (sponsored: %s)", async (sponsored) => {
    Object.assign(chain.answers, { epoch: "0", gdaPool: ethers.ZeroAddress });
    chain.outcomes.openEpoch = { sponsored };
    emits(COALITION, COALITION_ABI, "EpochOpened", [1, POOL, 1]);
    const result = await activateStep(input);
    expect(result).toMatchObject({ success: true, epoch: "1", gdaPool: ethers.getAddress(POOL), alreadyActive: false, sponsored });
    expect(chain.writes).toEqual([expect.objectContaining({ calldata: golden("activate") })]);
  });

  it("exactly these members are active: nothing is sent", async () => {
    expect(await activateStep(input)).toMatchObject({ success: true, epoch: "1", alreadyActive: true });
    expect(chain.writes).toEqual([]);
  });

  it("other members are a new epoch", async () => {
    emits(COALITION, COALITION_ABI, "EpochOpened", [2, POOL, 1]);
    const other = [{ ...seat, node: word("d9") }];
    expect(await activateStep({ ...input, seats: other })).toMatchObject({ success: true, epoch: "2" });
  });

  it.each([
    ["fewer consents than seats", { consents: [] }],
    ["no seats", { seats: "[]", consents: "[]" }],
    ["a seat without an operator", { seats: [{ ...seat, operator: "" }] }],
  ])("refuses %s", async (_, wrong) => {
    expect(await activateStep({ ...input, ...wrong })).toMatchObject({ success: false });
    expect(chain.writes).toEqual([]);
  });

  it("a revert is a failure", async () => {
    Object.assign(chain.answers, { epoch: "0", gdaPool: ethers.ZeroAddress });
    chain.outcomes.openEpoch = { success: false, error: "NotSteward()" };
    expect(await activateStep(input)).toEqual({ success: false, error: "openEpoch: NotSteward()" });
  });
});

describe("breach", () => {
  const opened = [7, SESSION, OPERATOR, 1, 40_000, word("d3"), 1_800_003_600];
  const input = { ...base, breach: JSON.stringify(breach), votes: "[]" };

  it.each([false, true])("opens the claim (sponsored: %s); calldata is what cast makes", async (sponsored) => {
    chain.outcomes.openClaim = { sponsored };
    emits(COALITION, COALITION_ABI, "ClaimOpened", opened);
    expect(await breachStep(input)).toMatchObject({ success: true, claimId: "7", amount: "40000", executableAtUnix: "1800003600", sponsored });
    expect(chain.writes).toEqual([expect.objectContaining({ calldata: golden("breach-without-votes") })]);
  });

  it("brings the votes into the contract's order and each signer once", async () => {
    emits(COALITION, COALITION_ABI, "ClaimOpened", opened);
    const domain = domainOf(1, ethers.getAddress(COALITION));
    const value = { ...breach, kind: "1" };
    const wallets = [3, 1, 2].map((n) => new ethers.Wallet(`0x${String(n).repeat(64)}`));
    const votes = await Promise.all(wallets.map((one) => one.signTypedData(domain, BREACH_TYPES, value)));
    await breachStep({ ...input, votes: [...votes, votes[0]] });
    const sent = new ethers.Interface(COALITION_ABI).decodeFunctionData("openClaim", chain.writes[0]?.calldata as string);
    const digest = ethers.TypedDataEncoder.hash(domain, BREACH_TYPES, value);
    const signers = (sent[1] as string[]).map((vote) => ethers.recoverAddress(digest, vote).toLowerCase());
    expect(signers).toEqual(wallets.map((one) => one.address.toLowerCase()).sort());
  });

  it("the same claim is open already: that claim", async () => {
    chain.outcomes.openClaim = { success: false, error: "Contract reverted: ClaimExists(7)" };
    const claim = { session: SESSION, operator: OPERATOR, payer: POOL, kind: "1", state: "1", amount: "40000", executableAt: "1800003600", ruleBy: "0" };
    chain.answers.claimOf = claim;
    expect(await breachStep(input)).toMatchObject({ success: true, claimId: "7", alreadyOpened: true });
    expect(chain.reads[0]?.calldata).toBe(golden("claim-of"));
    chain.answers.claimOf = { ...claim, kind: "0" };
    expect(await breachStep(input)).toMatchObject({ success: false, error: expect.stringContaining("ClaimExists") });
  });

  it.each([
    ["a kind that is none", { kind: "SLOW" }],
    ["a negative amount", { amount: "-1" }],
    ["no evidence", { evidenceHash: "" }],
  ])("refuses %s", async (_, wrong) => {
    expect(await breachStep({ ...input, breach: { ...breach, ...wrong } })).toMatchObject({ success: false });
    expect(chain.writes).toEqual([]);
  });

  it("a vote that is no signature is named", async () => {
    expect(await breachStep({ ...input, votes: ["0x12"] })).toMatchObject({ success: false, error: "votes[0] is not a signature" });
  });

  it("too few votes are the contract's refusal", async () => {
    chain.outcomes.openClaim = { success: false, error: "QuorumMissing(0, 3)" };
    expect(await breachStep(input)).toEqual({ success: false, error: "openClaim: QuorumMissing(0, 3)" });
  });
});

describe("slash", () => {
  const claim = { session: SESSION, operator: OPERATOR, payer: POOL, kind: "1", state: "1", amount: "40000", executableAt: "1800000000", ruleBy: "0" };
  const input = { ...base, claimId: "7" };

  it("executes a claim whose window is over", async () => {
    chain.answers.claimOf = claim;
    emits(COALITION, COALITION_ABI, "Slashed", [7, OPERATOR, POOL, 30_000, 10_000]);
    expect(await slashStep(input)).toMatchObject({ success: true, alreadySlashed: false, toPayer: "30000", toTreasury: "10000" });
    expect(chain.writes).toEqual([expect.objectContaining({ calldata: golden("slash") })]);
  });

  it("was executed before: nothing is sent", async () => {
    chain.answers.claimOf = { ...claim, state: "3" };
    expect(await slashStep(input)).toEqual({ success: true, state: "EXECUTED", alreadySlashed: true });
    expect(chain.writes).toEqual([]);
  });

  it.each([
    ["disputed", { state: "2" }, "DISPUTED"],
    ["cancelled", { state: "4" }, "CANCELLED"],
    ["unknown", { state: "0" }, "NONE"],
    ["still open to a dispute", { executableAt: "1800000001" }, "until 1800000001"],
  ])("does not touch a claim that is %s", async (_, now, why) => {
    chain.answers.claimOf = { ...claim, ...now };
    expect(await slashStep(input)).toMatchObject({ success: false, error: expect.stringContaining(why) });
    expect(chain.writes).toEqual([]);
  });

  it("an unreadable claim is not slashed", async () => {
    chain.answers.claimOf = () => {
      throw new Refusal("timeout");
    };
    expect(await slashStep(input)).toEqual({ success: false, error: "claimOf: timeout" });
  });
});

describe("the plugin", () => {
  const steps = new URL("../../plugins/coalition/steps/", import.meta.url);

  it("registers an action for every step file and a step for every action", async () => {
    const files = readdirSync(steps).filter((name) => !name.endsWith("-core.ts")).map((name) => name.replace(".ts", ""));
    expect(plugin.actions.map((action) => action.stepImportPath).sort()).toEqual(files.sort());
    for (const action of plugin.actions) {
      const module = (await import(`../../plugins/coalition/steps/${action.stepImportPath}.ts`)) as Record<string, unknown>;
      expect(module[action.stepFunction]).toBeTypeOf("function");
      expect(Object.keys(module).sort()).toEqual(["_integrationType", action.stepFunction].sort());
    }
  });

  it("tests its connection without a credential", async () => {
    const test = await plugin.testConfig?.getTestFunction();
    expect(await test?.()).toEqual({ success: true });
  });
});
