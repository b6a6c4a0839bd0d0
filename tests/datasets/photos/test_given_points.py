"""Tables of points: both forms, and every line that is none."""

import numpy as np
import pytest

from datasets.photos.given_points import GivenPoints

TEN = "1,2,3,4,5,6,7,8,9,10"
POINTS = np.arange(1.0, 11).reshape(5, 2)
CVLFACE = "idx," + ",".join(f"ldmk_{number}" for number in range(10))


def table(tmp_path, text, name="points.csv"):
    path = tmp_path / name
    path.write_text(text)
    return GivenPoints(path)


@pytest.mark.parametrize(
    "text",
    [
        f"a/b.jpg,{TEN}\n",
        f"path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\na/b.jpg,{TEN}\n\n",
        f'"a/b.jpg",{TEN}\r\n',
        f"a\\b.jpg;{TEN.replace(',', ';')}\n",
        "./a/b.jpg\t" + TEN.replace(",", "\t"),
        f"\ufeffa/b.jpg,{TEN}\n",
    ],
)
def test_a_path_and_ten_numbers(tmp_path, text):
    given = table(tmp_path, text)
    assert np.array_equal(given.of("a/b.jpg", 0, (9, 9)), POINTS)
    assert given.of("b.jpg", 0, (9, 9)) is None and len(given) == 1 and not given.is_numbered
    given.check_count(7)


def test_cvlface_counts_images_and_gives_fractions(tmp_path):
    fractions = ",".join(f"{number / 10:.5f}" for number in range(1, 11))
    given = table(tmp_path, f"{CVLFACE}\n0,{fractions}\n1,{fractions}\n", "ldmk_5points.csv")
    np.testing.assert_allclose(given.of("whatever", 1, (100, 200, 3)), POINTS / 10 * [200, 100])
    assert given.of("whatever", 2, (100, 200)) is None
    given.check_count(2)
    with pytest.raises(ValueError, match="has points of 2 images, but there are 3"):
        given.check_count(3)


def test_the_name_says_which_table_it_is(tmp_path):
    first, second = (table(tmp_path, f"a,{TEN}{end}").name for end in ("\n", "1\n"))
    assert first.startswith("points of points.csv (sha256 ") and first != second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no points; expected path and ten numbers"),
        ("\n \n", "holds no points"),
        ("a.jpg,1,2\n", "line 1: 3 columns; expected path and ten numbers"),
        (f"a.jpg,{TEN}\nb.jpg,{TEN[:-2]}x\n", "line 2: ten numbers expected"),
        (f"a.jpg,{TEN.replace('10', 'nan')}\n", "line 1: a number is not finite"),
        (f"a.jpg,{TEN.replace('10', '1e9')}\n", "line 1: a number is not finite, or larger"),
        (f"a.jpg,{TEN}\n./a.jpg,{TEN}\n", "line 2: './a.jpg' has points on an earlier line"),
        (f"{CVLFACE}\nx,{TEN}\n", "line 2: fractions of width and height expected"),
        (f"{CVLFACE}\n1.5,{','.join('0' * 10)}\n", "line 2: idx must be a whole number, got '1.5'"),
        (f'"a.jpg,{TEN}\n' + "x" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text)
