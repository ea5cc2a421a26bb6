"""No delivery tag is acknowledged twice, however single, multiple and absent acknowledgements are mixed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blackbird.broker.acknowledgements import Acknowledgements


def test_a_settled_tag_is_left_out_of_what_is_acknowledged_together() -> None:
    tags = Acknowledgements()
    tags.settle(3)
    assert tags.settle_up_to(3) == 2
    assert tags.settle_up_to(3) == 0
    assert tags.settle_up_to(5) == 5
    tags.settle(4)
    assert tags.is_settled(4)
    assert not tags.is_settled(6)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20))))
def test_the_broker_never_gets_a_tag_that_is_settled(calls: list[tuple[bool, int]]) -> None:
    tags = Acknowledgements()
    unsettled = set(range(1, 21))
    for multiple, tag in calls:
        if multiple:
            last = tags.settle_up_to(tag)
            expected = {each for each in unsettled if each <= tag}
            assert last == max(expected, default=0)
            unsettled -= expected
        else:
            tags.settle(tag)
            unsettled.discard(tag)
        assert {each for each in range(1, 21) if not tags.is_settled(each)} == unsettled
