import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type OpenBallotInput, type OpenBallotResult, openBallotCore } from "./ballot-core";

export type { OpenBallotInput, OpenBallotResult } from "./ballot-core";

export async function openBallotStep(input: OpenBallotInput): Promise<OpenBallotResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "open-ballot" }, input, openBallotCore);
}

// A write is never repeated by the executor: what became of it is looked up first.
openBallotStep.maxRetries = 0;

export const _integrationType = "coalition";
