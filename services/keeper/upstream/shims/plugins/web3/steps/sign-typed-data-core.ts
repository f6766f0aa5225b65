import { localProvider, localWallet } from "@/lib/local-chain";
import { getErrorMessage } from "@/lib/utils";

export type SignTypedDataCoreInput = {
  typedData: string | Record<string, unknown>;
  _context?: { executionId?: string; organizationId?: string };
};

export type SignTypedDataResult =
  | { success: true; signature: string; signer: string }
  | { success: false; error: string; code: string };

export async function signTypedDataCore(input: SignTypedDataCoreInput): Promise<SignTypedDataResult> {
  const text = typeof input.typedData === "string" ? input.typedData : JSON.stringify(input.typedData);
  try {
    const signature = (await localProvider().send("eth_signTypedData_v4", [localWallet(), text])) as string;
    return { success: true, signature, signer: localWallet() };
  } catch (error) {
    return { success: false, error: getErrorMessage(error), code: "UNKNOWN" };
  }
}
