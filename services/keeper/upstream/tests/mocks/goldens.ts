import { readFileSync } from "node:fs";

type Golden = { action: string; signature: string; args: string[]; calldata: string };

const path = new URL("../unit/__goldens__/calldata.json", import.meta.url);
const goldens = JSON.parse(readFileSync(path, "utf8")) as Golden[];

/** What `cast calldata` makes of it; another test of the repository runs cast again and compares. */
export function golden(action: string): string {
  const found = goldens.find((one) => one.action === action);
  if (!found) {
    throw new Error(`no golden calldata of ${action}`);
  }
  return found.calldata;
}
