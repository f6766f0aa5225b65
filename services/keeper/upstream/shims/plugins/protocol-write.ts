// The platform's protocol write, reduced: named inputs to arguments, writeContractCore, then the new event outputs.
import type { ProtocolDefinition } from "@/lib/protocol-registry";
import { withEventOutputs } from "@/plugins/protocol/steps/event-outputs-core";
import { writeContractCore } from "@/plugins/web3/steps/write-contract-core";

export async function protocolWrite(
  protocol: ProtocolDefinition,
  slug: string,
  network: string,
  inputs: Record<string, string>
): Promise<Awaited<ReturnType<typeof withEventOutputs>>> {
  const action = protocol.actions.find((one) => one.slug === slug);
  const contract = action && protocol.contracts[action.contract];
  if (!(action && contract)) {
    return { success: false, error: `no action ${slug}` };
  }
  const address = contract.userSpecifiedAddress ? inputs.contractAddress : contract.addresses[network];
  if (!address) {
    return {
      success: false,
      error: `Protocol "${protocol.slug}" contract "${action.contract}" is not deployed on network "${network}"`,
    };
  }
  const args: unknown[] = [];
  let tuple: { position: number; values: unknown[] } | undefined;
  for (const input of action.inputs) {
    const given = inputs[input.name] ?? input.default ?? "";
    const value = input.type === "bool" ? given === "true" : given;
    if (input.tuple === undefined) {
      args.push(value);
      continue;
    }
    if (tuple?.position !== input.tuple) {
      tuple = { position: input.tuple, values: [] };
      args.push(tuple.values);
    }
    tuple.values.push(value);
  }
  const result = await writeContractCore({
    contractAddress: address,
    network,
    abi: contract.abi,
    abiFunction: action.function,
    functionArgs: JSON.stringify(args),
  });
  return withEventOutputs(protocol, action, network, inputs, result);
}
