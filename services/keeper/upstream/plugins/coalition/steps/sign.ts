import "server-only";

import { runPluginStep } from "@/lib/workflow/executor/step-handler";
import { type SignInput, type SignResult, signCore } from "./commitment-core";

export type { SignInput, SignResult } from "./commitment-core";

export async function signStep(input: SignInput): Promise<SignResult> {
  "use step";

  return await runPluginStep({ pluginName: "coalition", actionName: "sign" }, input, signCore);
}

export const _integrationType = "coalition";
