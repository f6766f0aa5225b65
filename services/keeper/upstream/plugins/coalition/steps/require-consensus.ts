import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type VoteInput, type RequireConsensusResult, requireConsensusCore } from "./ballot-core";

export type { VoteInput, RequireConsensusResult } from "./ballot-core";

export async function requireConsensusStep(input: VoteInput): Promise<RequireConsensusResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "require-consensus" }, input, requireConsensusCore);
}

export const _integrationType = "coalition";
