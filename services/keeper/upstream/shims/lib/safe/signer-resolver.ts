export const SIGNER_MODE = {
  EOA: "eoa",
  SAFE: "safe",
  SAFE_ROLE: "safe-role",
} as const;

export type SignerMode =
  | { kind: typeof SIGNER_MODE.EOA }
  | { kind: typeof SIGNER_MODE.SAFE; safeAddress: string }
  | { kind: typeof SIGNER_MODE.SAFE_ROLE; safeAddress: string };

export function resolveSignerForNode(_options: {
  organizationId: string;
  chainId: number;
  web3Connection?: string;
}): Promise<SignerMode> {
  return Promise.resolve({ kind: SIGNER_MODE.EOA });
}
