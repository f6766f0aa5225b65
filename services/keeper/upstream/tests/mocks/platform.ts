// The platform's web3 cores and RPC, replaced; what a step asks of them is written down as calldata.
import { ethers } from "ethers";
import { HASH, WALLET } from "./values";

type Asked = { to: string; function: string; calldata: string };
type Answer = unknown | ((args: unknown[]) => unknown);
type CoreInput = { contractAddress: string; abi: string; abiFunction: string; functionArgs?: string | unknown[] };

/** Throw it from an answer: the core's own failure. */
export class Refusal extends Error {}

export const chain = {
  reads: [] as Asked[],
  writes: [] as Asked[],
  answers: {} as Record<string, Answer>,
  /** What writeContractCore returns beyond success, by function. */
  outcomes: {} as Record<string, object>,
  logs: [] as { address: string; topics: string[]; data: string }[],
  receipt: true,
  code: "0x",
  time: 1_800_000_000,
  wallet: WALLET,
};

export function reset(): void {
  Object.assign(chain, {
    reads: [], writes: [], answers: {}, outcomes: {}, logs: [], receipt: true, code: "0x", time: 1_800_000_000,
    wallet: WALLET,
  });
}

/** The log that this event would leave. */
export function emits(address: string, abi: string, event: string, args: unknown[]): void {
  const { topics, data } = new ethers.Interface(abi).encodeEventLog(event, args);
  chain.logs.push({ address, topics: topics as string[], data });
}

function asked(input: CoreInput): { call: Asked; args: unknown[] } {
  const given = input.functionArgs ?? "[]";
  const args = (typeof given === "string" ? JSON.parse(given) : given) as unknown[];
  const calldata = new ethers.Interface(input.abi).encodeFunctionData(input.abiFunction, args);
  return { call: { to: input.contractAddress, function: input.abiFunction, calldata }, args };
}

export const writeModule = {
  writeContractCore: (input: CoreInput): Promise<object> => {
    const { call } = asked(input);
    chain.writes.push(call);
    const done = { success: true, transactionHash: HASH, chainId: 1, transactionLink: "link", gasUsed: "21000" };
    const outcome = chain.outcomes[call.function] ?? {};
    return Promise.resolve("success" in outcome ? outcome : { ...done, ...outcome });
  },
};

export const readModule = {
  readContractCore: (input: CoreInput): Promise<object> => {
    const { call, args } = asked(input);
    chain.reads.push(call);
    const answer = chain.answers[call.function];
    if (answer === undefined) {
      return Promise.resolve({ success: false, error: `nothing answers ${call.function}` });
    }
    try {
      const result = typeof answer === "function" ? (answer as (args: unknown[]) => unknown)(args) : answer;
      return Promise.resolve({ success: true, result, addressLink: "" });
    } catch (error) {
      return Promise.resolve({ success: false, error: (error as Error).message });
    }
  },
};

export const providerModule = {
  getRpcProvider: (): Promise<object> =>
    Promise.resolve({
      executeWithFailover: (operation: (provider: object) => unknown) =>
        operation({
          getTransactionReceipt: () => (chain.receipt ? { logs: chain.logs } : Promise.reject(new Error("RPC away"))),
          getBlock: () => ({ timestamp: chain.time }),
          getCode: () => chain.code,
        }),
    }),
};

export const walletModule = {
  getOrganizationWalletAddress: (): Promise<string> => Promise.resolve(chain.wallet),
};
