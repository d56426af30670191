"""What a voter sees follows from the secret, and tells nothing of the arms."""

from dataclasses import replace

from services.abtest.domain.blinding import Blinding
from services.abtest.domain.experiment import Arm, Experiment
from services.abtest.domain.names import PairName


def test_sides_are_the_same_at_every_call(experiment: Experiment) -> None:
    once, again = Blinding(experiment), Blinding(replace(experiment))

    assert all(once.sides("ada", n) == again.sides("ada", n) for n in range(20))


def test_each_arm_is_left_half_of_the_time(experiment: Experiment) -> None:
    blinding = Blinding(experiment)

    left = [blinding.sides(f"voter-{v}", n).left for v in range(100) for n in range(20)]

    assert abs(left.count(Arm.BASELINE) - 1000) < 3 * 22.4  # three standard deviations


def test_sides_and_orders_differ_between_voters_and_between_experiments(
    experiment: Experiment,
) -> None:
    def shown(voter: str, to_show: Experiment) -> tuple[list[Arm], list[int]]:
        blinding = Blinding(to_show)
        sides = [blinding.sides(voter, n).left for n in range(20)]
        return sides, blinding.order(voter, range(20))

    ours = shown("ada", experiment)
    for sides, order in (
        shown("bob", experiment),
        shown("ada", replace(experiment, secret=b"t" * 32)),
        shown("ada", replace(experiment, uid="another")),
    ):
        assert sides != ours[0]
        assert order != ours[1]


def test_every_prompt_is_in_the_order_once(experiment: Experiment) -> None:
    assert sorted(Blinding(experiment).order("ada", range(20))) == list(range(20))


def test_a_pair_leads_to_its_prompt_for_its_voter_only(experiment: Experiment) -> None:
    blinding = Blinding(experiment)
    pair = blinding.pair_id("ada", 7)

    assert blinding.prompt_of(pair, "ada", 20) == 7
    assert blinding.prompt_of(pair, "bob", 20) is None
    assert blinding.issued(pair)


def test_a_pair_id_is_a_resource_id_and_every_one_is_another(experiment: Experiment) -> None:
    blinding = Blinding(experiment)

    pairs = {blinding.pair_id(voter, n) for voter in ("ada", "bob") for n in range(20)}

    assert len(pairs) == 40
    assert all(PairName("default", "support", pair) for pair in pairs)


def test_an_invented_or_edited_pair_was_not_issued(experiment: Experiment) -> None:
    blinding = Blinding(experiment)
    pair = blinding.pair_id("ada", 7)
    other_experiment = Blinding(replace(experiment, secret=b"t" * 32))

    assert not blinding.issued("p-" + "0" * 48)
    assert not blinding.issued(pair[:-1] + ("0" if pair[-1] != "0" else "1"))
    assert not blinding.issued(pair.removeprefix("p-"))
    assert not other_experiment.issued(pair)
