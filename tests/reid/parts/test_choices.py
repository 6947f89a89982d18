"""Names that are wrong get an error that helps."""

import pytest

from reid.parts.choices import check_name, choose


def test_a_known_name_gives_its_option() -> None:
    assert choose("fruit", "apple", {"apple": 3, "pear": 4}) == 3


def test_the_error_lists_what_is_allowed_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown fruit 'aple', allowed: apple, pear; did you mean 'apple'\?"):
        choose("fruit", "aple", {"pear": 4, "apple": 3})


def test_no_guess_where_nothing_is_near() -> None:
    with pytest.raises(ValueError, match=r"^unknown fruit 'x', allowed: apple$"):
        check_name("fruit", "x", ["apple"])
