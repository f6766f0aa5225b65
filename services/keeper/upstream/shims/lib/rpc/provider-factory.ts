import type { ethers } from "ethers";
import { localProvider } from "@/lib/local-chain";

export type RpcProviderManager = {
  executeWithFailover<T>(
    operation: (provider: ethers.JsonRpcProvider) => Promise<T>,
    operationType?: "read" | "write"
  ): Promise<T>;
};

export function getRpcProvider(_options: {
  chainId: number;
  userId?: string;
}): Promise<RpcProviderManager> {
  return Promise.resolve({
    executeWithFailover: (operation) => operation(localProvider()),
  });
}
