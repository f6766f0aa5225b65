export type StepInput = {
  _context?: {
    executionId?: string;
    organizationId?: string;
    workflowId?: string;
  };
};

export function runPluginStep<I, O>(
  _options: { pluginName: string; actionName: string },
  input: I,
  handler: (input: I) => Promise<O>
): Promise<O> {
  return handler(input);
}
