import os
from pathlib import Path

import pytest

from datasets import ImageFolderDataset, read_indices, read_pairs, text_file


@pytest.fixture
def dataset(tmp_path, write_image):
    root = tmp_path / "faces"
    for name in (
        "Ann_Lee/Ann_Lee_0001.png",
        "Ann_Lee/Ann_Lee_0002.png",
        "Bob/1.png",
        "Bob/2.png",
        "Cy D/Cy D_0010.png",
    ):
        write_image(root / name, size=(4, 4))
    return ImageFolderDataset(root)


def read(dataset, text, suffix=".txt"):
    file = dataset.root.parent / f"pairs{suffix}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    pairs = read_pairs(file, dataset)
    table = list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.issame.tolist(), strict=True))
    return table, None if pairs.folds is None else pairs.folds.tolist()


def test_both_line_forms_without_a_heading(dataset):
    table, folds = read(dataset, "Ann_Lee 1 2 \nBob\t1\tCy D\t10\t\n\nBob 2 Ann_Lee 0001\n")
    assert table == [(0, 1, True), (2, 4, False), (3, 0, False)]
    assert folds is None


def test_the_heading_states_the_folds(dataset):
    text = "2\t1\r\nAnn_Lee\t1\t2\r\nAnn_Lee\t1\tBob\t1\r\nBob\t1\t2\r\nBob\t1\tAnn_Lee\t2\r\n"
    table, folds = read(dataset, text)
    assert [issame for _, _, issame in table] == [True, False, True, False]
    assert folds == [0, 0, 1, 1]


def test_a_heading_with_one_number_is_a_single_block(dataset):
    table, folds = read(dataset, "1\nAnn_Lee 1 2\nAnn_Lee 1 Bob 1\n")
    assert len(table) == 2 and folds is None


@pytest.mark.parametrize("heading", ["", "first,second,same\n", "\ufeffpath1,path2,label\n"])
def test_csv(dataset, heading):
    root = dataset.root
    text = (
        heading
        + 'Bob/1.png, Bob/2.png,1\n"Cy D/Cy D_0010.png",./Bob/../Bob/1.png,False\n'
        + f"{root}/Bob/2.png,Ann_Lee/Ann_Lee_0001.png,0\n"
    )
    for suffix in (".csv", ".txt"):
        assert read(dataset, text, suffix) == ([(2, 3, True), (4, 2, False), (3, 0, False)], None)


def test_labels_are_the_protocols_not_the_folders(dataset):
    table, _ = read(dataset, "Bob/1.png,Bob/2.png,0\n")
    assert table == [(2, 3, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pairs in it"),
        ("\n \n", "no pairs in it"),
        ("1 1\n", "a heading without pairs|promises 1 x 1"),
        ("path1,path2,label\n", "a heading without pairs"),
        ("Bob 1\n", r"line 1: expected 'path1 path2 label', 'name n1 n2' or 'name1 n1 name2 n2', got 'Bob 1'"),
        ("Bob 1 2\nBob 1 x\n", "line 2: expected"),
        ("Bob 1 2 3 4\n", "line 1: expected"),
        ("Bob 1 2\n\nBob 1 7\n", r"line 3: no image 7 of 'Bob': neither Bob/Bob_0007\.\* nor Bob/7\.\*"),
        ("Eve 1 2\n", "line 1: no image 1 of 'Eve'"),
        ("../faces/Bob 1 2\n", "line 1: no image 1 of"),
        ("Bob 1 1\n", "line 1: an image is paired with itself"),
        (
            "2 1\nBob 1 2\nBob 1 Ann_Lee 1\n",
            "promises 2 x 1 genuine and as many impostor pairs, 4 in all, the file has 2",
        ),
        ("Bob/1.png,Bob/2.png\n", "line 1: expected 'path1 path2 label'"),
        ("Bob/1.png,Bob/2.png,1\nBob/1.png,Bob/2.png,2\n", "line 2: the label must be 1, true, 0 or false, got '2'"),
        ("Bob/1.png,Bob/3.png,1\n", r"line 1: no image 'Bob/3\.png' in"),
        ("Bob/1.png,../secret.png,1\n", r"line 1: '\.\./secret\.png' lies outside"),
        ("Bob/1.png,Bob/../../faces/Bob/2.png,1\n", "line 1: .* lies outside"),
        ("Bob/1.png,/etc/passwd,1\n", "line 1: '/etc/passwd' lies outside"),
        ("Bob/1.png,./Bob/1.png,1\n", "line 1: an image is paired with itself"),
        (b"Bob/1.png,\xff,1\n", r"line 1: no image '\\udcff' in"),
        # Odd labels, in the first line too.
        ("Bob/1.png,Bob/2.png,-1\nBob/1.png,Bob/2.png,1\n", "line 1: the label must be 1, true, 0 or false, got '-1'"),
        ("Bob/1.png,Bob/2.png,no\nBob/1.png,Bob/2.png,1\n", "line 1: the label must be 1, true, 0 or false, got 'no'"),
        ("Bob/1.png Bob/2.png same\n", "line 1: the label must be"),
        ("foto1,foto2,gleich\nBob/1.png,Bob/2.png,1\n", "line 1: the label must be"),
        ("path1,path2,label\npath1,path2,label\n", "line 2: the label must be"),
        ("Bob/1.png,Bob/2.png,1,0\n", "line 1: expected"),
        # Contradictions, also in the other order and form.
        ("Bob/1.png,Bob/2.png,1\n\nBob/1.png,Bob/2.png,0\n", "lines 1 and 3 give one pair both labels"),
        ("label,a,b\n1,Bob/1.png,Bob/2.png\n0,Bob/2,Bob/1\n", "lines 2 and 3 give one pair both labels"),
        ("Bob 1 2\nBob/2.png Bob/1.png 0\n", "lines 1 and 2 give one pair both labels"),
        # Headings that do not fit.
        ("2 1\nBob 1 2\nAnn_Lee 1 2\nBob 1 Ann_Lee 1\nBob 2 Ann_Lee 1\n", "line 2: .* fold 1 has 2 and 0"),
        ("2\nBob 1 2\nAnn_Lee 1 2\nBob 1 Ann_Lee 1\n", "promises 1 x 2"),
        ("1\nBob 1 2\nAnn_Lee 1 2\n", "line 2: .* fold 1 has 2 and 0"),
        ("Bob 1 2\n".encode("utf-16-le"), "zero bytes; save it as a text file or CSV in UTF-8"),
        (b"PK\x03\x04\x14\0\x06\0xl/worksheets", "zero bytes"),
        ("# only words\n", "a heading without pairs|no pairs"),
    ],
)
def test_errors_name_the_file_and_the_line(dataset, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(dataset, text)
    assert "pairs.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(dataset):
    with pytest.raises(ValueError, match=r"gone\.txt: cannot read the pairs \(No such file"):
        read_pairs(dataset.root / "gone.txt", dataset)


FORMS = {
    "tabs": "Bob/1.png\tBob/2.png\t1\nBob/1.png\tAnn_Lee/Ann_Lee_0001.png\t0\n",
    "blanks": "Bob/1.png Bob/2.png 1\n  Bob/1.png   Ann_Lee/Ann_Lee_0001.png  0  \n",
    "semicolons": "Bob/1.png;Bob/2.png;1\nBob/1.png;Ann_Lee/Ann_Lee_0001.png;0\n",
    "columns that are empty": "path1,path2,label,,\nBob/1.png,Bob/2.png,1,,\nBob/1.png,Ann_Lee/Ann_Lee_0001.png,0,\n",
    "label first": "same,left,right\n1,Bob/1.png,Bob/2.png\n0,Bob/1.png,Ann_Lee/Ann_Lee_0001.png\n",
    "numbers as pandas writes them": "Bob/1.png,Bob/2.png,1.0\nBob/1.png,Ann_Lee/Ann_Lee_0001.png,0.0\n",
    "Kaggle's pairs.csv": "name,imagenum1,imagenum2,\nBob,1,2,\nBob,1,Ann_Lee,1\n",
    "Kaggle's heading with two names": "name,imagenum1,name,imagenum2\nBob,1,Bob,2\nBob,1,Ann_Lee,1\n",
    "back slashes": "Bob\\1.png,.\\Bob\\2.png,1\nBob\\1.png,Ann_Lee\\Ann_Lee_0001.png,0\n",
    "no suffix": "Bob/1,Bob/2,1\nBob/1,Ann_Lee/Ann_Lee_0001,0\n",
    "another suffix": "Bob/1.jpg,Bob/2.JPG,1\nBob/1.bmp,Ann_Lee/Ann_Lee_0001.jpeg,0\n",
    "zeros": "Bob 0001 02\nBob 1 Ann_Lee 1\n",
    "quotes": '"Bob/1.png", "Bob/2.png", "1"\n"Bob/1.png","Ann_Lee/Ann_Lee_0001.png","false"\n',
    "comments": "# my pairs\nBob 1 2\n#Bob 1 2\n# Bob 2 Ann_Lee 1\nBob 1 Ann_Lee 1\n",
    "old line ends": "Bob 1 2\rBob 1 Ann_Lee 1\r",
    "forms mixed": "Bob 1 2\nBob/1.png\tAnn_Lee/Ann_Lee_0001.png\t0\n",
    "UTF-16": "Bob 1 2\nBob 1 Ann_Lee 1\n".encode("utf-16"),
    "an index as pandas writes it": ",path1,path2,label\n0,Bob/1,Bob/2,1\n1,Bob/1,Ann_Lee/Ann_Lee_0001,0\n",
    "an index with a name": "Unnamed: 0,a,b,y\n7,Bob/1.png,Bob/2.png,1.0\n8,Bob/1.png,Ann_Lee/Ann_Lee_0001.png,0.0\n",
    "Excel's separator": "sep=;\r\nprobe;gallery;match\r\nBob/1;Bob/2;1\r\nBob/1;Ann_Lee/Ann_Lee_0001;0\r\n",
    "another case": "BOB/1.PNG,bob/2.Png,1\nBob/1.png,ann_lee/ANN_LEE_0001,0\n",
    "another case of names": "bob 1 2\nBOB 1 ann_lee 1\n",
    "UTF-8 with a mark": "Bob 1 2\r\nBob 1 Ann_Lee 1\r\n".encode("utf-8-sig"),
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_every_form_names_the_same_pairs(dataset, text, suffix, caplog):
    caplog.clear()
    assert read(dataset, text, suffix) == ([(2, 3, True), (2, 0, False)], None)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "text",
    [
        "Cy D/Cy D_0010.png Bob/1.png 0\n",
        "Cy D 10 Bob 1\n",
        "Cy D\t10\tBob\t1\n",
        "Cy D,010,Bob,1\n",
        '"Cy D/Cy D_0010.png";Bob/1.png;0\n',
    ],
)
def test_names_may_hold_blanks(dataset, text):
    assert read(dataset, text) == ([(4, 2, False)], None)


def test_names_may_hold_separators_and_bytes_that_are_no_text(tmp_path, write_image):
    root = tmp_path / "faces"
    for name in ("A,B/1.png", "C;D/1.png", "#1/1.png", "\udcff/1.png", "path/1.png"):
        write_image(root / name, size=(4, 4))
    dataset = ImageFolderDataset(root)
    at = {name: label for label, name in enumerate(dataset.class_names)}
    text = b"A,B 1 C;D 1\n#1 1 \xff 1\n\xff/1.png A,B/1.png 0\npath 1 A,B 1\n"
    expected = [("A,B", "C;D"), ("#1", "\udcff"), ("\udcff", "A,B"), ("path", "A,B")]
    assert read(dataset, text) == ([(at[first], at[second], False) for first, second in expected], None)


def test_one_stem_with_two_suffixes_is_refused_with_both_names(tmp_path, write_image):
    root = tmp_path / "faces"
    for number, name in enumerate(("p0_0001.jpg", "p0_0001.png", "p0_0002.png", "p0_2.png")):
        write_image(root / "p0" / name, size=(4, 4), seed=number)
    dataset = ImageFolderDataset(root)
    for text in ("p0 1 2\n", "p0/p0_0001 p0/p0_2.png 1\n", "p0/p0_0001.webp p0/p0_2.png 1\n"):
        with pytest.raises(ValueError, match=r"line 1: .*ambiguous: p0/p0_0001\.jpg and p0/p0_0001\.png"):
            read(dataset, text)
    with pytest.raises(ValueError, match=r"ambiguous: p0/p0_0002\.png and p0/p0_2\.png"):
        read(dataset, "p0/p0_0001.png p0/p0_0001.jpg 1\np0 2 2\n")
    assert len(read(dataset, "p0/p0_0001.jpg p0/p0_0001.png 1\n")[0]) == 1


def test_another_number_is_no_other_suffix(tmp_path, write_image):
    write_image(tmp_path / "faces" / "a" / "x.png", size=(4, 4))
    (tmp_path / "faces" / "a" / "x.png").rename(tmp_path / "faces" / "a" / "x.1")
    write_image(tmp_path / "faces" / "a" / "y.png", size=(4, 4))
    dataset = ImageFolderDataset(tmp_path / "faces")
    assert read(dataset, "a/x.1 a/y 1\n") == ([(0, 1, True)], None)
    with pytest.raises(ValueError, match=r"no image 'a/x\.2'"):
        read(dataset, "a/x.2 a/y 1\n")


def test_a_repeated_pair_counts_once_and_that_is_said(dataset, caplog):
    text = "Bob 1 2\nBob 1 Ann_Lee 1\nBob/2.png,Bob/1.png,1\nBob 1 2\n"
    assert read(dataset, text) == ([(2, 3, True), (2, 0, False)], None)
    assert "2 repetitions of a pair that came before; each pair counts once. The first: line 3, as 1" in caplog.text


def test_repetitions_that_the_heading_counts_stay(dataset, caplog):
    text = "2 1\nBob 1 2\nBob 1 Ann_Lee 1\nBob 2 1\nBob 1 Ann_Lee 2\n"
    assert read(dataset, text) == ([(2, 3, True), (2, 0, False), (3, 2, True), (2, 1, False)], [0, 0, 1, 1])
    assert "1 repetition of a pair that came before; all stay, because the heading counts them" in caplog.text


def test_labels_that_contradict_the_folders_are_said(dataset, caplog):
    read(dataset, "Ann_Lee/Ann_Lee_0001.png,Ann_Lee/Ann_Lee_0002.png,1\nBob/1.png,Bob/2.png,0\n")
    assert (
        "1 pair contradicts the folders, the first in line 2: Bob/1.png and Bob/2.png as two identities" in caplog.text
    )


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "long", "name"])
def test_what_is_no_list_is_one_line_at_once(dataset, tmp_path, monkeypatch, kind):
    path = {"device": "/dev/zero", "name": "a\0b"}.get(kind, tmp_path / "list")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "long":
        monkeypatch.setattr(text_file, "MAX_BYTES", 100)
        path.write_text("Bob 1 2\n" * 20)
    for reader in (lambda: read_pairs(path, dataset), lambda: read_indices(Path(path))):
        with pytest.raises(ValueError) as caught:
            reader()
        assert str(caught.value).isprintable() and ("list" in str(caught.value) or kind in ("device", "name"))


@pytest.mark.parametrize("text", ["a 1 2\na 1 b 1\n", "a,1,b,1\na,1,2\n"])
def test_a_first_pair_of_identities_with_the_names_of_columns_is_no_heading(tmp_path, write_image, text):
    for number, name in enumerate(["a/1", "a/2", "b/1"]):
        write_image(tmp_path / f"faces/{name}.png", seed=number)
    (tmp_path / "pairs.txt").write_text(text)
    assert len(read_pairs(tmp_path / "pairs.txt", ImageFolderDataset(tmp_path / "faces")).issame) == 2


@pytest.mark.parametrize("text", ["{} 1 2\n", "{0}/1.jpg,{0}/2.jpg,1\n"])
@pytest.mark.parametrize(
    ("folder", "listed"), [("Jos\u00e9", "Jose\u0301"), ("Jose\u0301", "JOS\u00c9"), ("\uac00", "\u1100\u1161")]
)
def test_accents_may_be_encoded_in_another_way(tmp_path, write_image, text, folder, listed):
    for number in (1, 2):
        write_image(tmp_path / f"faces/{folder}/{number}.png", seed=number)
    (tmp_path / "pairs.txt").write_text(text.format(listed), encoding="utf-8")
    assert read_pairs(tmp_path / "pairs.txt", ImageFolderDataset(tmp_path / "faces")).issame.tolist() == [True]


def test_a_name_that_is_there_counts_before_one_that_looks_like_it_and_two_of_these_are_ambiguous(
    tmp_path, write_image
):
    for name in ("anna/1", "anna/2", "Anna/1", "Anna/2"):
        write_image(tmp_path / f"faces/{name}.png", seed=len(name))
    dataset = ImageFolderDataset(tmp_path / "faces")
    if dataset.class_names != ["Anna", "anna"]:
        pytest.skip("this file system takes them for one")
    assert read(dataset, "anna 1 2\nAnna/1.jpg Anna/2 1\n")[0] == [(2, 3, True), (0, 1, True)]
    for text in ("ANNA 1 2\n", "ANNA/1.png anna/2.png 1\n"):
        with pytest.raises(ValueError, match=r"ambiguous: Anna/1\.png and anna/1\.png"):
            read(dataset, text)
