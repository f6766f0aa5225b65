import { ethers } from "ethers";
import { BALLOT_BOX_ABI, COALITION_ABI, COALITION_FACTORY_ABI } from "./contracts/abi";

/** There is no service to reach and no credential: that the ABIs can be read is all that can be wrong. */
export async function testCoalition(): Promise<{ success: boolean; error?: string }> {
  try {
    for (const abi of [COALITION_ABI, COALITION_FACTORY_ABI, BALLOT_BOX_ABI]) {
      await Promise.resolve(new ethers.Interface(abi));
    }
    return { success: true };
  } catch (error) {
    return { success: false, error: String(error) };
  }
}
