import { expect, it } from "vitest";
import { activateStep } from "@/plugins/coalition/steps/activate";
import { checkStatusStep } from "@/plugins/coalition/steps/check-status";
import { signStep } from "@/plugins/coalition/steps/sign";
import { as, at, network } from "./world";

const coalition = at("coalition");
const seat = { operator: at("operator"), units: "10000", node: `0x${"0d".repeat(32)}`, receiptKey: at("voter") };

it("with its bond there, the steward opens an epoch and its pool is an output", async () => {
  as("operator");
  const signed = await signStep({ network, coalition, units: seat.units, node: seat.node, receiptKey: seat.receiptKey });
  as("steward");
  const asked = { network, coalition, seats: JSON.stringify([seat]), consents: [signed.success ? signed.consent : ""] };
  const opened = await activateStep(asked);
  expect(opened).toMatchObject({ success: true, epoch: "1", alreadyActive: false });
  const gdaPool = opened.success ? opened.gdaPool : "";
  expect(await activateStep(asked)).toMatchObject({ success: true, epoch: "1", gdaPool, alreadyActive: true });
  const status = await checkStatusStep({ network, coalition });
  expect(status).toMatchObject({ active: true, gdaPool, seats: [{ ...seat, locked: "0", evicted: false }] });
});
