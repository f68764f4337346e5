"""What the tests of exercises share."""

import pytest

from helpers.lesson import Exercises


@pytest.fixture
def says(request, capsys):
    """(right?, what is shown) of an answer; the test's file ends with the notebook's number."""
    check = Exercises(request.module.__name__[-2:])

    def ask(id, answer, **context):
        right = check(id, answer, **context)
        return right, capsys.readouterr().out

    return ask
