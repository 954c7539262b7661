import shutil

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.registry import open_dataset
from gsnr_toolkit.errors import ProbeWarning


def test_the_official_split_gives_originals_and_forgeries(disk):
    root = disk.faceforensics()
    data = open_dataset("nt", root=root, split="train", image_size=24)
    rows = data.records.set_index("video")
    assert sorted(rows.index) == sorted(
        ["real/000", "real/003", "real/004", "real/007"]
        + [f"NeuralTextures/{v}" for v in ("000_003", "003_000", "004_007", "007_004")]
    )
    assert rows.loc["NeuralTextures/000_003", "source"] == "000" == rows.loc["real/000", "source"]
    assert rows.loc["NeuralTextures/003_000", "source"] == "003"
    assert rows["label"].groupby(rows["method"]).first().to_dict() == {"NeuralTextures": 1, "real": 0}
    assert data.caption == "FaceForensics++ NeuralTextures (c23)"
    assert data[0][0].shape == (3, 24, 24)


@pytest.mark.parametrize("top", [".", "FaceForensics++"])
def test_the_tree_may_lie_one_folder_deeper(disk, top):
    disk.faceforensics(top)
    assert len(open_dataset("nt", root=disk.root, split="val")) == 4


def test_the_middle_frame_is_taken_and_more_on_request(disk):
    root = disk.faceforensics(frames=5)
    one = open_dataset("nt", root=root, split="test")
    three = open_dataset("nt", root=root, split="test", frames_per_video=3)
    assert {path.name for path in one.records["path"]} == {"002.png"}
    assert [path.name for path in three.records["path"][:3]] == ["000.png", "002.png", "004.png"]


def test_all_four_manipulations(disk):
    root = disk.faceforensics(methods=("df", "f2f", "fs", "nt"), splits={"test": [["020", "021"]]})
    data = open_dataset("ff", root=root, split="test")
    assert data.records["method"].value_counts().to_dict() == dict.fromkeys(
        ["real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"], 2
    )


def test_the_compression_is_chosen(disk):
    root = disk.faceforensics(compressions=("c23", "c40"))
    paths = open_dataset("nt", root=root, compression="c40").records["path"]
    assert all("/c40/" in str(path) for path in paths)


def test_frames_may_be_called_images(disk):
    root = disk.faceforensics()
    for folder in list(root.rglob("frames")):
        folder.rename(folder.with_name("images"))
    assert len(open_dataset("nt", root=root)) == 8


def test_the_root_may_come_from_the_environment(disk, monkeypatch):
    monkeypatch.setenv("GSNR_DATA", str(disk.faceforensics()))
    assert len(open_dataset("nt")) == 8


def test_a_missing_video_is_skipped_and_reported(disk):
    root = disk.faceforensics()
    shutil.rmtree(root / "manipulated_sequences/NeuralTextures/c23/frames/000_003")
    for frame in (root / "original_sequences/youtube/c23/frames/004").iterdir():
        frame.unlink()
    with pytest.warns(ProbeWarning, match="nt: skipped 2, kept 6") as caught:
        data = open_dataset("nt", root=root)
    assert "1 x missing video folder (first: " in str(caught[0].message)
    assert sorted(data.skipped["reason"]) == ["missing video folder", "video folder without frames"]


def test_a_truncated_frame_is_skipped_and_reported(disk):
    root = disk.faceforensics()
    disk.truncate("original_sequences/youtube/c23/frames/000/001.png")
    with pytest.warns(ProbeWarning, match=r"skipped 1, kept 7\. 1 x broken image"):
        data = open_dataset("nt", root=root)
    assert data.skipped["path"].str.endswith("000/001.png").all()


def break_split(root, text):
    (root / "train.json").write_text(text)


def only_videos(root):
    for folder in list(root.rglob("frames")):
        folder.rename(folder.with_name("videos"))


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (
            lambda r: (r / "train.json").unlink(),
            {},
            r"official split train\.json of FaceForensics\+\+, but it is in none",
        ),
        (lambda r: break_split(r, "[]"), {}, r"train\.json to hold a list of pairs .* but it lists no pair"),
        (lambda r: break_split(r, "[[0, 3]]"), {}, r"to hold a list of pairs .* but an id is not text"),
        (lambda r: break_split(r, '["000"]'), {}, "to hold a list of pairs .* but too many values"),
        (lambda r: break_split(r, "{"), {}, "to hold a list of pairs .* but Expecting property name"),
        (only_videos, {}, "but there are videos only; extract the frames"),
        (None, {"compression": "c40"}, r"frames in .*c40/frames, but there is only c23, .* chosen with compression="),
        (None, {"compression": "c32"}, "compression to be one of raw, c23, c40, got 'c32'"),
        (None, {"layout": "json"}, r"a JSON list of FaceForensics\+\+ for 'nt', but .*train\.json"),
        (None, {"layout": "lmdb"}, "layout to be one of auto, json, frames, got 'lmdb'"),
        (lambda r: shutil.rmtree(r / "original_sequences"), {}, r"either layout .*arrange the files as"),
        (
            lambda r: shutil.rmtree(r / "manipulated_sequences"),
            {},
            r"expected frames in .*NeuralTextures.* no such folder",
        ),
        (lambda r: shutil.rmtree(r / "original_sequences/youtube/c23/frames/000"), {"size": 1}, "at least 2"),
        (None, {"frames": 2}, "an option of 'nt' .* got 'frames'.*Did you mean 'frames_per_video'"),
    ],
)
def test_what_is_broken_is_named(disk, damage, options, message):
    root = disk.faceforensics()
    if damage:
        damage(root)
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_dataset("nt", root=root, **options)
