// A chain with the real contracts on it, as the repository's tests start one; told by the environment.
import { ethers } from "ethers";
import { localProvider, useLocalChain } from "@/lib/local-chain";

export const world = JSON.parse(process.env.WORLD ?? "{}") as Record<string, string>;
export const at = (name: string): string => world[name] as string;
export const network = at("network");

/** Whose wallet the steps use from now on; the node has its key. */
export function as(wallet: string): void {
  useLocalChain(process.env.RPC_URL as string, at(wallet));
}

export async function moveTime(seconds: number): Promise<void> {
  await localProvider().send("evm_increaseTime", [ethers.toQuantity(seconds)]);
  await localProvider().send("evm_mine", []);
}
