import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const here = fileURLToPath(new URL(".", import.meta.url));

/** As tsconfig's `paths`: what is offered to the platform first, then the shims in the platform's place. */
function platform(id: string): string | undefined {
  if (id === "server-only") {
    return `${here}shims/server-only.ts`;
  }
  if (!id.startsWith("@/")) {
    return undefined;
  }
  for (const root of [here, `${here}shims/`]) {
    for (const end of [".ts", ".tsx", "/index.ts"]) {
      const path = `${root}${id.slice(2)}${end}`;
      if (existsSync(path)) {
        return path;
      }
    }
  }
  return undefined;
}

export default defineConfig({
  plugins: [{ name: "platform", enforce: "pre", resolveId: platform }],
  esbuild: { jsx: "transform" },
  test: {
    include: [process.env.RPC_URL ? "tests/chain/*.test.ts" : "tests/unit/*.test.ts"],
    pool: "threads",
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
