import { ethers } from "ethers";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { golden } from "../mocks/goldens";
import { chain, emits, Refusal, reset } from "../mocks/platform";
import { BALLOT_BOX, HASH, VOTERS, WALLET, word } from "../mocks/values";

vi.mock("server-only", () => ({}));
vi.mock("@/plugins/web3/steps/write-contract-core", async () => (await import("../mocks/platform")).writeModule);
vi.mock("@/plugins/web3/steps/read-contract-core", async () => (await import("../mocks/platform")).readModule);
vi.mock("@/lib/rpc/provider-factory", async () => (await import("../mocks/platform")).providerModule);
vi.mock("@/lib/web3/wallet-helpers", async () => (await import("../mocks/platform")).walletModule);

import { BALLOT_BOX_ABI } from "@/plugins/coalition/contracts/abi";
import { resultHashOf } from "@/plugins/coalition/steps/ballot-core";
import { castVoteStep } from "@/plugins/coalition/steps/cast-vote";
import { openBallotStep } from "@/plugins/coalition/steps/open-ballot";
import { requireConsensusStep } from "@/plugins/coalition/steps/require-consensus";
import { tallyStep } from "@/plugins/coalition/steps/tally";

const BALLOT = word("02");
const YES = word("03");
const NO = word("04");
const checksummed = VOTERS.map((voter) => ethers.getAddress(voter));
const terms = {
  network: "1",
  ballotBox: BALLOT_BOX,
  topic: word("01"),
  voters: JSON.stringify([...VOTERS].reverse()),
  quorum: "2",
  deadlineUnix: "1900000000",
};
const vote = { network: "1", ballotBox: BALLOT_BOX, ballotId: BALLOT, result: YES };

function unknownBallot(): never {
  throw new Refusal(`BallotUnknown(${BALLOT})`);
}

function tally(reached: boolean, winningHash: string, votes: number, given: number): void {
  const counted = { votes: String(votes), given: String(given), quorum: "2", deadline: "1900000000" };
  chain.answers.tally = { reached, winningHash, ...counted };
}

function votes(...cast: string[]): void {
  chain.answers.votersOf = checksummed;
  chain.answers.voteOf = ([, voter]: unknown[]) => cast[checksummed.indexOf(ethers.getAddress(String(voter)))];
}

beforeEach(() => {
  reset();
  chain.answers.ballotIdOf = BALLOT;
});

describe("open-ballot", () => {
  it("opens it with the voters in the contract's order; calldata is what cast makes", async () => {
    chain.answers.votersOf = unknownBallot;
    const result = await openBallotStep(terms);
    expect(result).toMatchObject({ success: true, ballotId: BALLOT, alreadyOpen: false, transactionHash: HASH });
    expect(chain.reads[0]?.calldata).toBe(golden("ballot-id"));
    expect(chain.writes).toEqual([expect.objectContaining({ to: ethers.getAddress(BALLOT_BOX), calldata: golden("open-ballot") })]);
  });

  it("finds it open and sends nothing", async () => {
    chain.answers.votersOf = checksummed;
    expect(await openBallotStep(terms)).toMatchObject({ success: true, ballotId: BALLOT, alreadyOpen: true });
    expect(chain.reads[1]?.calldata).toBe(golden("voters-of"));
    expect(chain.writes).toEqual([]);
  });

  it("does not take a chain that does not answer for a ballot that is not open", async () => {
    chain.answers.votersOf = () => {
      throw new Refusal("timeout");
    };
    expect(await openBallotStep(terms)).toMatchObject({ success: false, error: "votersOf: timeout" });
    expect(chain.writes).toEqual([]);
  });

  it.each([
    ["an address that is none", { ballotBox: "0x12" }, "ballotBox"],
    ["voters that are no array", { voters: "{}" }, "voters"],
    ["voters that are no JSON", { voters: "0x12, 0x13" }, "voters is not JSON"],
    ["a voter twice", { voters: [VOTERS[0], VOTERS[0]] }, "twice"],
    ["no voters", { voters: [] }, "1 to 64"],
    ["half of the voters as quorum", { voters: [VOTERS[0], VOTERS[1]], quorum: "1" }, "quorum"],
    ["a quorum of more than all", { quorum: "4" }, "quorum"],
    ["a quorum with a fraction", { quorum: "1.5" }, "quorum"],
    ["a deadline that is no number", { deadlineUnix: "tomorrow" }, "deadlineUnix"],
    ["an empty topic", { topic: "" }, "empty"],
  ])("refuses %s", async (_, wrong, why) => {
    expect(await openBallotStep({ ...terms, ...wrong } as typeof terms)).toMatchObject({
      success: false,
      error: expect.stringContaining(why),
    });
    expect(chain.writes).toEqual([]);
  });

  it("says what the contract refused", async () => {
    chain.answers.votersOf = unknownBallot;
    chain.outcomes.open = { success: false, error: "TooLate(1900000000)" };
    expect(await openBallotStep(terms)).toEqual({ success: false, error: "open: TooLate(1900000000)" });
  });
});

describe("cast-vote", () => {
  beforeEach(() => {
    votes(word("00"), word("00"), word("00"));
    tally(false, word("00"), 1, 1);
  });

  it.each([false, true])("votes and reads the vote back from the receipt (sponsored: %s)", async (sponsored) => {
    chain.outcomes.cast = { sponsored };
    emits(BALLOT_BOX, BALLOT_BOX_ABI, "VoteCast", [BALLOT, VOTERS[0], NO]); // another's in the same bundle
    emits(BALLOT_BOX, BALLOT_BOX_ABI, "VoteCast", [BALLOT, WALLET, YES]);
    const result = await castVoteStep(vote);
    expect(result).toMatchObject({ success: true, voter: WALLET, resultHash: YES, alreadyVoted: false, votes: "1", sponsored });
    expect(chain.reads[0]?.calldata).toBe(golden("vote-of"));
    expect(chain.writes).toEqual([expect.objectContaining({ calldata: golden("cast-vote") })]);
  });

  it("has voted the same before: nothing is sent", async () => {
    votes(word("00"), YES, word("00"));
    expect(await castVoteStep(vote)).toMatchObject({ success: true, alreadyVoted: true });
    expect(chain.writes).toEqual([]);
  });

  it("has voted otherwise before: the first vote stands", async () => {
    votes(word("00"), NO, word("00"));
    expect(await castVoteStep(vote)).toMatchObject({ success: false, error: expect.stringContaining("first vote stands") });
    expect(chain.writes).toEqual([]);
  });

  it("a mined transaction without the vote is a failure that names it", async () => {
    expect(await castVoteStep(vote)).toMatchObject({ success: false, transactionHash: HASH });
  });

  it("a revert is a failure", async () => {
    chain.outcomes.cast = { success: false, error: `NotVoter(${WALLET})`, transactionHash: HASH };
    expect(await castVoteStep(vote)).toEqual({ success: false, error: `cast: NotVoter(${WALLET})`, transactionHash: HASH });
  });

  it("a write step is never repeated by the executor", () => {
    expect((castVoteStep as unknown as { maxRetries: number }).maxRetries).toBe(0);
    expect((openBallotStep as unknown as { maxRetries: number }).maxRetries).toBe(0);
  });
});

describe("tally", () => {
  it("names who dissents and who is missing", async () => {
    votes(YES, YES, NO);
    tally(true, YES, 2, 3);
    const result = await tallyStep(vote);
    expect(result).toMatchObject({ success: true, reached: true, winningHash: YES, dissent: [checksummed[2]], missing: [], expired: false });
    expect(chain.reads[0]?.calldata).toBe(golden("tally"));
  });

  it("without a winner nobody dissents; the chain's clock says whether it is over", async () => {
    votes(YES, NO, word("00"));
    tally(false, word("00"), 1, 2);
    chain.time = 1_900_000_001;
    expect(await tallyStep(vote)).toMatchObject({ reached: false, dissent: [], missing: [checksummed[2]], expired: true });
  });
});

describe("require-consensus", () => {
  it("goes on with a consensus on exactly this", async () => {
    tally(true, YES, 2, 2);
    expect(await requireConsensusStep(vote)).toMatchObject({ success: true, resultHash: YES, votes: "2" });
  });

  it("knows the same JSON in another order", async () => {
    tally(true, resultHashOf('{"b":[1,{"y":2,"x":1}],"a":"ü"}'), 2, 2);
    const result = { a: "ü", b: [1, { x: 1, y: 2 }] };
    expect(await requireConsensusStep({ ...vote, result })).toMatchObject({ success: true });
  });

  it.each([
    ["too few votes", () => tally(false, word("00"), 1, 3), "1 of 2"],
    ["a consensus on something else", () => tally(true, NO, 2, 3), "not"],
    ["a ballot that nobody opened", () => void (chain.answers.tally = unknownBallot), "BallotUnknown"],
    ["a chain that does not answer", () => undefined, "nothing answers"],
    ["an answer of another shape", () => void (chain.answers.tally = {}), "no consensus"],
  ])("fails closed: %s", async (_, given, why) => {
    given();
    expect(await requireConsensusStep(vote)).toMatchObject({ success: false, error: expect.stringContaining(why) });
  });

  it.each([undefined, "", null])("fails closed: nothing to agree on (%s)", async (result) => {
    tally(true, YES, 2, 2);
    expect(await requireConsensusStep({ ...vote, result })).toMatchObject({ success: false, error: "result is empty" });
  });
});
