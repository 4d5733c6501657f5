"""Tables as spreadsheets write them."""

import pytest
from core import IngredientsError
from pantry.tables import load_csv


def table(tmp_path, text: str, encoding: str = "utf-8"):
    (tmp_path / "t.csv").write_text(text, encoding=encoding)
    return tmp_path / "t.csv"


def test_a_target_of_zero_and_one_is_a_class(tmp_path):
    file = table(tmp_path, "a,b,c\n1,0,0\n2,1,2\n3,1,1\n4,,2\n")
    assert load_csv(file, "c", "all")().classes == ["c"]
    loaded = load_csv(table(tmp_path, "a,b\n1,0\n2,1\n3,1\n"), "b", "all")()
    assert loaded.classes == ["0", "1"] and loaded[1].tolist() == [0, 1, 1]
    assert load_csv(tmp_path / "t.csv", "b", "all", target_kind="number")().classes == ["b"]


def test_commas_are_decimal_marks_between_semicolons(tmp_path):
    X, y = loaded = load_csv(table(tmp_path, "a;b;y\n1,5;x, y;-2,25\n 3 ;z;4\n"), "y", "all", delimiter=";")()
    assert X[:, 0].tolist() == [1.5, 3] and y.tolist() == [-2.25, 4]
    assert list(loaded.input_format["categories"]) == ["b"]


def test_another_encoding_is_named_with_the_mend(tmp_path):
    with pytest.raises(IngredientsError, match="t.csv: is not UTF-8 text; save it as CSV UTF-8"):
        load_csv(table(tmp_path, "a,y\nä,2\n", "latin-1"), "y", "all")()
    with pytest.raises(IngredientsError, match="no.csv: cannot be read: No such file or directory$"):
        load_csv(tmp_path / "no.csv", "y", "all")()
