import { ethers } from "ethers";
import { localProvider } from "@/lib/local-chain";
import { getErrorMessage } from "@/lib/utils";

export type ReadContractCoreInput = {
  contractAddress: string;
  network: string;
  abi: string;
  abiFunction: string;
  functionArgs?: string;
  _context?: { executionId?: string; organizationId?: string };
};

export type ReadContractResult =
  | { success: true; result: unknown; addressLink: string }
  | { success: false; error: string };

function plain(value: unknown): unknown {
  if (typeof value === "bigint") {
    return value.toString();
  }
  return Array.isArray(value) ? Array.from(value, plain) : value;
}

/** As the platform returns it: one unnamed output bare, several by name. */
function structured(values: ethers.Result, outputs: readonly ethers.ParamType[]): unknown {
  if (outputs.length === 1 && !outputs[0]?.name) {
    return plain(values[0]);
  }
  return Object.fromEntries(
    outputs.map((output, i) => [output.name || `unnamedOutput${i}`, plain(values[i])])
  );
}

export async function readContractCore(
  input: ReadContractCoreInput
): Promise<ReadContractResult> {
  const abi = new ethers.Interface(input.abi);
  const called = abi.getFunction(input.abiFunction);
  if (!called) {
    return { success: false, error: `Function '${input.abiFunction}' not found in ABI` };
  }
  try {
    const data = abi.encodeFunctionData(called, JSON.parse(input.functionArgs ?? "[]") as unknown[]);
    const answer = await localProvider().call({ to: input.contractAddress, data });
    const values = abi.decodeFunctionResult(called, answer);
    return { success: true, result: structured(values, called.outputs), addressLink: "" };
  } catch (error) {
    const data = (error as { data?: string }).data;
    const known = typeof data === "string" ? abi.parseError(data) : null;
    return { success: false, error: known ? `${known.name}(${known.args.join(", ")})` : getErrorMessage(error) };
  }
}
