import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from datasets import ImageFolderDataset, UnreadableImageError
from datasets.faces.paths import PathTable


def test_identities_and_images_are_sorted_and_labeled(tmp_path, write_image):
    for name in ("zoe/2.png", "zoe/1.png", "Anna/b.JPG", "Anna/a.png", "mia/x.pgm"):
        write_image(tmp_path / name)
    dataset = ImageFolderDataset(tmp_path)
    assert dataset.class_names == ["Anna", "mia", "zoe"]
    assert [path.relative_to(tmp_path).as_posix() for path in dataset.paths] == [
        "Anna/a.png",
        "Anna/b.JPG",
        "mia/x.pgm",
        "zoe/1.png",
        "zoe/2.png",
    ]
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1, 2, 2]
    assert len(dataset) == 5


def test_samples_are_rgb_with_their_label(tmp_path, write_image):
    write_image(tmp_path / "a" / "1.png", (1, 2, 3))
    write_image(tmp_path / "b" / "1.png", (200, 30, 60), size=(40, 70))
    sample = ImageFolderDataset(tmp_path)[1]
    assert sample.image.shape == (112, 112, 3) and sample.image.dtype == np.uint8
    assert sample.image[5, 5].tolist() == [200, 30, 60]
    assert (sample.label, sample.dataset_id, sample.visibility, sample.index, sample.unreadable) == (1, 0, None, 1, -1)


def test_labels_are_known_without_decoding(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"nothing")
    dataset = ImageFolderDataset(tmp_path)
    assert dataset.labels.tolist() == [0]
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg"):
        dataset.read(0)


def test_the_other_channel_order_and_a_transform(tmp_path, write_image):
    write_image(tmp_path / "a" / "1.png", (200, 30, 60))
    assert ImageFolderDataset(tmp_path, swap_color_channel=True).read(0)[0, 0].tolist() == [60, 30, 200]
    inverted = ImageFolderDataset(tmp_path, transform=lambda image: 255 - image)
    assert inverted[0].image[0, 0].tolist() == [55, 225, 195]


def test_what_is_no_identity_is_left_out(tmp_path, write_image, caplog):
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "a" / "2.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "folder.png").mkdir()
    write_image(tmp_path / ".cache" / "1.png")
    write_image(tmp_path / "loose.png")
    write_image(tmp_path / "lfw" / "picture.png")
    for name in ("images.npy", "issame.npy"):
        (tmp_path / "lfw" / name).write_bytes(b"")
    dataset = ImageFolderDataset(tmp_path)
    assert dataset.class_names == ["a"] and len(dataset) == 2
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4
    assert any("1 folder without an image" in message and "empty" in message for message in messages)
    assert any("1 image outside" in message for message in messages)
    assert any("1 file left out: 1 .txt (not an image)" in message for message in messages)
    assert any("1 folder within identity folders not searched" in message for message in messages)


def test_identities_with_one_image_are_counted(make_folder, caplog):
    ImageFolderDataset(make_folder([1, 3, 1]))
    assert [record.getMessage() for record in caplog.records] == [
        f"{make_folder([])}: 2 of 3 identities have one image only"
    ]


def test_links_must_not_climb_out_of_the_root(tmp_path, write_image, caplog):
    root, outside = tmp_path / "root", tmp_path / "outside"
    write_image(outside / "secret.png")
    write_image(root / "a" / "1.png")
    write_image(root / "a" / "2.png")
    (root / "b").symlink_to(outside)
    (root / "a" / "3.png").symlink_to(outside / "secret.png")
    (root / "a" / "4.png").symlink_to(root / "a" / "1.png")
    (root / "a" / "5.png").symlink_to(root / "gone.png")
    (root / "loop").symlink_to(root / "loop")
    dataset = ImageFolderDataset(root)
    assert [path.name for path in dataset.paths] == ["1.png", "2.png", "4.png"]
    messages = "\n".join(record.getMessage() for record in caplog.records)
    assert "2 links not followed, out of the root" in messages
    assert "1 .png (a broken link)" in messages
    (tmp_path / "link").symlink_to(root)
    assert len(ImageFolderDataset(tmp_path / "link")) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist; expected one folder of images per identity"),
        (lambda root: root.write_text(""), "is not a folder"),
        (lambda root: root.mkdir(), "no image in any of its 0 folders"),
        (lambda root: (root / "a").mkdir(parents=True), "no image in any of its 1 folder;"),
    ],
)
def test_a_root_without_identities_is_refused(tmp_path, make, message):
    root = tmp_path / "root"
    make(root)
    with pytest.raises(ValueError, match=message) as caught:
        ImageFolderDataset(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_images_without_identity_folders_are_refused(tmp_path, write_image):
    write_image(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"images lie directly in it \(1\)"):
        ImageFolderDataset(tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(make_folder, monkeypatch):
    root = make_folder([2])
    real = os.scandir

    def scandir(path):
        if Path(path).name == "id00":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match=r"cannot list .*id00 \(Permission denied\)"):
        ImageFolderDataset(root)


def test_a_path_table_behaves_like_a_list_of_paths():
    names = ["a/1.png", "bär/2.png", "c/\udcff.png"]
    table = PathTable(Path("root"), names)
    paths = [Path("root") / name for name in names]
    assert list(table) == paths and table[-1] == paths[-1] and paths[1] in table
    assert list(table[1:]) == paths[1:]
    assert list(table.take(np.array([2, 0]))) == [paths[2], paths[0]]
    assert list(pickle.loads(pickle.dumps(table))) == paths
    with pytest.raises(IndexError):
        table[3]
    assert list(PathTable(Path("root"), [])) == []


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (["Anna", "anna", "ANNA", "mia"], "'ANNA', 'Anna', 'anna' differ"),
        (["Jos\u00e9", "Jose\u0301"], r"'Jose\u0301', 'Jos\xe9' differ"),
        (["Stra\u00dfe", "STRASSE", "a", "A"], "'A', 'a', and 1 other group of names differ"),
        (["Anna", "Anne", "\udce9"], ""),
    ],
)
def test_identities_that_people_take_for_one_are_warned_of(names, listed, tmp_path, write_image, caplog):
    for name in names:
        for number in range(2):
            write_image(tmp_path / name / f"{number}.png", size=(8, 8))
    if len(list(tmp_path.iterdir())) < len(names):
        pytest.skip("this file system takes them for one")
    ImageFolderDataset(tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(listed) and all(listed in message for message in messages)


def test_a_folder_that_may_not_be_entered_is_named_itself(make_folder, monkeypatch):
    root = make_folder([1, 2])

    def denying(real):
        def call(path, *args, **options):
            inside = str(path).startswith(f"{root}/id01/") or (real is scandir and str(path) == f"{root}/id01")
            if inside:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **options)

        return call

    scandir = os.scandir
    monkeypatch.setattr(os, "stat", denying(os.stat))
    monkeypatch.setattr(os, "scandir", denying(scandir))
    with pytest.raises(ValueError, match=rf"cannot list {root}/id01 \(Permission denied\); check its permissions"):
        ImageFolderDataset(root)


@pytest.mark.parametrize("pairs", ["pairs.txt", "pairs.csv"])
def test_a_benchmark_of_folders_beside_the_people_is_none_of_them(tmp_path, write_image, caplog, pairs):
    for name in ("ann/1", "ann/2", "lfw/bob/1", "lfw/bob/2"):
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "lfw" / pairs).write_text("bob 1 2\n")
    (tmp_path / "lfw" / "readme.md").write_text("x")
    dataset = ImageFolderDataset(tmp_path)
    assert dataset.class_names == ["ann"] and not caplog.messages and not dataset.unread
    (tmp_path / "ann").rename(tmp_path / ".ann")
    with pytest.raises(ValueError, match=rf"images lie deeper.*: give {tmp_path}/lfw"):
        ImageFolderDataset(tmp_path)
