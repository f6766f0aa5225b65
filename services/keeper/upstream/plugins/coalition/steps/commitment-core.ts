/**
 * A coalition's life: proposed, consented to, activated, and slashed when one of its operators breaks its word.
 * Steps may be run again: what is already so is found, and no second transaction is sent.
 *
 * IMPORTANT: no "use step" here.
 */
import "server-only";

import { ethers } from "ethers";
import { signTypedDataCore } from "@/plugins/web3/steps/sign-typed-data-core";
import {
  ACCEPT_TYPES,
  BREACH_TYPES,
  CLAIM_STATES,
  COALITION_ABI,
  COALITION_FACTORY_ABI,
  domainOf,
  KINDS,
} from "../contracts/abi";
import {
  address,
  bytes,
  bytes32,
  type ChainInput,
  chainIdOf,
  chainTime,
  codeAt,
  eventOf,
  type Failure,
  list,
  orFailure,
  read,
  record,
  type Sent,
  StepFailed,
  structure,
  uint,
  write,
} from "./coalition-core";

const CLAIM_EXISTS = /ClaimExists\D{0,12}(\d+)/;
const NOWHERE = ethers.ZeroAddress;

export type CoalitionInput = ChainInput & { coalition: string };

function call(coalition: string, name: string, ...args: unknown[]): Parameters<typeof read>[1] {
  return { to: coalition, abi: COALITION_ABI, function: name, args };
}

// -- propose ------------------------------------------------------------------

export type ProposeInput = ChainInput & { factory: string; salt: string; initCode: string };
export type ProposeResult =
  | ({ success: true; coalition: string; alreadyProposed: boolean } & Sent)
  | Failure;

export function proposeCore(input: ProposeInput): Promise<ProposeResult> {
  return orFailure(async () => {
    const factory = address("factory", input.factory);
    const salt = bytes32("salt", input.salt);
    const initCode = bytes("initCode", input.initCode);
    const at = { to: factory, abi: COALITION_FACTORY_ABI };
    const asked = { ...at, function: "addressOf", args: [salt, ethers.keccak256(initCode)] };
    const coalition = address("the coalition", await read(input, asked));
    if ((await codeAt(input, coalition)) !== "0x") {
      return { success: true as const, coalition, alreadyProposed: true };
    }
    const sent = await write(input, { ...at, function: "propose", args: [salt, initCode] });
    await eventOf(input, sent, {
      abi: COALITION_FACTORY_ABI,
      event: "CoalitionProposed",
      emitter: factory,
      match: { salt, coalition },
    });
    return { success: true as const, coalition, alreadyProposed: false, ...sent };
  });
}

// -- sign ---------------------------------------------------------------------

export type SignInput = CoalitionInput & { units: string; node: string; receiptKey: string };
export type SignResult =
  | { success: true; consent: string; operator: string; epoch: string }
  | Failure;

/** The wallet's consent to a seat in the next epoch; sends nothing. */
export function signCore(input: SignInput): Promise<SignResult> {
  return orFailure(async () => {
    const coalition = address("coalition", input.coalition);
    const seat = {
      units: uint("units", input.units, 96),
      node: bytes32("node", input.node),
      receiptKey: address("receiptKey", input.receiptKey),
    };
    const epoch = (BigInt(String(await read(input, call(coalition, "epoch")))) + 1n).toString();
    const typedData = {
      domain: domainOf(chainIdOf(input), coalition),
      types: {
        EIP712Domain: [
          { name: "name", type: "string" },
          { name: "version", type: "string" },
          { name: "chainId", type: "uint256" },
          { name: "verifyingContract", type: "address" },
        ],
        ...ACCEPT_TYPES,
      },
      primaryType: "Accept",
      message: { coalition, epoch, ...seat },
    };
    const signed = await signTypedDataCore({ typedData, _context: input._context });
    if (!signed.success) {
      throw new StepFailed(signed.error);
    }
    return { success: true as const, consent: signed.signature, operator: signed.signer, epoch };
  });
}

// -- check-status -------------------------------------------------------------

export type Seat = { operator: string; units: string; node: string; receiptKey: string };
export type CheckStatusResult =
  | {
      success: true;
      epoch: string;
      active: boolean;
      gdaPool: string;
      bondNeeded: string;
      seats: (Seat & { bond: string; locked: string; evicted: boolean })[];
    }
  | Failure;

function seatOf(value: unknown, index: number): Seat {
  const given = structure(`seats[${index}]`, value);
  const [operator, units, node, receiptKey] = Array.isArray(given)
    ? (given as unknown[])
    : ["operator", "units", "node", "receiptKey"].map((key) => record(`seats[${index}]`, given)[key]);
  return {
    operator: address(`seats[${index}].operator`, operator),
    units: uint(`seats[${index}].units`, units, 96),
    node: bytes32(`seats[${index}].node`, node),
    receiptKey: address(`seats[${index}].receiptKey`, receiptKey),
  };
}

async function current(input: ChainInput, coalition: string): Promise<{ epoch: string; gdaPool: string; seats: Seat[] }> {
  const epoch = String(await read(input, call(coalition, "epoch")));
  const gdaPool = address("gdaPool", await read(input, call(coalition, "gdaPool")));
  const seats =
    epoch === "0" ? [] : ((await read(input, call(coalition, "seatsOf", epoch))) as unknown[]).map(seatOf);
  return { epoch, gdaPool, seats };
}

export function checkStatusCore(input: CoalitionInput): Promise<CheckStatusResult> {
  return orFailure(async () => {
    const coalition = address("coalition", input.coalition);
    const now = await current(input, coalition);
    const seats: (Seat & { bond: string; locked: string; evicted: boolean })[] = [];
    for (const seat of now.seats) {
      const ask = (name: string): Promise<unknown> => read(input, call(coalition, name, seat.operator));
      seats.push({
        ...seat,
        bond: String(await ask("bondOf")),
        locked: String(await ask("lockedOf")),
        evicted: String(await ask("isEvicted")) === "true",
      });
    }
    return {
      success: true as const,
      epoch: now.epoch,
      active: now.gdaPool !== NOWHERE,
      gdaPool: now.gdaPool,
      bondNeeded: String(await read(input, call(coalition, "bondNeeded"))),
      seats,
    };
  });
}

// -- activate -----------------------------------------------------------------

export type ActivateInput = CoalitionInput & { seats: string | unknown[]; consents: string | unknown[] };
export type ActivateResult =
  | ({ success: true; epoch: string; gdaPool: string; alreadyActive: boolean } & Sent)
  | Failure;

export function activateCore(input: ActivateInput): Promise<ActivateResult> {
  return orFailure(async () => {
    const coalition = address("coalition", input.coalition);
    const seats = list("seats", input.seats).map(seatOf);
    const consents = list("consents", input.consents).map((one, index) => bytes(`consents[${index}]`, one));
    if (seats.length === 0 || seats.length !== consents.length) {
      throw new StepFailed(`as many consents as seats are wanted: ${consents.length} and ${seats.length}`);
    }
    const now = await current(input, coalition);
    if (now.gdaPool !== NOWHERE && JSON.stringify(now.seats) === JSON.stringify(seats)) {
      return { success: true as const, epoch: now.epoch, gdaPool: now.gdaPool, alreadyActive: true };
    }
    const rows = seats.map((seat) => [seat.operator, seat.units, seat.node, seat.receiptKey]);
    const sent = await write(input, call(coalition, "openEpoch", rows, consents));
    const said = await eventOf(input, sent, { abi: COALITION_ABI, event: "EpochOpened", emitter: coalition });
    const opened = { epoch: String(said.epoch), gdaPool: String(said.gdaPool) };
    return { success: true as const, ...opened, alreadyActive: false, ...sent };
  });
}

// -- breach -------------------------------------------------------------------

export type BreachInput = CoalitionInput & { breach: unknown; votes: string | unknown[] };
export type BreachResult =
  | ({ success: true; claimId: string; executableAtUnix: string; amount: string; alreadyOpened: boolean } & Sent)
  | Failure;

type Breach = Record<string, string>;

function breachOf(value: unknown): Breach {
  const names = BREACH_TYPES.Breach.map((field) => field.name);
  const given = structure("breach", value);
  const fields = Array.isArray(given)
    ? Object.fromEntries(names.map((name, index) => [name, (given as unknown[])[index]]))
    : record("breach", given);
  const kind = KINDS.indexOf(String(fields.kind) as (typeof KINDS)[number]);
  return {
    session: address("breach.session", fields.session),
    operator: address("breach.operator", fields.operator),
    kind: kind >= 0 ? String(kind) : uint("breach.kind", fields.kind, 3),
    amount: uint("breach.amount", fields.amount, 256),
    evidenceHash: bytes32("breach.evidenceHash", fields.evidenceHash),
    failedProbes: uint("breach.failedProbes", fields.failedProbes, 32),
    probeWindow: uint("breach.probeWindow", fields.probeWindow, 32),
    deadline: uint("breach.deadline", fields.deadline, 256),
  };
}

/** As the contract wants them: ascending by signer, nobody twice. */
function sortedVotes(chainId: number, coalition: string, breach: Breach, value: unknown): string[] {
  const digest = ethers.TypedDataEncoder.hash(domainOf(chainId, coalition), BREACH_TYPES, breach);
  const bySigner = new Map<string, string>();
  for (const [index, given] of list("votes", value).entries()) {
    const vote = bytes(`votes[${index}]`, given);
    try {
      bySigner.set(ethers.recoverAddress(digest, vote).toLowerCase(), vote);
    } catch {
      throw new StepFailed(`votes[${index}] is not a signature`);
    }
  }
  return [...bySigner].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, vote]) => vote);
}

async function claimOf(input: ChainInput, coalition: string, claimId: string): Promise<Record<string, string>> {
  const found = (await read(input, call(coalition, "claimOf", claimId))) as Record<string, unknown>;
  return Object.fromEntries(Object.entries(found).map(([name, held]) => [name, String(held)]));
}

export function breachCore(input: BreachInput): Promise<BreachResult> {
  return orFailure(async () => {
    const coalition = address("coalition", input.coalition);
    const breach = breachOf(input.breach);
    const votes = sortedVotes(chainIdOf(input), coalition, breach, input.votes);
    let sent: Sent & { transactionHash: string };
    try {
      sent = await write(input, call(coalition, "openClaim", Object.values(breach), votes));
    } catch (error) {
      const claimId = error instanceof StepFailed ? CLAIM_EXISTS.exec(error.message)?.[1] : undefined;
      if (claimId === undefined) {
        throw error;
      }
      const held = await claimOf(input, coalition, claimId);
      const same =
        held.session?.toLowerCase() === breach.session?.toLowerCase() &&
        held.operator?.toLowerCase() === breach.operator?.toLowerCase() &&
        held.kind === breach.kind;
      if (!same) {
        throw error;
      }
      const known = { claimId, executableAtUnix: String(held.executableAt), amount: String(held.amount) };
      return { success: true as const, ...known, alreadyOpened: true };
    }
    const said = await eventOf(input, sent, {
      abi: COALITION_ABI,
      event: "ClaimOpened",
      emitter: coalition,
      match: { session: String(breach.session), operator: String(breach.operator) },
    });
    return {
      success: true as const,
      claimId: String(said.claimId),
      executableAtUnix: String(said.executableAt),
      amount: String(said.amount),
      alreadyOpened: false,
      ...sent,
    };
  });
}

// -- slash --------------------------------------------------------------------

export type SlashInput = CoalitionInput & { claimId: string };
export type SlashResult =
  | ({ success: true; state: string; alreadySlashed: boolean; toPayer?: string; toTreasury?: string } & Sent)
  | Failure;

export function slashCore(input: SlashInput): Promise<SlashResult> {
  return orFailure(async () => {
    const coalition = address("coalition", input.coalition);
    const claimId = uint("claimId", input.claimId, 256);
    const claim = await claimOf(input, coalition, claimId);
    const state = CLAIM_STATES[Number(claim.state)] ?? "NONE";
    if (state === "EXECUTED") {
      return { success: true as const, state, alreadySlashed: true };
    }
    if (state !== "OPEN") {
      throw new StepFailed(`claim ${claimId} is ${state}: nothing to slash`);
    }
    if ((await chainTime(input)) < BigInt(claim.executableAt ?? 0)) {
      throw new StepFailed(`claim ${claimId} may be disputed until ${claim.executableAt}`);
    }
    const sent = await write(input, call(coalition, "execute", claimId));
    const said = await eventOf(input, sent, {
      abi: COALITION_ABI,
      event: "Slashed",
      emitter: coalition,
      match: { claimId },
    });
    const paid = { toPayer: String(said.toPayer), toTreasury: String(said.toTreasury) };
    return { success: true as const, state: "EXECUTED", alreadySlashed: false, ...paid, ...sent };
  });
}
