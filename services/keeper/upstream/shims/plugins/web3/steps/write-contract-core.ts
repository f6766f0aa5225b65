import { ethers } from "ethers";
import { localProvider, localWallet } from "@/lib/local-chain";
import { getErrorMessage } from "@/lib/utils";

export type WriteContractCoreInput = {
  contractAddress: string;
  network: string;
  abi: string;
  abiFunction: string;
  functionArgs?: string | unknown[];
  gasLimitMultiplier?: string;
  priorityFeeGwei?: string;
  web3Connection?: string;
  _context?: { executionId?: string; organizationId?: string; workflowId?: string };
};

export type WriteContractResult =
  | {
      success: true;
      transactionHash?: string;
      chainId?: number;
      transactionLink?: string;
      gasUsed?: string;
      result?: unknown;
      sponsored?: boolean;
      error?: string;
    }
  | {
      success: false;
      error: string;
      errorClass?: string;
      transactionHash?: string;
      chainId?: number;
      sponsored?: boolean;
    };

function failed(error: unknown, abi: ethers.Interface): string {
  const data = (error as { data?: string }).data;
  const known = typeof data === "string" ? abi.parseError(data) : null;
  return known ? `${known.name}(${known.args.join(", ")})` : getErrorMessage(error);
}

export async function writeContractCore(
  input: WriteContractCoreInput
): Promise<WriteContractResult> {
  const abi = new ethers.Interface(input.abi);
  const given = input.functionArgs ?? "[]";
  const args = typeof given === "string" ? (JSON.parse(given) as unknown[]) : given;
  const provider = localProvider();
  const transaction = {
    from: localWallet(),
    to: input.contractAddress,
    data: abi.encodeFunctionData(input.abiFunction, args),
  };
  try {
    const gas = await provider.estimateGas(transaction);
    const hash = (await provider.send("eth_sendTransaction", [
      { ...transaction, gas: ethers.toQuantity(gas * 2n) },
    ])) as string;
    const receipt = await provider.waitForTransaction(hash, 1, 30_000);
    if (receipt?.status !== 1) {
      return { success: false, error: "execution reverted", transactionHash: hash };
    }
    return {
      success: true,
      transactionHash: hash,
      chainId: Number(input.network),
      transactionLink: "",
      gasUsed: (receipt.gasUsed * receipt.gasPrice).toString(),
      result: undefined,
    };
  } catch (error) {
    return { success: false, error: failed(error, abi) };
  }
}
