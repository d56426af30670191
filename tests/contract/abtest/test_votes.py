"""Pairs are blind, votes are unique, reports add up."""

import asyncio
from typing import Any

import pytest

from anneal.abtest.v1 import ab_test_service_pb2 as pb
from anneal.abtest.v1.experiment_pb2 import ExperimentReport, Vote

BASE = "baseModels/tiny-base"
VERSION = "projects/default/models/support/versions/v-0123456789abcdef"
LEFT, RIGHT = Vote.CHOICE_LEFT, Vote.CHOICE_RIGHT
TIE, BOTH_BAD = Vote.CHOICE_TIE, Vote.CHOICE_BOTH_BAD


def by_model(request: Any) -> str:
    """Texts that a test can tell apart, but that name no model."""
    return "Alpha." if request.model == BASE else "Omega."


async def judge_all(caller: Any, experiment: Any, choose: Any) -> list[Any]:
    """One voter's votes on every prompt."""
    votes = []
    for _ in range(experiment.prompt_count):
        pair = await caller.next_pair(experiment.name)
        votes.append(await caller.cast(pair.name, choose(pair)))
    return votes


async def test_a_voter_judges_every_prompt_once_then_there_is_none_left(caller: Any) -> None:
    ready = await caller.ready("One?", "Two?", "Three?")
    seen, remaining = [], []
    for _ in range(3):
        pair = await caller.next_pair(ready.name)
        assert pair == await caller.next_pair(ready.name)
        seen.append(pair.messages[0].content)
        remaining.append(pair.remaining_count)
        await caller.cast(pair.name, TIE)

    assert sorted(seen) == ["One?", "Three?", "Two?"]
    assert remaining == [3, 2, 1]
    refusal = await caller.refusal(caller.next_pair(ready.name))
    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "NO_PAIR_LEFT")
    assert (await caller.next_pair(ready.name, "bob")).remaining_count == 3


async def test_nothing_in_a_pair_tells_the_arms_and_either_stands_left_half_of_the_time(
    caller: Any, inference: Any
) -> None:
    inference.answer = by_model
    ready = await caller.ready("Hi", experiment_id="support")

    voters = [f"voter-{number}" for number in range(200)]
    pairs = [await caller.next_pair(ready.name, voter) for voter in voters]

    for pair in pairs:
        told = pair.SerializeToString()
        assert not any(word in told for word in (b"tiny-base", b"models", b"v-0123", b"candidate"))
        assert {pair.left_text, pair.right_text} == {"Alpha.", "Omega."}
    base_left = sum(pair.left_text == "Alpha." for pair in pairs)
    assert abs(base_left - 100) < 4 * 7.1  # four standard deviations
    assert len({pair.name for pair in pairs}) == len(pairs)


async def test_the_vote_reveals_which_was_which(caller: Any, inference: Any) -> None:
    inference.answer = by_model
    ready = await caller.ready("Hi")
    for voter in ("ada", "bob", "cyd", "dan", "eve"):
        pair = await caller.next_pair(ready.name, voter)

        vote = await caller.cast(pair.name, LEFT, voter)

        models = {"Alpha.": BASE, "Omega.": VERSION}
        assert vote.left_model == models[pair.left_text]
        assert vote.right_model == models[pair.right_text]
        assert (vote.pair, vote.voter, vote.choice, vote.replaced) == (
            pair.name,
            voter,
            LEFT,
            False,
        )


async def test_identical_answers_are_served_all_the_same(caller: Any, inference: Any) -> None:
    inference.answer = lambda request: "The same."

    pair = await caller.next_pair((await caller.ready("Hi")).name)

    assert pair.left_text == pair.right_text == "The same."


async def test_a_change_of_mind_replaces_the_vote(caller: Any, inference: Any) -> None:
    inference.answer = by_model
    ready = await caller.ready("Hi")
    pair = await caller.next_pair(ready.name)
    tuned_left = pair.left_text == "Omega."

    first = await caller.cast(pair.name, LEFT if tuned_left else RIGHT)
    assert ((await caller.report(ready.name)).wins, first.replaced) == (1, False)
    second = await caller.cast(pair.name, RIGHT if tuned_left else LEFT)
    report = await caller.report(ready.name)

    assert second.replaced
    assert (report.wins, report.losses, report.voter_count) == (0, 1, 1)


async def test_votes_cast_at_the_same_time_are_one_vote(caller: Any) -> None:
    ready = await caller.ready("Hi")
    pair = await caller.next_pair(ready.name)

    votes = await asyncio.gather(*(caller.cast(pair.name, TIE) for _ in range(8)))

    assert [vote.replaced for vote in votes].count(False) == 1
    assert (await caller.report(ready.name)).ties == 1


async def test_a_pair_is_good_for_its_voter_only(caller: Any) -> None:
    ready = await caller.ready("Hi")
    pair = await caller.next_pair(ready.name, "ada")

    refusal = await caller.refusal(caller.cast(pair.name, LEFT, "bob"))

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "PAIR_OF_ANOTHER_VOTER")
    assert (await caller.report(ready.name)).voter_count == 0


async def test_an_invented_pair_does_not_exist(caller: Any) -> None:
    ready = await caller.ready("Hi")

    refusal = await caller.refusal(caller.cast(f"{ready.name}/pairs/p-0000", LEFT))

    assert (refusal.code, refusal.reason) == ("NOT_FOUND", "PAIR_NOT_FOUND")


async def test_a_wrong_vote_is_told_all_its_faults(caller: Any) -> None:
    request = pb.CastVoteRequest(name="pair", voter="ada lovelace")

    refusal = await caller.refusal(caller.stub.CastVote(request))

    assert [violation.field for violation in refusal.violations] == ["name", "voter", "choice"]


async def test_no_pair_is_served_before_both_answers_are_there(caller: Any, inference: Any) -> None:
    inference.delay_s = 30
    created = await caller.create("Hi")

    refusal = await caller.refusal(caller.next_pair(created.name))

    assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "ANSWERS_PENDING")


async def test_ready_pairs_can_be_judged_while_others_are_generated(
    caller: Any, inference: Any
) -> None:
    async def hold_the_late(request: Any, context: Any) -> None:
        if request.messages[0].content == "Late?":
            await asyncio.sleep(30)

    inference.trouble = hold_the_late
    created = await caller.create("Early?", "Late?")
    while (await caller.get(created.name)).ready_count < 1:
        await asyncio.sleep(0.02)

    pair = await caller.next_pair(created.name)
    await caller.cast(pair.name, TIE)

    assert pair.messages[0].content == "Early?"
    assert (await caller.refusal(caller.next_pair(created.name))).reason == "ANSWERS_PENDING"


async def test_a_report_without_votes_claims_nothing(caller: Any) -> None:
    ready = await caller.ready("Hi")

    report = await caller.report(ready.name)

    assert report.name == f"{ready.name}/report"
    assert (report.baseline_model, report.candidate_model) == (BASE, VERSION)
    assert not report.HasField("win_rate")
    assert not report.HasField("left_rate")
    assert (report.interval.lower, report.interval.upper) == (0.0, 1.0)
    assert report.verdict == ExperimentReport.VERDICT_INCONCLUSIVE


async def test_a_better_candidate_is_found_out(caller: Any, inference: Any, clock: Any) -> None:
    inference.answer = by_model
    ready = await caller.ready(*(f"Question {number}?" for number in range(12)))

    votes = await judge_all(
        caller, ready, lambda pair: LEFT if pair.left_text == "Omega." else RIGHT
    )
    report = await caller.report(ready.name)

    assert len(votes) == report.wins == report.prompt_count == 12
    assert (report.win_rate, report.voter_count) == (1.0, 1)
    assert report.interval.lower > 0.5
    assert (report.interval.confidence, report.interval.method) == (0.95, "hedged_betting")
    assert report.verdict == ExperimentReport.VERDICT_CANDIDATE_BETTER
    left_votes = sum(vote.choice == LEFT for vote in votes)
    assert report.left_rate == pytest.approx(left_votes / 12)


async def test_both_bad_counts_half_and_is_reported_by_itself(caller: Any) -> None:
    ready = await caller.ready("One?", "Two?")

    await judge_all(caller, ready, lambda pair: BOTH_BAD)
    report = await caller.report(ready.name)

    assert (report.both_bad, report.ties, report.win_rate) == (2, 0, 0.5)
