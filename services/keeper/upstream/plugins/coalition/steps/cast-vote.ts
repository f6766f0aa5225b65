import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type VoteInput, type CastVoteResult, castVoteCore } from "./ballot-core";

export type { VoteInput, CastVoteResult } from "./ballot-core";

export async function castVoteStep(input: VoteInput): Promise<CastVoteResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "cast-vote" }, input, castVoteCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
castVoteStep.maxRetries = 0;

export const _integrationType = "coalition";
