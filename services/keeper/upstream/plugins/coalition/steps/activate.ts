import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type ActivateInput, type ActivateResult, activateCore } from "./commitment-core";

export type { ActivateInput, ActivateResult } from "./commitment-core";

export async function activateStep(input: ActivateInput): Promise<ActivateResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "activate" }, input, activateCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
activateStep.maxRetries = 0;

export const _integrationType = "coalition";
