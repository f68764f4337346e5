"""Lists of answers to an exercise, through the fixture `says` of tests/data."""


def passes(says, id, answers, **context):
    for answer in answers:
        assert says(id, answer, **context)[0], answer


def fails(says, id, answers, **context):
    for answer, kind in answers:
        right, line = says(id, answer, **context)
        assert not right and kind in line, (answer, line)
