/**
 * What all steps of the plugin share: reading inputs strictly, reading and writing contracts through the web3
 * cores (which route signers and sponsor gas), reading events back.
 *
 * Templates put values into fields as text without quoting, so every field is checked before it is used.
 *
 * IMPORTANT: no "use step" here.
 */
import "server-only";

import { ethers } from "ethers";
import { getChainIdFromNetwork } from "@/lib/rpc/network-utils";
import { getRpcProvider } from "@/lib/rpc/provider-factory";
import { resolveSignerForNode, SIGNER_MODE } from "@/lib/safe/signer-resolver";
import { getErrorMessage } from "@/lib/utils";
import { readReceiptEvent } from "@/lib/web3/receipt-events";
import { resolveOrganizationContext } from "@/lib/web3/resolve-org-context";
import { getOrganizationWalletAddress } from "@/lib/web3/wallet-helpers";
import type { StepInput } from "@/lib/workflow/executor/step-handler";
import { readContractCore } from "@/plugins/web3/steps/read-contract-core";
import { writeContractCore } from "@/plugins/web3/steps/write-contract-core";

const BYTES_32 = /^0x[0-9a-fA-F]{64}$/;
const BYTES = /^0x([0-9a-fA-F]{2})*$/;
const DECIMAL = /^(0|[1-9][0-9]*)$/;

export type ChainInput = StepInput & {
  network: string;
  gasLimitMultiplier?: string;
  web3Connection?: string;
};

export type Failure = {
  success: false;
  error: string;
  /** Set when a transaction was sent: look it up before anything is tried again. */
  transactionHash?: string;
};

export type Sent = {
  transactionHash?: string;
  transactionLink?: string;
  gasUsed?: string;
  sponsored?: boolean;
};

/** Ends a step with a message for its author. */
export class StepFailed extends Error {
  readonly transactionHash: string | undefined;

  constructor(message: string, transactionHash?: string) {
    super(message);
    this.transactionHash = transactionHash;
  }
}

export async function orFailure<T>(work: () => Promise<T>): Promise<T | Failure> {
  try {
    return await work();
  } catch (error) {
    const hash = error instanceof StepFailed ? error.transactionHash : undefined;
    return {
      success: false,
      error: getErrorMessage(error),
      ...(hash ? { transactionHash: hash } : {}),
    };
  }
}

// -- Inputs -------------------------------------------------------------------

export function address(name: string, value: unknown): string {
  const text = String(value ?? "").trim();
  if (!ethers.isAddress(text)) {
    throw new StepFailed(`${name} is not an address: "${text}"`);
  }
  return ethers.getAddress(text);
}

export function bytes32(name: string, value: unknown): string {
  const text = String(value ?? "").trim();
  if (!BYTES_32.test(text)) {
    throw new StepFailed(`${name} is not 0x and 64 hex digits: "${text}"`);
  }
  return text.toLowerCase();
}

export function bytes(name: string, value: unknown): string {
  const text = String(value ?? "").trim();
  if (!BYTES.test(text)) {
    throw new StepFailed(`${name} is not 0x and hex digits`);
  }
  return text.toLowerCase();
}

/** A whole number as decimal text. */
export function uint(name: string, value: unknown, bits: number): string {
  const text = String(value ?? "").trim();
  if (!DECIMAL.test(text) || BigInt(text) >= 1n << BigInt(bits)) {
    throw new StepFailed(`${name} is not a whole number of at most ${bits} bits: "${text}"`);
  }
  return text;
}

/** A JSON array, given as text or as what a template made of one. */
export function list(name: string, value: unknown): unknown[] {
  const parsed = structure(name, value);
  if (!Array.isArray(parsed)) {
    throw new StepFailed(`${name} is not a JSON array`);
  }
  return parsed;
}

export function structure(name: string, value: unknown): unknown {
  if (typeof value !== "string") {
    return value;
  }
  try {
    return JSON.parse(value) as unknown;
  } catch {
    throw new StepFailed(`${name} is not JSON`);
  }
}

export function record(name: string, value: unknown): Record<string, unknown> {
  const parsed = structure(name, value);
  if (parsed === null || typeof parsed !== "object" || Array.isArray(parsed)) {
    throw new StepFailed(`${name} is not a JSON object`);
  }
  return parsed as Record<string, unknown>;
}

// -- The chain ----------------------------------------------------------------

export function chainIdOf(input: ChainInput): number {
  return getChainIdFromNetwork(input.network);
}

export type Call = { to: string; abi: string; function: string; args: unknown[] };

/** Raises StepFailed with the contract's own error in its message. */
export async function read(input: ChainInput, call: Call): Promise<unknown> {
  const answer = await readContractCore({
    contractAddress: call.to,
    network: input.network,
    abi: call.abi,
    abiFunction: call.function,
    functionArgs: JSON.stringify(call.args),
    _context: input._context,
  });
  if (!answer.success) {
    throw new StepFailed(`${call.function}: ${answer.error}`);
  }
  return answer.result;
}

/** As `read`; undefined when the contract refuses with exactly this error. */
export async function readUnless(input: ChainInput, call: Call, refusal: string): Promise<unknown> {
  try {
    return await read(input, call);
  } catch (error) {
    if (getErrorMessage(error).includes(refusal)) {
      return undefined;
    }
    throw error;
  }
}

/** The transaction's hash is there when this returns. Raises StepFailed. */
export async function write(input: ChainInput, call: Call): Promise<Sent & { transactionHash: string }> {
  const sent = await writeContractCore({
    contractAddress: call.to,
    network: input.network,
    abi: call.abi,
    abiFunction: call.function,
    functionArgs: JSON.stringify(call.args),
    gasLimitMultiplier: input.gasLimitMultiplier,
    web3Connection: input.web3Connection,
    _context: input._context,
  });
  if (!sent.success) {
    throw new StepFailed(`${call.function}: ${sent.error}`, sent.transactionHash);
  }
  if (!sent.transactionHash) {
    throw new StepFailed(`${call.function}: sent, and no transaction hash came back`);
  }
  return {
    transactionHash: sent.transactionHash,
    transactionLink: sent.transactionLink ?? "",
    gasUsed: sent.gasUsed ?? "",
    sponsored: sent.sponsored ?? false,
  };
}

/** The one event of this call. Raises StepFailed, with the hash of a transaction that was mined. */
export async function eventOf(
  input: ChainInput,
  sent: { transactionHash: string },
  wanted: { abi: string; event: string; emitter: string; match?: Record<string, string> }
): Promise<Record<string, unknown>> {
  const said = await readReceiptEvent({
    chainId: chainIdOf(input),
    transactionHash: sent.transactionHash,
    take: "only",
    ...wanted,
  });
  if (!said.found) {
    throw new StepFailed(`mined, but ${said.error}`, sent.transactionHash);
  }
  return said.args;
}

/** Whoever a contract sees as the caller: the organisation's Safe, or else its wallet. */
export async function callerOf(input: ChainInput, action: string): Promise<string> {
  const context = await resolveOrganizationContext(input._context ?? {}, "[Coalition]", action);
  if (!context.success) {
    throw new StepFailed(context.error);
  }
  const { organizationId } = context;
  const mode = await resolveSignerForNode({
    organizationId,
    chainId: chainIdOf(input),
    web3Connection: input.web3Connection,
  });
  return mode.kind === SIGNER_MODE.EOA ? getOrganizationWalletAddress(organizationId) : mode.safeAddress;
}

/** The newest block's time: what contracts compare deadlines with. */
export async function chainTime(input: ChainInput): Promise<bigint> {
  const rpc = await getRpcProvider({ chainId: chainIdOf(input) });
  const block = await rpc.executeWithFailover((provider) => provider.getBlock("latest"), "read");
  if (!block) {
    throw new StepFailed("the chain has no newest block");
  }
  return BigInt(block.timestamp);
}

export async function codeAt(input: ChainInput, at: string): Promise<string> {
  const rpc = await getRpcProvider({ chainId: chainIdOf(input) });
  return rpc.executeWithFailover((provider) => provider.getCode(at), "read");
}
