import { expect, it } from "vitest";
import { readContractCore } from "@/plugins/web3/steps/read-contract-core";
import { protocolWrite } from "@/plugins/protocol-write";
import { superfluidOn } from "@/protocols/superfluid";
import { as, at, network } from "./world";

const superfluid = superfluidOn({
  [network]: { cfaForwarder: at("cfaForwarder"), gdaForwarder: at("gdaForwarder"), gdaAgreement: at("gdaAgreement") },
});

async function read(slug: string, contractAddress: string, ...args: string[]): Promise<unknown> {
  const action = superfluid.actions.find((one) => one.slug === slug);
  const abi = superfluid.contracts[action?.contract as string]?.abi as string;
  const abiFunction = action?.function as string;
  const answer = await readContractCore({ contractAddress, network, abi, abiFunction, functionArgs: JSON.stringify(args) });
  expect(answer).toMatchObject({ success: true });
  return answer.success ? answer.result : undefined;
}

it("a pool is made, filled and streamed into; each node outputs what later ones need", async () => {
  as("steward");
  const token = at("usdcx");
  const admin = at("steward");
  const made = await protocolWrite(superfluid, "create-pool", network, { token, admin });
  expect(made).toMatchObject({ success: true });
  const pool = String((made as Record<string, unknown>).pool);

  for (const [member, units] of [[at("operator"), "6250"], [at("voter"), "3750"]] as const) {
    const set = await protocolWrite(superfluid, "update-member-units", network, { pool, member, units });
    expect(set).toMatchObject({ oldUnits: "0", newUnits: units });
  }
  expect(await read("get-pool-units", pool, at("operator"))).toBe("6250");
  expect(await read("get-pool-total-units", pool)).toBe("10000");
  expect(await read("is-pool-member-connected", at("gdaForwarder"), pool, at("operator"))).toBe(false);

  const flow = { token, from: admin, pool, flowRate: "1000000000001" };
  const streamed = await protocolWrite(superfluid, "distribute-flow", network, flow);
  expect(streamed).toMatchObject({ success: true, oldFlowRate: "0", actualFlowRate: "1000000000000" });
  expect(await read("get-pool-member-flow-rate", pool, at("operator"))).toBe("625000000000");
  expect(await read("get-pool-total-flow-rate", pool)).toBe("1000000000000");
  expect(await read("get-pool-distribution-flow-rate", at("gdaForwarder"), token, admin, pool)).toBe("1000000000000");
  expect(await read("get-pool-claimable", pool, at("operator"))).toHaveProperty("claimableBalance");

  const stopped = await protocolWrite(superfluid, "distribute-flow", network, { ...flow, flowRate: "0" });
  expect(stopped).toMatchObject({ oldFlowRate: "1000000000000", actualFlowRate: "0" });
});
