import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type CoalitionInput, type CheckStatusResult, checkStatusCore } from "./commitment-core";

export type { CoalitionInput, CheckStatusResult } from "./commitment-core";

export async function checkStatusStep(input: CoalitionInput): Promise<CheckStatusResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "check-status" }, input, checkStatusCore);
}

export const _integrationType = "coalition";
