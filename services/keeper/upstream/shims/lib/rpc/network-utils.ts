const DECIMAL = /^[0-9]+$/;

export function getChainIdFromNetwork(network: string | number): number {
  const text = String(network);
  if (!DECIMAL.test(text)) {
    throw new Error(`Unsupported network: ${text}`);
  }
  return Number(text);
}
