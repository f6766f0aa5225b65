import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type BreachInput, type BreachResult, breachCore } from "./commitment-core";

export type { BreachInput, BreachResult } from "./commitment-core";

export async function breachStep(input: BreachInput): Promise<BreachResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "breach" }, input, breachCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
breachStep.maxRetries = 0;

export const _integrationType = "coalition";
