/**
 * Consensus of several workflow runs: each looks for itself and votes with the hash of what it found; who acts
 * first requires that a quorum found the same.
 *
 * IMPORTANT: no "use step" here.
 */
import "server-only";

import { ethers } from "ethers";
import { BALLOT_BOX_ABI } from "../contracts/abi";
import {
  address,
  bytes32,
  type ChainInput,
  callerOf,
  chainTime,
  eventOf,
  type Failure,
  list,
  orFailure,
  read,
  readUnless,
  type Sent,
  StepFailed,
  uint,
  write,
} from "./coalition-core";

const BYTES_32 = /^0x[0-9a-fA-F]{64}$/;
const NO_VOTE = ethers.ZeroHash;
const UNKNOWN = "BallotUnknown";

export type OpenBallotInput = ChainInput & {
  ballotBox: string;
  topic: string;
  voters: string | unknown[];
  quorum: string;
  deadlineUnix: string;
};

export type BallotInput = ChainInput & { ballotBox: string; ballotId: string };
export type VoteInput = BallotInput & { result: unknown };

export type OpenBallotResult =
  | ({ success: true; ballotId: string; voters: string[]; alreadyOpen: boolean } & Sent)
  | Failure;

export type Tally = {
  reached: boolean;
  winningHash: string;
  votes: string;
  given: string;
  quorum: string;
  deadlineUnix: string;
};

export type CastVoteResult =
  | ({ success: true; resultHash: string; voter: string; alreadyVoted: boolean } & Tally & Sent)
  | Failure;

export type TallyResult =
  | ({ success: true; expired: boolean; missing: string[]; dissent: string[] } & Tally)
  | Failure;

export type RequireConsensusResult =
  | ({ success: true; resultHash: string } & Tally)
  | Failure;

/** Object keys sorted, no white space: what two runs found is equal whatever order their nodes wrote it in. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${value.map(canonical).join(",")}]`;
  }
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([key, held]) => `${JSON.stringify(key)}:${canonical(held)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

/** 0x and 64 hex digits stand for themselves; JSON objects and arrays are hashed canonically, other text as it is. */
export function resultHashOf(result: unknown): string {
  if (result === undefined || result === null || result === "") {
    throw new StepFailed("result is empty");
  }
  if (typeof result !== "string") {
    return ethers.id(canonical(result));
  }
  if (BYTES_32.test(result.trim())) {
    return bytes32("result", result);
  }
  try {
    const parsed = JSON.parse(result) as unknown;
    if (parsed !== null && typeof parsed === "object") {
      return ethers.id(canonical(parsed));
    }
  } catch {
    // no JSON: plain text
  }
  return ethers.id(result);
}

function votersOf(value: unknown): string[] {
  const voters = list("voters", value)
    .map((one, index) => address(`voters[${index}]`, one))
    .sort((a, b) => (BigInt(a) < BigInt(b) ? -1 : 1));
  if (voters.length < 1 || voters.length > 64) {
    throw new StepFailed(`voters: 1 to 64, not ${voters.length}`);
  }
  for (const [index, voter] of voters.entries()) {
    if (voter === voters[index - 1]) {
      throw new StepFailed(`voters: ${voter} stands there twice`);
    }
  }
  return voters;
}

function call(box: string, name: string, ...args: unknown[]): Parameters<typeof read>[1] {
  return { to: box, abi: BALLOT_BOX_ABI, function: name, args };
}

async function tallied(input: ChainInput, box: string, ballotId: string): Promise<Tally> {
  const found = (await read(input, call(box, "tally", ballotId))) as Record<string, unknown>;
  return {
    reached: found.reached === true || found.reached === "true",
    winningHash: String(found.winningHash).toLowerCase(),
    votes: String(found.votes),
    given: String(found.given),
    quorum: String(found.quorum),
    deadlineUnix: String(found.deadline),
  };
}

export function openBallotCore(input: OpenBallotInput): Promise<OpenBallotResult> {
  return orFailure(async () => {
    const box = address("ballotBox", input.ballotBox);
    const topic = resultHashOf(input.topic);
    const voters = votersOf(input.voters);
    const quorum = uint("quorum", input.quorum, 32);
    if (BigInt(quorum) > voters.length || BigInt(quorum) * 2n <= voters.length) {
      throw new StepFailed(`quorum: more than half of ${voters.length} voters, at most all; not ${quorum}`);
    }
    const terms = [topic, voters, quorum, uint("deadlineUnix", input.deadlineUnix, 64)];
    const ballotId = String(await read(input, call(box, "ballotIdOf", ...terms))).toLowerCase();
    if ((await readUnless(input, call(box, "votersOf", ballotId), UNKNOWN)) !== undefined) {
      return { success: true as const, ballotId, voters, alreadyOpen: true };
    }
    const sent = await write(input, call(box, "open", ...terms));
    return { success: true as const, ballotId, voters, alreadyOpen: false, ...sent };
  });
}

export function castVoteCore(input: VoteInput): Promise<CastVoteResult> {
  return orFailure(async () => {
    const box = address("ballotBox", input.ballotBox);
    const ballotId = bytes32("ballotId", input.ballotId);
    const resultHash = resultHashOf(input.result);
    const voter = await callerOf(input, "cast-vote");
    const held = String(await read(input, call(box, "voteOf", ballotId, voter))).toLowerCase();
    if (held !== NO_VOTE && held !== resultHash) {
      throw new StepFailed(`${voter} voted ${held} before; the first vote stands`);
    }
    let sent: Sent = {};
    if (held === NO_VOTE) {
      const done = await write(input, call(box, "cast", ballotId, resultHash));
      await eventOf(input, done, {
        abi: BALLOT_BOX_ABI,
        event: "VoteCast",
        emitter: box,
        match: { ballotId, voter, resultHash },
      });
      sent = done;
    }
    const now = await tallied(input, box, ballotId);
    return { success: true as const, resultHash, voter, alreadyVoted: held !== NO_VOTE, ...now, ...sent };
  });
}

export function tallyCore(input: BallotInput): Promise<TallyResult> {
  return orFailure(async () => {
    const box = address("ballotBox", input.ballotBox);
    const ballotId = bytes32("ballotId", input.ballotId);
    const now = await tallied(input, box, ballotId);
    const voters = (await read(input, call(box, "votersOf", ballotId))) as string[];
    const missing: string[] = [];
    const dissent: string[] = [];
    for (const voter of voters) {
      const vote = String(await read(input, call(box, "voteOf", ballotId, voter))).toLowerCase();
      if (vote === NO_VOTE) {
        missing.push(voter);
      } else if (now.reached && vote !== now.winningHash) {
        dissent.push(voter);
      }
    }
    const expired = (await chainTime(input)) > BigInt(now.deadlineUnix);
    return { success: true as const, ...now, expired, missing, dissent };
  });
}

/** Fails closed: whatever is not a consensus on exactly this result fails the step, and with it the run. */
export function requireConsensusCore(input: VoteInput): Promise<RequireConsensusResult> {
  return orFailure(async () => {
    const box = address("ballotBox", input.ballotBox);
    const ballotId = bytes32("ballotId", input.ballotId);
    const resultHash = resultHashOf(input.result);
    const now = await tallied(input, box, ballotId);
    if (!now.reached) {
      throw new StepFailed(`no consensus: ${now.votes} of ${now.quorum} votes agree (${now.given} given)`);
    }
    if (now.winningHash !== resultHash) {
      throw new StepFailed(`the consensus is ${now.winningHash}, not ${resultHash}`);
    }
    return { success: true as const, resultHash, ...now };
  });
}
