import { ethers } from "ethers";
import { expect, it } from "vitest";
import { BREACH_TYPES, domainOf } from "@/plugins/coalition/contracts/abi";
import { localProvider } from "@/lib/local-chain";
import { breachStep } from "@/plugins/coalition/steps/breach";
import { checkStatusStep } from "@/plugins/coalition/steps/check-status";
import { slashStep } from "@/plugins/coalition/steps/slash";
import { as, at, moveTime, network } from "./world";

const coalition = at("coalition");
const breach = {
  session: at("session"), operator: at("operator"), kind: "WRONG_OUTPUT", amount: "2", evidenceHash: `0x${"0e".repeat(32)}`,
  failedProbes: "0", probeWindow: "0", deadline: at("breachDeadline"),
};

it("a breach that a quorum signed stops the stream and, its window over, costs its author", async () => {
  as("stranger");
  const value = { ...breach, kind: 2 };
  const domain = domainOf(Number(network), coalition);
  const payload = JSON.stringify(ethers.TypedDataEncoder.getPayload(domain, BREACH_TYPES, value));
  const votes = await Promise.all(
    ["attestor1", "attestor2"].map((name) => localProvider().send("eth_signTypedData_v4", [at(name), payload]))
  ) as string[];
  const few = await breachStep({ network, coalition, breach, votes: votes.slice(1) });
  expect(few).toMatchObject({ success: false, error: expect.stringContaining("QuorumMissing") });

  const opened = await breachStep({ network, coalition, breach, votes: [...votes].reverse() });
  expect(opened).toMatchObject({ success: true, alreadyOpened: false, amount: "2" });
  const again = await breachStep({ network, coalition, breach, votes });
  const claimId = opened.success ? opened.claimId : "";
  expect(again).toMatchObject({ success: true, alreadyOpened: true, claimId });
  expect(await checkStatusStep({ network, coalition })).toMatchObject({ active: false });

  const slash = { network, coalition, claimId };
  expect(await slashStep(slash)).toMatchObject({ success: false, error: expect.stringContaining("disputed until") });
  await moveTime(3600);
  expect(await slashStep(slash)).toMatchObject({ success: true, alreadySlashed: false, state: "EXECUTED" });
  expect(await slashStep(slash)).toMatchObject({ success: true, alreadySlashed: true });
});
