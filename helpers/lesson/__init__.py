"""What every notebook needs to teach: claims and their scorecard, exercises, predictions, widgets.

The words of a lesson (claims, criteria, predictions) lie in `data/NN_stem/claims.toml`, the
references of its exercises in `data/NN_stem/exercises.py`: out of a reader's sight.
"""

from helpers.lesson.exercises import Exercise, Exercises, Mistake, agrees, equals
from helpers.lesson.scorecard import VERDICTS, Scorecard
from helpers.lesson.widgets import explore

__all__ = [
    "VERDICTS",
    "Exercise",
    "Exercises",
    "Mistake",
    "Scorecard",
    "agrees",
    "equals",
    "explore",
]
