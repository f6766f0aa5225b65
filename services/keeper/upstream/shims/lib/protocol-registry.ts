// How the platform turns a reduced ABI and its overrides into actions, as far as the delta needs it.
import { ethers } from "ethers";
import type { EventOutputs } from "@/lib/abi/event-outputs";

export type InputOverride = {
  name?: string;
  label?: string;
  default?: string;
  helpTip?: string;
  advanced?: boolean;
};

export type FunctionOverride = {
  slug?: string;
  label?: string;
  description?: string;
  inputs?: Record<string, InputOverride>;
  outputs?: Record<string, { name?: string; label?: string; decimals?: number }>;
  /** New: what a write says of itself, read back from its receipt. */
  eventOutputs?: EventOutputs;
};

export type AbiDrivenContract = {
  label: string;
  abi: string;
  addresses: Record<string, string>;
  userSpecifiedAddress?: boolean;
  overrides?: Record<string, FunctionOverride>;
  events?: Record<string, { slug?: string; label?: string; description?: string }>;
};

export type ProtocolAction = {
  slug: string;
  label: string;
  description: string;
  type: "read" | "write";
  contract: string;
  function: string;
  inputs: { name: string; type: string; label: string; default?: string; tuple?: number }[];
  eventOutputs?: EventOutputs;
};

export type ProtocolDefinition = {
  name: string;
  slug: string;
  contracts: Record<string, AbiDrivenContract>;
  actions: ProtocolAction[];
};

const KEBAB = /^[a-z][a-z0-9]*(-[a-z0-9]+)*$/;
const HUMP = /([a-z0-9])([A-Z])/g;

function inputsOf(called: ethers.FunctionFragment, override?: FunctionOverride): ProtocolAction["inputs"] {
  return called.inputs.flatMap((input, position) => {
    const parts = input.baseType === "tuple" ? (input.components ?? []) : [input];
    return parts.map((part, index) => {
      const raw = part.name || `arg${index}`;
      const own = override?.inputs?.[raw];
      return {
        name: own?.name ?? raw,
        type: part.type,
        label: own?.label ?? raw,
        ...(own?.default === undefined ? {} : { default: own.default }),
        ...(input.baseType === "tuple" ? { tuple: position } : {}),
      };
    });
  });
}

export function defineAbiProtocol(input: {
  name: string;
  slug: string;
  contracts: Record<string, AbiDrivenContract>;
}): ProtocolDefinition {
  const actions: ProtocolAction[] = [];
  for (const [contract, described] of Object.entries(input.contracts)) {
    for (const address of Object.values(described.addresses)) {
      if (!ethers.isAddress(address)) {
        throw new Error(`Invalid address "${address}" for contract "${contract}"`);
      }
    }
    new ethers.Interface(described.abi).forEachFunction((called) => {
      const override = described.overrides?.[called.name];
      const slug = override?.slug ?? called.name.replace(HUMP, "$1-$2").toLowerCase();
      if (!KEBAB.test(slug)) {
        throw new Error(`Invalid slug "${slug}"`);
      }
      actions.push({
        slug,
        label: override?.label ?? called.name,
        description: override?.description ?? `Call ${called.name} on the contract`,
        type: called.constant ? "read" : "write",
        contract,
        function: called.name,
        inputs: inputsOf(called, override),
        ...(override?.eventOutputs ? { eventOutputs: override.eventOutputs } : {}),
      });
    });
  }
  return { name: input.name, slug: input.slug, contracts: input.contracts, actions };
}
