import { localWallet } from "@/lib/local-chain";

export function getOrganizationWalletAddress(_organizationId: string): Promise<string> {
  return Promise.resolve(localWallet());
}
