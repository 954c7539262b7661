import shutil

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts.celebdf import TEST_LIST
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeWarning

LINES = (
    "1 YouTube-real/00170.mp4",
    "1 Celeb-real/id0_0002.mp4",
    "0 Celeb-synthesis/id0_id1_0002.mp4",
    "0 Celeb-synthesis/id1_id0_0005.mp4",
)


@pytest.fixture
def write(disk):
    """Write the own layout, frames of videos that are not tested on included."""

    def write(lines=LINES, top="Celeb-DF-v2", between="frames/", ending="\n"):
        videos = [line[2:].replace("\\", "/").removesuffix(".mp4") for line in LINES]
        for number, video in enumerate([*videos, "Celeb-real/id9_0009", "Celeb-synthesis/id9_id8_0009"]):
            folder, name = video.split("/")
            for frame in range(3):
                disk.image(f"{top}/{folder}/{between}{name}/{frame:03}.png", value=10 * number + frame)
        (disk.root / top / TEST_LIST).write_bytes(ending.join([*lines, ""]).encode())
        return disk.root

    return write


@pytest.mark.parametrize("top", [".", "Celeb-DF-v2"])
@pytest.mark.parametrize("between", ["frames/", ""])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_own_list_names_the_test_videos_and_its_digit_1_is_real(write, top, between, ending):
    data = open_dataset("celebdf-v2", root=write(top=top, between=between, ending=ending))
    rows = data.records.set_index("video")
    assert rows["label"].to_dict() == {
        "real/00170": 0,
        "real/id0_0002": 0,
        "Celeb-DF-v2/id0_id1_0002": 1,
        "Celeb-DF-v2/id1_id0_0005": 1,
    }
    assert rows["source"].tolist() == ["00170", "id0_0002", "id0_0002", "id1_0005"]
    assert {path.name for path in rows["path"]} == {"001.png"}
    assert (data.caption, set(rows["split"])) == ("Celeb-DF-v2", {"test"})
    assert data.notes == (f"{TEST_LIST} names 4 videos; the official list of Celeb-DF-v2 names 518",)


def test_back_slashes_are_paths(write):
    assert len(open_dataset("celebdf-v2", root=write([line.replace("/", "\\") for line in LINES]))) == 4


def test_the_list_of_deepfakebench_serves_where_the_own_is_not(disk, write):
    root = write()
    frames = {line[2:-4]: f"Celeb-DF-v2/{line[2:-4].replace('/', '/frames/')}/001.png" for line in LINES}
    content = {
        label: {
            "test": {
                video.split("/")[1]: {"label": label, "frames": [frame]}
                for video, frame in frames.items()
                if ("synthesis" in video) == label.endswith("fake")
            }
        }
        for label in ("CelebDFv2_real", "CelebDFv2_fake")
    }
    disk.json("dataset_json/Celeb-DF-v2.json", {"Celeb-DF-v2": content})
    own, listed = (open_dataset("celebdf-v2", root=root, layout=layout) for layout in ("frames", "json"))
    columns = ["id", "label", "source", "method", "path", "domain"]
    assert own.records[columns].to_numpy().tolist() == listed.records[columns].to_numpy().tolist()
    (root / "Celeb-DF-v2" / TEST_LIST).unlink()
    assert len(open_dataset("celebdf-v2", root=root)) == 4


def test_missing_videos_and_truncated_frames_are_skipped_and_reported(disk, write):
    root = write()
    shutil.rmtree(root / "Celeb-DF-v2/Celeb-synthesis/frames/id0_id1_0002")
    for frame in (root / "Celeb-DF-v2/Celeb-real/frames/id0_0002").iterdir():
        frame.unlink()
    with pytest.warns(ProbeWarning, match="celebdf-v2: skipped 2, kept 2"):
        data = open_dataset("celebdf-v2", root=root)
    assert sorted(data.skipped["reason"]) == ["missing video folder", "video folder without frames"]
    disk.truncate("Celeb-DF-v2/YouTube-real/frames/00170/001.png")
    with pytest.raises(DataError, match=r"found 0 real and 1 fake images.*1 x broken image"):
        open_dataset("celebdf-v2", root=root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_there_is_nothing_to_train_on(write, split):
    with pytest.raises(
        DataError, match=f"of Celeb-DF-v2, got '{split}', whose list contains its test videos.*open split='test' only"
    ):
        open_dataset("celebdf-v2", root=write(), split=split)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "to list the test videos, got an empty list"),
        (["2 Celeb-real/id0_0002.mp4"], r"line 1: expected the label 1 \(real\) or 0 \(fake\), got '2'"),
        (["Celeb-real/id0_0002.mp4"], "line 1: expected the label .* got 'Celeb-real/id0_0002.mp4'"),
        (["", "1 Celeb-reel/id0_0002.mp4"], "line 2 to be one of Celeb-real, .* got 'Celeb-reel'"),
        (["0 Celeb-real/id0_0002.mp4"], "expected the label 1 for a video in Celeb-real, .* got '0 Celeb-real"),
    ],
)
def test_broken_lists_are_named(write, lines, message):
    with pytest.raises(DataError, match=message):
        open_dataset("celebdf-v2", root=write(lines))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"(?s)List_of_testing_videos.txt or .*Celeb-DF-v1.json, but .* neither.*ROOT\[/Celeb-DF-v1\]"),
        ({"layout": "json"}, r"DeepfakeBench's list Celeb-DF-v1\.json for celebdf-v1, but it is in none of"),
        ({"layout": "list"}, "layout to be one of auto, json, frames, got 'list'"),
        ({"compression": "c23"}, "an option of 'celebdf-v1' .* got 'compression'"),
    ],
)
def test_what_is_not_there_is_named(disk, options, message):
    disk.image("x.png")
    with pytest.raises(DataError, match=message):
        open_dataset("celebdf-v1", root=disk.root, **options)
