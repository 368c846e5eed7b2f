"""What was made of an object, by its identity."""

from llmobs.by_identity import ByIdentity


def test_the_same_object_is_known_and_an_equal_one_is_not() -> None:
    made: ByIdentity[str] = ByIdentity(10)
    one, equal = [1, 2], [1, 2]
    made.put(one, "made")
    assert made.get(one) == "made"
    assert made.get(equal) is None


def test_an_object_that_comes_where_another_was_is_not_taken_for_it() -> None:
    made: ByIdentity[int] = ByIdentity(10)
    for number in range(1000):  # each would get the place in memory of the one before, were that let go of
        thing = [number]
        assert made.get(thing) is None
        made.put(thing, number)
        assert made.get(thing) == number


def test_it_holds_no_more_than_it_may() -> None:
    made: ByIdentity[int] = ByIdentity(4)
    for number in range(50):
        made.put([number], number)
        assert 1 <= len(made) <= 4
