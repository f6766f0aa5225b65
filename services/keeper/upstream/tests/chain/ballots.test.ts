import { expect, it } from "vitest";
import { castVoteStep } from "@/plugins/coalition/steps/cast-vote";
import { openBallotStep } from "@/plugins/coalition/steps/open-ballot";
import { requireConsensusStep } from "@/plugins/coalition/steps/require-consensus";
import { tallyStep } from "@/plugins/coalition/steps/tally";
import { as, at, moveTime, network } from "./world";

const ballotBox = at("ballotBox");
const FOUND = { verdict: "stall", probes: [1, 2, 3] };
const THE_SAME = '{"probes": [1, 2, 3], "verdict": "stall"}';

it("three runs vote; the keeper acts only when two of them found the same", async () => {
  const terms = {
    network,
    ballotBox,
    topic: "session 7: breach",
    voters: [at("steward"), at("operator"), at("voter")],
    quorum: "2",
    deadlineUnix: at("ballotDeadline"),
  };
  as("steward");
  const opened = await openBallotStep(terms);
  expect(opened).toMatchObject({ success: true, alreadyOpen: false });
  as("voter");
  expect(await openBallotStep(terms)).toMatchObject({ success: true, alreadyOpen: true });
  const ballot = { network, ballotBox, ballotId: opened.success ? opened.ballotId : "" };
  const consensus = { ...ballot, result: FOUND };

  as("steward");
  expect(await castVoteStep({ ...ballot, result: FOUND })).toMatchObject({ success: true, votes: "1", reached: false });
  expect(await castVoteStep({ ...ballot, result: FOUND })).toMatchObject({ success: true, alreadyVoted: true });
  expect(await castVoteStep({ ...ballot, result: "nothing" })).toMatchObject({ success: false });
  expect(await requireConsensusStep(consensus)).toMatchObject({ success: false });
  as("stranger");
  const strange = await castVoteStep({ ...ballot, result: FOUND });
  expect(strange).toMatchObject({ success: false, error: expect.stringContaining("NotVoter") });

  as("operator");
  expect(await castVoteStep({ ...ballot, result: "nothing" })).toMatchObject({ success: true, votes: "1", given: "2" });
  expect(await requireConsensusStep(consensus)).toMatchObject({ success: false });
  as("voter");
  expect(await castVoteStep({ ...ballot, result: THE_SAME })).toMatchObject({ success: true, votes: "2", reached: true });

  expect(await requireConsensusStep(consensus)).toMatchObject({ success: true, votes: "2", given: "3" });
  expect(await requireConsensusStep({ ...ballot, result: "nothing" })).toMatchObject({ success: false });
  await moveTime(7200);
  expect(await tallyStep(ballot)).toMatchObject({ success: true, reached: true, expired: true, missing: [], dissent: [at("operator")] });
  expect(await requireConsensusStep(consensus)).toMatchObject({ success: true });
});

it("a ballot that nobody opened fails closed", async () => {
  as("voter");
  const none = { network, ballotBox, ballotId: `0x${"77".repeat(32)}`, result: FOUND };
  expect(await requireConsensusStep(none)).toMatchObject({ success: false, error: expect.stringContaining("BallotUnknown") });
  expect(await castVoteStep(none)).toMatchObject({ success: false });
});
