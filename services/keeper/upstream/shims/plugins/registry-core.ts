import type { IntegrationPlugin } from "@/plugins/registry";

export const integrationRegistry = new Map<string, IntegrationPlugin>();

export function registerIntegration(plugin: IntegrationPlugin): void {
  integrationRegistry.set(plugin.type, plugin);
}
