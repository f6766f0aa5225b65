/**
 * What a protocol write says of itself by an event.
 *
 * A write node returns neither return values nor logs, so what a call made (a pool's address) or really did (a
 * flow rate that the protocol rounded down) cannot be used by later nodes. An action that declares `eventOutputs`
 * gets the named arguments of one event of its own transaction beside the write's result.
 */

/** Who must have emitted the event; anybody may emit a look-alike in the same transaction. */
export type EventEmitter =
  /** A contract of the protocol, by its key; its address on the action's network. */
  | { contract: string }
  /** The contract whose address this input holds. */
  | { input: string };

export type EventOutputs = {
  /** An event of the ABI of the contract `abiOf`. */
  event: string;
  abiOf: string;
  emitter: EventEmitter;
  /** Event argument -> action input that it must equal: a sponsored transaction carries other people's calls too. */
  match: Record<string, string>;
  /** `only`: two of them are an error. `last`: the newest says what holds now. */
  take: "only" | "last";
  /** Event argument -> output field. */
  fields: Record<string, { name: string; label: string }>;
};
