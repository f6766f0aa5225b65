import { expect, it } from "vitest";
import { activateStep } from "@/plugins/coalition/steps/activate";
import { checkStatusStep } from "@/plugins/coalition/steps/check-status";
import { proposeStep } from "@/plugins/coalition/steps/propose";
import { signStep } from "@/plugins/coalition/steps/sign";
import { as, at, network } from "./world";

const coalition = at("coalition");
const seat = { operator: at("operator"), units: "10000", node: `0x${"0d".repeat(32)}`, receiptKey: at("voter") };

it("a coalition is proposed, consented to and activated, once however often it is asked for", async () => {
  as("stranger");
  const proposal = { network, factory: at("factory"), salt: at("salt"), initCode: at("initCode") };
  expect(await proposeStep(proposal)).toMatchObject({ success: true, coalition, alreadyProposed: false });
  expect(await proposeStep(proposal)).toMatchObject({ success: true, coalition, alreadyProposed: true });
  expect(await checkStatusStep({ network, coalition })).toMatchObject({ success: true, epoch: "0", active: false, seats: [] });

  as("operator");
  const signed = await signStep({ network, coalition, units: seat.units, node: seat.node, receiptKey: seat.receiptKey });
  expect(signed).toMatchObject({ success: true, epoch: "1", operator: seat.operator });
  const asked = { network, coalition, seats: [seat], consents: [signed.success ? signed.consent : ""] };
  const early = await activateStep(asked);
  expect(early).toMatchObject({ success: false, error: expect.stringContaining("NotSteward") });
});
