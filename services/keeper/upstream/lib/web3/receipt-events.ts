/**
 * Reads an event back from the receipt of a transaction that is known to have succeeded.
 *
 * Works the same for a direct, a Safe and a sponsored send: all three leave a transaction hash. In a sponsored one
 * the outer call goes to a relayer and its logs hold other calls too, so an event counts only from its emitter and
 * with the arguments of this call.
 *
 * IMPORTANT: no "use step" here; steps import it.
 */
import "server-only";

import { ethers } from "ethers";
import { getRpcProvider } from "@/lib/rpc/provider-factory";
import { getErrorMessage } from "@/lib/utils";

const ATTEMPTS = 5;
const PAUSE_MS = 400;

export type EventQuery = {
  chainId: number;
  transactionHash: string;
  abi: string;
  event: string;
  emitter: string;
  /** Event argument -> value it must have; addresses and hex compare without case. */
  match?: Record<string, string>;
  take: "only" | "last";
};

export type EventFound =
  | { found: true; args: Record<string, unknown> }
  | { found: false; reason: "unreadable" | "absent" | "ambiguous"; error: string };

/** bigint as decimal text, structs and arrays as arrays: what templates and JSON can hold. */
export function plain(value: unknown): unknown {
  if (typeof value === "bigint") {
    return value.toString();
  }
  return Array.isArray(value) ? Array.from(value, plain) : value;
}

function equal(found: unknown, wanted: string): boolean {
  return String(plain(found)).toLowerCase() === wanted.trim().toLowerCase();
}

async function receiptLogs(query: EventQuery): Promise<readonly ethers.Log[]> {
  const rpc = await getRpcProvider({ chainId: query.chainId });
  for (let attempt = 1; ; attempt++) {
    // A fallback endpoint may be a block behind the one that saw the receipt first.
    const receipt = await rpc.executeWithFailover(
      (provider) => provider.getTransactionReceipt(query.transactionHash),
      "read"
    );
    if (receipt) {
      return receipt.logs;
    }
    if (attempt === ATTEMPTS) {
      throw new Error(`no receipt of ${query.transactionHash}`);
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

export async function readReceiptEvent(query: EventQuery): Promise<EventFound> {
  const { event, match = {} } = query;
  const abi = new ethers.Interface(query.abi);
  let logs: readonly ethers.Log[];
  try {
    logs = await receiptLogs(query);
  } catch (error) {
    return { found: false, reason: "unreadable", error: getErrorMessage(error) };
  }
  const said: Record<string, unknown>[] = [];
  for (const log of logs) {
    if (log.address.toLowerCase() !== query.emitter.toLowerCase()) {
      continue;
    }
    const parsed = abi.parseLog({ topics: [...log.topics], data: log.data });
    if (parsed?.name !== event) {
      continue;
    }
    const args: Record<string, unknown> = {};
    for (const [position, input] of parsed.fragment.inputs.entries()) {
      args[input.name] = plain(parsed.args[position]);
    }
    if (Object.entries(match).every(([name, wanted]) => equal(args[name], wanted))) {
      said.push(args);
    }
  }
  const newest = said.at(-1);
  if (newest === undefined) {
    return {
      found: false,
      reason: "absent",
      error: `${event} is not among the logs of ${query.transactionHash}`,
    };
  }
  if (query.take === "only" && said.length > 1) {
    return {
      found: false,
      reason: "ambiguous",
      error: `${event} is ${said.length} times among the logs of ${query.transactionHash}`,
    };
  }
  return { found: true, args: newest };
}
