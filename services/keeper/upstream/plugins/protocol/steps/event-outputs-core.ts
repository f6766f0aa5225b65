/**
 * Adds an action's event outputs to the result of its write. `protocolWriteStep` calls this once, after
 * writeContractCore, inside the value cap.
 *
 * A transaction that succeeded stays a success, whatever happens here: a failed node could be run again, and the
 * transaction would be sent twice. What could not be read is absent (a template that asks for it stops the run) and
 * `eventOutputsError` says why.
 *
 * IMPORTANT: no "use step" here.
 */
import "server-only";

import type { ProtocolAction, ProtocolDefinition } from "@/lib/protocol-registry";
import { readReceiptEvent } from "@/lib/web3/receipt-events";
import type { WriteContractResult } from "@/plugins/web3/steps/write-contract-core";

type ActionInputs = Record<string, unknown>;

function emitterOf(
  protocol: ProtocolDefinition,
  action: ProtocolAction,
  network: string,
  inputs: ActionInputs
): string | undefined {
  const emitter = action.eventOutputs?.emitter;
  if (!emitter) {
    return undefined;
  }
  if ("input" in emitter) {
    return String(inputs[emitter.input] ?? "") || undefined;
  }
  return protocol.contracts[emitter.contract]?.addresses[network];
}

export async function withEventOutputs(
  protocol: ProtocolDefinition,
  action: ProtocolAction,
  network: string,
  inputs: ActionInputs,
  result: WriteContractResult
): Promise<WriteContractResult & Record<string, unknown>> {
  const wanted = action.eventOutputs;
  const sent = result.success && result.transactionHash && result.chainId;
  if (!wanted || !sent) {
    return result;
  }
  const emitter = emitterOf(protocol, action, network, inputs);
  const abi = protocol.contracts[wanted.abiOf]?.abi;
  if (!emitter || !abi) {
    return { ...result, eventOutputsError: `who emits ${wanted.event} on ${network} is not known` };
  }
  const match: Record<string, string> = {};
  for (const [argument, input] of Object.entries(wanted.match)) {
    match[argument] = String(inputs[input] ?? "");
  }
  const said = await readReceiptEvent({
    chainId: result.chainId as number,
    transactionHash: result.transactionHash as string,
    abi,
    event: wanted.event,
    emitter,
    match,
    take: wanted.take,
  });
  if (!said.found) {
    return { ...result, eventOutputsError: said.error };
  }
  const fields: Record<string, unknown> = {};
  for (const [argument, field] of Object.entries(wanted.fields)) {
    fields[field.name] = said.args[argument];
  }
  return { ...result, ...fields };
}
