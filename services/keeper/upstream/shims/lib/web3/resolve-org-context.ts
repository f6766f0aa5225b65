export type OrgContextResult =
  | { success: true; organizationId: string; userId?: string }
  | { success: false; error: string };

export function resolveOrganizationContext(
  context: { executionId?: string; organizationId?: string },
  _logPrefix: string,
  _actionName: string
): Promise<OrgContextResult> {
  return Promise.resolve({
    success: true,
    organizationId: context.organizationId ?? "local",
  });
}
