"""hooks/pre_gen_project.py: answers that are refused, in one line."""

from pathlib import Path

import jinja2
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


@pytest.mark.parametrize("hook", ["pre_gen_project", "post_gen_project"])
def test_a_hook_is_a_template_that_can_be_read(hook):
    text = (Path(__file__).resolve().parents[1] / "hooks" / f"{hook}.py").read_text(encoding="utf-8")
    environment = jinja2.Environment(extensions=["cookiecutter.extensions.JsonifyExtension"])
    compile(environment.from_string(text).render(cookiecutter={"author": '"""\\'}), hook, "exec")
