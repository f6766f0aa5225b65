// One node that signs for unlocked accounts, in the place of the platform's wallets and RPC pools.
import { ethers } from "ethers";

let provider: ethers.JsonRpcProvider | undefined;
let caller: string | undefined;

/** The node of these tests, and who calls: the organisation's wallet. */
export function useLocalChain(url: string, wallet: string): void {
  provider ??= new ethers.JsonRpcProvider(url, undefined, {
    cacheTimeout: -1,
    staticNetwork: true,
    pollingInterval: 20,
  });
  caller = wallet;
}

export function localProvider(): ethers.JsonRpcProvider {
  if (!provider) {
    throw new Error("no chain: useLocalChain first");
  }
  return provider;
}

export function localWallet(): string {
  if (!caller) {
    throw new Error("no wallet: useLocalChain first");
  }
  return caller;
}
