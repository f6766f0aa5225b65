import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type SlashInput, type SlashResult, slashCore } from "./commitment-core";

export type { SlashInput, SlashResult } from "./commitment-core";

export async function slashStep(input: SlashInput): Promise<SlashResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "slash" }, input, slashCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
slashStep.maxRetries = 0;

export const _integrationType = "coalition";
