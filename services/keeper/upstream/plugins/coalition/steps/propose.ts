import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type ProposeInput, type ProposeResult, proposeCore } from "./commitment-core";

export type { ProposeInput, ProposeResult } from "./commitment-core";

export async function proposeStep(input: ProposeInput): Promise<ProposeResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "propose" }, input, proposeCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
proposeStep.maxRetries = 0;

export const _integrationType = "coalition";
