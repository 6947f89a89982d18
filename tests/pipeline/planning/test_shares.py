"""What share of a machine a trial gets, and how many fit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.shares import Machines, Node, Room, Share, Shares, largest, slots

SHARES = st.one_of(
    st.builds(
        Share, cpus=st.integers(1, 6), gpus=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 1.0]), processes=st.just(1)
    ),
    st.builds(Share, cpus=st.integers(1, 6), gpus=st.sampled_from([0.0, 1.0]), processes=st.integers(2, 5)),
)
NODES = st.lists(st.builds(Node, st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gpus": 2.0}, r"gpus is 2; .*several GPUs are several processes: gpus: 1, processes: 2"),
        ({"gpus": 2.0, "processes": 2}, r"gpus: 1, processes: 4"),
        ({"gpus": 0.5, "processes": 2}, r"gpus is 0\.5 with processes: 2; allowed: 0, or 1 for each"),
        ({"cpus": 0}, r"cpus is 0, allowed: 1 or more"),
        ({"processes": 0}, r"processes is 0, allowed: 1 or more"),
        ({"gpus": -0.5}, r"gpus is -0\.5, allowed: 0 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Share(**({"cpus": 1, "gpus": 0.0, "processes": 1} | fields))


@given(st.lists(SHARES, min_size=1, max_size=4))
def test_the_largest_has_room_for_each(shares: list[Share]) -> None:
    found = largest(shares)
    for share in shares:
        assert (found.cpus, found.processes) >= (share.cpus, share.processes)
        assert found.cpus >= share.cpus
        assert found.processes >= share.processes
        assert found.gpus >= share.gpus
    assert largest([found]) == found


def test_a_trial_of_several_experiments_gets_the_largest_of_each_field() -> None:
    usual = Share(cpus=1, gpus=0.25, processes=1)
    shares = Shares(usual, {"a": Share(cpus=4, gpus=0.0, processes=1), "b": Share(cpus=1, gpus=1.0, processes=2)})
    assert shares.of(()) == shares.of(["others"]) == usual
    assert shares.of(["a"]) == Share(cpus=4, gpus=0.0, processes=1)  # also what is less
    assert shares.of(["a", "others"]) == Share(cpus=4, gpus=0.25, processes=1)
    assert shares.of({"a", "b"}) == Share(cpus=4, gpus=1.0, processes=2)
    assert shares.of({"a", "b"}, scores=True) == Share(cpus=4, gpus=1.0, processes=1)


@given(SHARES, NODES)
def test_slots_are_as_many_as_can_be_put_one_by_one(share: Share, nodes: list[Node]) -> None:
    """Oracle: processes put on the GPUs and cores of each machine until no more fits."""
    processes = 0
    for node in nodes:
        cores, gpus = node.cpus, [Fraction(1)] * node.gpus
        size = Fraction(str(share.gpus))
        while cores >= share.cpus:
            place = next((index for index, free in enumerate(gpus) if free >= size), None)
            if size and place is None:
                break
            if size and place is not None:
                gpus[place] -= size
            cores -= share.cpus
            processes += 1
    assert slots(share, nodes) == processes // share.processes


@given(st.lists(SHARES, min_size=1, max_size=12), st.builds(Node, st.integers(0, 16), st.integers(0, 4)))
def test_a_room_holds_as_many_as_its_machine_and_never_more(shares: list[Share], node: Node) -> None:
    for share in shares:
        room, count = Room.of([node]), 0
        while room.holds(share):
            room, count = room.without(share), count + 1
        assert count == slots(share, [node])
    room = Room.of([node])
    taken = []
    for share in shares:
        if room.holds(share):
            room = room.without(share)
            taken.append(share)
    assert sum(share.all_cpus for share in taken) <= node.cpus
    assert sum(share.all_gpus for share in taken) <= node.gpus + 1e-9


def test_what_waits_is_not_overtaken_by_what_takes_the_same() -> None:
    room = Room.of([Node(4, 1)]).without(Share(cpus=1, gpus=0.5, processes=1))
    waits = Share(cpus=1, gpus=1.0, processes=1)
    assert not room.holds(waits)
    left = room.without(waits)
    assert not left.holds(Share(cpus=1, gpus=0.5, processes=1))  # there is half a GPU, and the whole one would wait on
    assert left.holds(Share(cpus=2, gpus=0.0, processes=1))
    assert not left.holds(Share(cpus=3, gpus=0.0, processes=1))  # would leave it no core


def test_no_more_run_at_a_time_than_was_asked_for() -> None:
    share = Share(cpus=3, gpus=0.0, processes=1)
    assert Machines([Node(8, 0)], None).at_once(share) == 2
    assert Machines([Node(8, 0), Node(3, 1)], None).at_once(share) == 3
    assert Machines([Node(8, 0)], 1).at_once(share) == 1
    assert Machines([Node(2, 0)], None).at_once(share) == 1  # an estimate; the sweep refuses it
