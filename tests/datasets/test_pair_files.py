import pytest

from datasets import ImageFolderDataset, read_pairs


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
        + f'Bob/1.png, Bob/2.png,1\n"Cy D/Cy D_0010.png",./Bob/../Bob/1.png,False\n{root}/Bob/2.png,Bob/1.png,TRUE\n'
    )
    for suffix in (".csv", ".txt"):
        assert read(dataset, text, suffix) == ([(2, 3, True), (4, 2, False), (3, 2, True)], None)


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
        ("Bob 1\n", r"line 1: expected 'name n1 n2' or 'name1 n1 name2 n2', got 'Bob 1'"),
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
        ("Bob/1.png,Bob/2.png\n", "line 1: expected path1,path2,label"),
        ("Bob/1.png,Bob/2.png,1\nBob/1.png,Bob/2.png,2\n", "line 2: the label must be 1, true, 0 or false, got '2'"),
        ("Bob/1.png,Bob/3.png,1\n", r"line 1: no image 'Bob/3\.png' in"),
        ("Bob/1.png,../secret.png,1\n", r"line 1: '\.\./secret\.png' lies outside"),
        ("Bob/1.png,Bob/../../faces/Bob/2.png,1\n", "line 1: .* lies outside"),
        ("Bob/1.png,/etc/passwd,1\n", "line 1: '/etc/passwd' lies outside"),
        ("Bob/1.png,./Bob/1.png,1\n", "line 1: an image is paired with itself"),
        (b"Bob/1.png,\xff,1\n", "not UTF-8 text at byte 10"),
    ],
)
def test_errors_name_the_file_and_the_line(dataset, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(dataset, text)
    assert "pairs.txt" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_named(dataset):
    with pytest.raises(ValueError, match=r"gone\.txt: cannot read the pairs \(No such file"):
        read_pairs(dataset.root / "gone.txt", dataset)
