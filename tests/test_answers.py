"""hooks/pre_gen_project.py: answers that are refused, in one line."""

import pytest

from hooks.pre_gen_project import refusal

GOOD = {"__asked_name": "my-project", "description": "An image classifier", "author": "A B"}


def test_good_answers():
    assert refusal(GOOD) is None and refusal(GOOD | {"author": "A {B} % # }}"}) is None


@pytest.mark.parametrize("mark", ["{{", "{%", "{#"])
@pytest.mark.parametrize("key", ["__asked_name", "description", "author"])
def test_a_template_in_an_answer_is_refused_in_one_line(key, mark):
    """Such as typed at a prompt; cookiecutter itself evaluates those of its command line before."""
    reason = refusal(GOOD | {key: f"a {mark} b"})
    assert reason and "\n" not in reason and mark in reason and key.removeprefix("__asked_") in reason
