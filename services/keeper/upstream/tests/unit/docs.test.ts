import { readFileSync } from "node:fs";
import { expect, it, vi } from "vitest";

vi.mock("server-only", () => ({}));

import coalition from "@/plugins/coalition";
import superfluid from "@/protocols/superfluid";

const page = (name: string): string => readFileSync(new URL(`../../docs/plugins/${name}.md`, import.meta.url), "utf8");

it("the coalition page has every action with its inputs and outputs", () => {
  const text = page("coalition");
  for (const action of coalition.actions) {
    const row = text.split("\n").find((line) => line.startsWith(`| \`coalition/${action.slug}\` |`));
    expect(row, action.slug).toBeDefined();
    for (const field of action.configFields) {
      if (field.type !== "group") {
        expect(row).toContain(`\`${field.key}\``);
      }
    }
    for (const { field } of action.outputFields ?? []) {
      expect(text, `${action.slug}: ${field}`).toContain(`\`${field}\``);
    }
  }
});

it("the superfluid page has every action with its inputs and event outputs", () => {
  const text = page("superfluid");
  for (const action of superfluid.actions) {
    const row = text.split("\n").find((line) => line.startsWith(`| \`superfluid/${action.slug}\` |`));
    expect(row, action.slug).toBeDefined();
    for (const input of action.inputs) {
      expect(row).toContain(`\`${input.name}\``);
    }
    for (const field of Object.values(action.eventOutputs?.fields ?? {})) {
      expect(row).toContain(`\`${field.name}\``);
    }
  }
});
