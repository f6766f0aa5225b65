import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type BallotInput, type TallyResult, tallyCore } from "./ballot-core";

export type { BallotInput, TallyResult } from "./ballot-core";

export async function tallyStep(input: BallotInput): Promise<TallyResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "tally" }, input, tallyCore);
}

export const _integrationType = "coalition";
