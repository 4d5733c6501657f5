"""core: errors raised with a dotted path are located in one place."""

from core import IngredientsError, Place, Problem, SettingError, locate, parse_string, resolve

TEXT = "[a]\nx = 1.10\n[a.b]\ny = 2\n"


def test_a_setting_error_is_located_in_parsed_and_in_resolved_ingredients():
    error = SettingError("a.b.y", "must be odd")
    assert isinstance(error, IngredientsError) and str(error) == "a.b.y\n    must be odd"
    for ingredients in (parse_string(TEXT), resolve(parse_string(TEXT))):
        assert str(locate(error, ingredients)) == "<text>:4: a.b.y = 2\n    must be odd"


def test_an_absent_setting_has_the_place_of_its_section_or_of_the_file():
    ingredients = parse_string(TEXT)
    places = {"a.b.z": "<text>:3", "a.c.d": "<text>:1", "n.e.w": "<text>", "a.x.z": "<text>:2", "": "<text>"}
    assert {path: str(locate(SettingError(path, "m"), ingredients).problems[0].place) for path in places} == places


def test_problems_that_have_a_place_keep_it():
    error = IngredientsError([Problem(Place("other.ini", 7), "k", "v", "m"), Problem(None, "a.x", "", "m")])
    assert [(str(p.place), p.raw) for p in locate(error, parse_string(TEXT)).problems] == [
        ("other.ini:7", "v"),
        ("<text>:2", "1.10"),
    ]
    plain = IngredientsError("no place at all")
    assert locate(plain, parse_string(TEXT)) is plain
