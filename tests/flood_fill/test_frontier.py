import pytest

from nissl.flood_fill.frontier import Frontier


def taken(frontier):
    found = []
    while (position := frontier.pop()) is not None:
        frontier.mark(position)
        found.append(position)
    return found


def frontier(order="first_found"):
    made = Frontier((2, 2, 2), order)
    made.begin((10, 10, 10))
    for score, x in ((1.0, 12), (3.0, 14), (2.0, 16), (9.0, 11)):
        made.propose(score, (10, 10, x))
    return made


def test_positions_come_in_the_order_they_were_found_and_each_cell_once():
    assert taken(frontier()) == [(10, 10, 10), (10, 10, 12), (10, 10, 14), (10, 10, 16)]  # 11 is in the cell of 12


def test_the_most_certain_position_can_go_first():
    assert taken(frontier("strongest_first")) == [(10, 10, 10), (10, 10, 11), (10, 10, 14), (10, 10, 16)]


@pytest.mark.parametrize("order", ["first_found", "strongest_first"])
def test_a_restored_frontier_goes_on_in_the_same_order(order):
    first, second = frontier(order), Frontier((2, 2, 2), order)
    first.mark(first.pop())
    second.restore(first.state())
    for each in (first, second):
        each.propose(2.5, (10, 12, 10))
    assert taken(second) == taken(first)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="move_order must be one of"):
        Frontier((2, 2, 2), "random")
