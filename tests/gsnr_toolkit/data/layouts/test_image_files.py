import itertools
import warnings
from pathlib import Path

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.images import unreadable
from gsnr_toolkit.data.layouts.image_files import Skips, Video, evenly_spaced, natural_key, open_videos
from gsnr_toolkit.errors import ProbeWarning


@pytest.mark.parametrize("total", [1, 2, 7, 300])
@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_frames_are_evenly_spaced_and_distinct(total, count):
    chosen = evenly_spaced(total, count)
    assert len(set(chosen)) == min(total, count)
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(range(total))
    gaps = [b - a for a, b in itertools.pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(chosen[0] - (total - 1 - chosen[-1])) <= 1


def test_numbers_are_sorted_as_numbers():
    names = ["10.png", "9.png", "frame2.png", "frame10.png", "009b.png", "a.png"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered.index("9.png") < ordered.index("10.png")
    assert ordered.index("frame2.png") < ordered.index("frame10.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_whole_images_are_readable(disk, suffix):
    assert unreadable(disk.image(f"image{suffix}")) is None


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_images_are_found_out(disk, suffix, keep):
    path = disk.image(f"image{suffix}", size=(128, 128))
    disk.truncate(path, keep)
    assert unreadable(path).startswith("broken image")


def test_a_flipped_bit_in_a_png_is_found_out(disk):
    path = disk.image("image.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert unreadable(path).startswith("broken image")


def test_other_files_are_found_out(tmp_path):
    (tmp_path / "text.png").write_text("this is not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    assert unreadable(tmp_path / "text.png") == "not an image"
    assert unreadable(tmp_path / "empty.png") == "empty file"
    assert unreadable(tmp_path / "none.png") == "missing file"
    assert unreadable(tmp_path) == "missing file"


@pytest.fixture
def videos(disk):
    """Four videos of five frames, two of either class; the frame's number is in its grey value."""
    return [
        Video(f"v{v}", v % 2, f"s{v // 2}", "fake" if v % 2 else "real", frames)
        for v in range(4)
        for frames in [[disk.image(f"v{v}/{f}.png", value=10 * v + f) for f in range(5)]]
    ]


def open_these(videos, **options):
    return open_videos("test", videos, Skips(), split="train", image_size=24, **options)


def test_the_table_says_where_each_image_comes_from(videos):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = open_these(videos)
    assert data.records["id"].tolist() == ["real/v0/2.png", "fake/v1/2.png", "real/v2/2.png", "fake/v3/2.png"]
    assert data.records["source"].tolist() == ["s0", "s0", "s1", "s1"]
    assert data.skipped.empty
    assert data[0][0].shape == (3, 24, 24)


def test_several_frames_of_a_video_share_its_source(videos):
    data = open_these(videos, frames_per_video=2)
    assert data.records["path"].map(lambda path: path.name).tolist() == ["1.png", "3.png"] * 4
    assert data.records.groupby("video")["source"].nunique().max() == 1


def test_none_takes_all_frames(videos):
    assert len(open_these(videos, frames_per_video=None)) == 20


def test_unreadable_frames_are_skipped_counted_and_reported_once(videos, disk):
    disk.truncate("v0/2.png")
    (disk.root / "v1/2.png").unlink()
    with pytest.warns(ProbeWarning, match="test: skipped 2, kept 2") as caught:
        data = open_these(videos)
    assert len(caught) == 1
    assert "1 x missing file (first: " in str(caught[0].message)
    assert [(Path(path).name, reason) for path, reason in data.skipped.to_numpy()] == [
        ("2.png", "broken image"),
        ("2.png", "missing file"),
    ]
    assert data.records["method"].tolist() == ["real", "fake"]


def test_no_other_image_takes_the_place_of_a_missing_one(videos, disk):
    data = open_these(videos)
    (disk.root / "v1/2.png").unlink()
    with pytest.raises(DataError, match=r"to read item 1 of test, but .*v1/2\.png .*No such file"):
        data[1]


def test_without_verification_a_broken_file_shows_when_it_is_read(videos, disk):
    disk.truncate("v0/2.png")
    data = open_these(videos, verify=False)
    assert len(data) == 4
    with pytest.raises(DataError, match=r"to read item 0 .*open the data set with verify=True"):
        data[0]


def test_a_class_that_cannot_be_read_at_all_is_an_error(videos, disk):
    for name in ("v0", "v2"):
        disk.truncate(f"{name}/2.png")
    message = r"images of both classes, but found 0 real and 2 fake images, and skipped 2 x broken image"
    with pytest.raises(DataError, match=message):
        open_these(videos)


def test_size_draws_a_balanced_part_before_anything_is_read(videos, disk):
    kept = open_these(videos, size=2, seed=3)
    assert sorted(kept.labels) == [0, 1]
    assert open_these(videos, size=2, seed=3).records["id"].tolist() == kept.records["id"].tolist()
    for path in set(disk.root.rglob("*.png")) - set(kept.records["path"]):
        disk.truncate(path)
    assert open_these(videos, size=2, seed=3).skipped.empty


def test_no_frames_per_video_is_an_error(videos):
    with pytest.raises(DataError, match="frames_per_video to be at least 1, got 0"):
        open_these(videos, frames_per_video=0)
