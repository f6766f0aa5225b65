const digits = (pair: string): string => `0x${pair.repeat(20)}`;

export const TOKEN = digits("a1");
export const ADMIN = digits("a2");
export const POOL = digits("a3");
export const MEMBER = digits("a4");
export const COALITION = digits("b1");
export const FACTORY = digits("b2");
export const BALLOT_BOX = digits("b3");
export const SESSION = digits("b4");
export const VOTERS = [digits("c1"), digits("c2"), digits("c3")];
export const WALLET = VOTERS[1] as string;
export const HASH = `0x${"ee".repeat(32)}`;
export const word = (pair: string): string => `0x${pair.repeat(32)}`;
