import shutil

import pytest

from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.layouts.deepfakebench import LABELS, LIST_LABELS
from gsnr_toolkit.data.registry import DATASETS, open_dataset
from gsnr_toolkit.errors import ProbeWarning


@pytest.mark.parametrize("style", ["posix", "windows"])
@pytest.mark.parametrize(
    "prefix", ["FaceForensics++", ".", "/home/someone/datasets/rgb/FaceForensics++", "D:/data/FaceForensics++"]
)
def test_paths_are_found_however_they_are_written(disk, make_list, style, prefix):
    make_list(style, prefix=prefix)
    data = open_dataset("nt", root=disk.root, layout="json", image_size=24)
    assert sorted(data.records["video"]) == sorted(
        ["real/000", "real/003", "real/004", "real/007"]
        + [f"NeuralTextures/{v}" for v in ("000_003", "003_000", "004_007", "007_004")]
    )
    assert data[7][0].shape == (3, 24, 24)


def test_both_layouts_give_the_same_data(disk, make_list):
    make_list()
    by_list, by_folder = (
        open_dataset("nt", root=disk.root, layout=layout, frames_per_video=2).records.sort_values("id")
        for layout in ("json", "frames")
    )
    columns = ["id", "label", "source", "method", "split"]
    assert by_list[columns].to_numpy().tolist() == by_folder[columns].to_numpy().tolist()
    assert [path.resolve() for path in by_list["path"]] == [path.resolve() for path in by_folder["path"]]


def test_frames_come_in_the_order_of_their_numbers_whatever_the_list_says(disk, make_list):
    make_list()
    data = open_dataset("nt", root=disk.root, layout="json", frames_per_video=None)
    names = [path.name for path in data.records["path"]]
    assert names == ["000.png", "001.png", "002.png"] * 8


def test_a_list_is_preferred_where_there_is_one(disk, make_list):
    content = make_list()
    del content["FF-NT"]["train"]["c23"]["000_003"]
    disk.json("dataset_json/FF-NT.json", {"FF-NT": content})
    assert len(open_dataset("nt", root=disk.root)) == 7


@pytest.mark.parametrize("folder", [".", "preprocessing/dataset_json"])
def test_lists_are_found_in_their_usual_places(disk, make_list, folder):
    disk.json(f"{folder}/FF-NT.json", {"FF-NT": make_list()})
    shutil.rmtree(disk.root / "dataset_json")
    assert len(open_dataset("nt", root=disk.root, layout="json")) == 8


def test_the_list_of_all_manipulations_serves_one_of_them(disk, make_list):
    content = make_list(name="FaceForensics++")
    content["FF-DF"] = content["FF-NT"]
    disk.json("dataset_json/FaceForensics++.json", {"FaceForensics++": content})
    assert set(open_dataset("nt", root=disk.root, layout="json").records["method"]) == {"real", "NeuralTextures"}


def test_four_single_lists_serve_all_manipulations_and_share_the_originals(disk, make_list):
    content = make_list()
    for name in ("FF-DF", "FF-F2F", "FF-FS", "FF-NT"):
        labelled = {name: {"test": {"c23": {"020_021": dict(content["FF-NT"]["test"]["c23"]["020_021"], label=name)}}}}
        disk.json(f"dataset_json/{name}.json", {name: {"FF-real": content["FF-real"], **labelled}})
    data = open_dataset("ff", root=disk.root, split="test", layout="json")
    assert data.records["method"].value_counts().to_dict() == {
        "real": 2,
        "Deepfakes": 1,
        "Face2Face": 1,
        "FaceSwap": 1,
        "NeuralTextures": 1,
    }


def test_the_level_of_compression_is_chosen(disk, make_list):
    make_list(levels=("c23", "c40"))
    paths = open_dataset("nt", root=disk.root, compression="c40").records["path"]
    assert all("/c40/" in str(path) for path in paths)


def simple_list(disk, name, real, fake, split="test"):
    """A list without levels of compression, and its frames."""
    content = {real: {split: {}}, fake: {split: {}}}
    for label in content:
        for number in range(2):
            frame = f"{name}/{label}/frames/id{number}/000.png"
            disk.image(frame, value=number)
            content[label][split][f"id{number}"] = {"label": label, "frames": [frame]}
    disk.json(f"dataset_json/{name}.json", {name: content})
    return content


@pytest.mark.parametrize(
    ("name", "list_name", "real", "fake"),
    [
        ("celebdf-v1", "Celeb-DF-v1", "CelebDFv1_real", "CelebDFv1_fake"),
        ("celebdf-v2", "Celeb-DF-v2", "CelebDFv2_real", "CelebDFv2_fake"),
        ("dfdc", "DFDC", "DFDC_Real", "DFDC_Fake"),
        ("dfdcp", "DFDCP", "DFDCP_Real", "DFDCP_FakeB"),
        ("deeperforensics", "DeeperForensics-1.0", "DF_real", "DF_fake"),
        ("ffiw", "FFIW", "FFIW_real", "FFIW_fake"),
        ("uadfv", "UADFV", "UADFV_Real", "UADFV_Fake"),
    ],
)
def test_the_other_sets_have_no_level_of_compression_and_are_tested_on(disk, name, list_name, real, fake):
    simple_list(disk, list_name, real, fake)
    data = open_dataset(name, root=disk.root)
    labels = {path.parts[-4]: label for path, label in data.records[["path", "label"]].to_numpy()}
    assert labels == {real: 0, fake: 1}
    assert len(data) == 4
    assert set(data.records["split"]) == {"test"}
    assert set(data.records["domain"]) == {name}
    assert data.caption == list_name
    with pytest.raises(
        DataError, match=r"(no compression for .*has no levels of it|an option of .*), got 'c(40|ompression)'"
    ):
        open_dataset(name, root=disk.root, compression="c40")


@pytest.mark.parametrize(
    ("name", "list_name", "real", "fake"),
    [
        ("faceshifter", "FaceShifter", "FF-real", "FF-FH"),
        ("dfd", "DeepFakeDetection", "DFD_real", "DFD_fake"),
    ],
)
def test_the_family_of_faceforensics_has_levels_of_compression(disk, name, list_name, real, fake):
    content = simple_list(disk, list_name, real, fake)
    levels = {label: {"test": {"c23": {}, "c40": splits["test"]}} for label, splits in content.items()}
    disk.json(f"dataset_json/{list_name}.json", {list_name: levels})
    assert len(open_dataset(name, root=disk.root, split="test", compression="c40")) == 4
    with pytest.raises(DataError, match="found 0 real and 0 fake images"):
        open_dataset(name, root=disk.root, split="test")
    with pytest.raises(DataError, match=f"compression level in .*{real}/test to be one of c23, c40, got 'raw'"):
        open_dataset(name, root=disk.root, split="test", compression="raw")


def test_the_two_forgeries_of_dfdcp_are_told_apart(disk):
    content = simple_list(disk, "DFDCP", "DFDCP_Real", "DFDCP_FakeA")
    content["DFDCP_FakeB"] = {"test": {"b": {"label": "DFDCP_FakeB", "frames": ["DFDCP/b.png"]}}}
    disk.image("DFDCP/b.png")
    disk.json("dataset_json/DFDCP.json", {"DFDCP": content})
    data = open_dataset("dfdcp", root=disk.root)
    assert data.records["method"].value_counts().to_dict() == {"real": 2, "DFDCP-A": 2, "DFDCP-B": 1}


def test_a_forgery_of_celeb_df_shares_its_source_with_the_target_video(disk):
    content = {"CelebDFv2_real": {"test": {}}, "CelebDFv2_fake": {"test": {}}}
    for label, video in (("CelebDFv2_real", "id0_0002"), ("CelebDFv2_fake", "id0_id1_0002")):
        frame = f"Celeb-DF-v2/{label}/frames/{video}/000.png"
        disk.image(frame)
        content[label]["test"][video] = {"label": label, "frames": [frame.replace("/", "\\")]}
    disk.json("dataset_json/Celeb-DF-v2.json", {"Celeb-DF-v2": content})
    assert open_dataset("celebdf-v2", root=disk.root).records["source"].tolist() == ["id0_0002", "id0_0002"]


def test_a_bare_entry_in_the_place_of_a_split_is_skipped_and_reported(disk):
    content = simple_list(disk, "DFDCP", "DFDCP_Real", "DFDCP_FakeB")
    content["DFDCP_FakeA"] = {"test": {"label": "DFDCP_FakeA", "frames": ["x.png"]}}
    disk.json("dataset_json/DFDCP.json", {"DFDCP": content})
    with pytest.warns(ProbeWarning, match="skipped 1, kept 4.*bare entry in place of a table of videos"):
        data = open_dataset("dfdcp", root=disk.root, split="test")
    assert data.skipped["path"].tolist() == ["DFDCP.json: DFDCP_FakeA/test"]


def test_where_every_entry_is_bare_the_error_counts_them(disk):
    content = simple_list(disk, "DFDC", "DFDC_Real", "DFDC_Fake")
    for label, splits in content.items():
        splits["val"] = {"label": label, "frames": ["x.png"]}
    disk.json("dataset_json/DFDC.json", {"DFDC": content})
    with pytest.raises(DataError, match=r"0 real and 0 fake .*skipped 2 x one bare entry"):
        open_dataset("dfdc", root=disk.root, split="val")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"label": "DFDC_Fake", "frames": []}, "video without frames"),
        ({"label": "DFDC_Fake"}, "entry without frames"),
        ("DFDC_Fake", "entry without frames"),
        ({"label": "DFDC_Real", "frames": ["x.png"]}, "labelled otherwise than its group DFDC_Fake"),
    ],
)
def test_entries_that_are_no_videos_are_skipped_and_reported(disk, entry, reason):
    content = simple_list(disk, "DFDC", "DFDC_Real", "DFDC_Fake")
    content["DFDC_Fake"]["test"]["odd"] = entry
    disk.json("dataset_json/DFDC.json", {"DFDC": content})
    with pytest.warns(ProbeWarning, match="skipped 1, kept 4"):
        data = open_dataset("dfdc", root=disk.root, split="test")
    assert data.skipped["reason"].tolist() == [reason]


def test_missing_and_truncated_frames_are_skipped_and_reported(disk, make_list):
    make_list()
    real = "FaceForensics++/original_sequences/youtube/c23/frames"
    (disk.root / real / "000/001.png").unlink()
    disk.truncate(f"{real}/003/001.png")
    with pytest.warns(ProbeWarning, match="nt: skipped 2, kept 6"):
        data = open_dataset("nt", root=disk.root, layout="json")
    assert sorted(data.skipped["reason"]) == ["broken image", "missing file"]


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("celebdf-v2", "train", r"split='test' of Celeb-DF-v2, got 'train'.* \(it lists all videos\); open"),
        ("celebdf-v1", "val", r"of Celeb-DF-v1, got 'val', .* \(it is a copy of the test list\).*select models"),
        ("dfdcp", "val", "of DFDCP, got 'val', whose list contains its test videos"),
        ("dfd", "train", "of DeepFakeDetection, got 'train', .*every video is in all three splits"),
        ("deeperforensics", "val", "of DeeperForensics-1.0, got 'val', .*the real videos are the same"),
        ("uadfv", "train", "of UADFV, got 'train', whose list contains"),
    ],
)
def test_lists_that_hold_test_videos_are_refused(disk, name, split, message):
    list_name = DATASETS[name].fixed["list_name"]
    real, fake = (LIST_LABELS[list_name][at] for at in (0, -1))
    simple_list(disk, list_name, real, fake, split=split)
    with pytest.raises(DataError, match=message):
        open_dataset(name, root=disk.root, split=split)


@pytest.mark.parametrize("name", ["dfdc", "dfdcp", "faceshifter"])
def test_a_training_list_of_its_own_may_be_trained_on(disk, name):
    list_name = DATASETS[name].fixed["list_name"]
    real, fake = (LIST_LABELS[list_name][at] for at in (0, -1))
    content = simple_list(disk, list_name, real, fake, split="train")
    if name == "faceshifter":
        content = {label: {"train": {"c23": splits["train"]}} for label, splits in content.items()}
        disk.json(f"dataset_json/{list_name}.json", {list_name: content})
    assert len(open_dataset(name, root=disk.root, split="train")) == 4


def test_a_label_of_another_list_is_unknown_here(disk):
    content = simple_list(disk, "DFDC", "DFDC_Real", "DFDC_Fake")
    content["FF-real"] = content["DFDC_Real"]
    disk.json("dataset_json/DFDC.json", {"DFDC": content})
    with pytest.raises(DataError, match=r"each label in .*DFDC\.json to be one of DFDC_Real, DFDC_Fake, got 'FF-real'"):
        open_dataset("dfdc", root=disk.root)


def test_every_label_of_a_list_has_a_class():
    for labels in LIST_LABELS.values():
        assert {LABELS[label][0] for label in labels} == {0, 1}


def rename_label(content):
    content["FF-NX"] = content.pop("FF-NT")


def rename_inner_label(content):
    content["FF-NT"]["train"]["c23"]["000_003"]["label"] = "NeuralTexture"


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (rename_label, {}, r"one of FF-real, FF-DF, .*got 'FF-NX'.* Did you mean 'FF-NT'\?"),
        (rename_inner_label, {}, "label of each video in .* got 'NeuralTexture'"),
        (lambda c: c["FF-NT"].pop("train"), {}, "split of FF-NT in .* to be one of val, test, got 'train'"),
        (None, {"compression": "c40"}, "compression level in .*FF-real/train to be one of c23, got 'c40'"),
        (lambda c: c["FF-NT"]["train"].update(c23={}), {}, "found 4 real and 0 fake images"),
        (lambda c: c.clear(), {}, "to hold {data set: .* got '{}'"),
        (None, {"root": "frames removed"}, "frames that the list names below .* but found none"),
        (None, {"root": "list broken"}, "expected valid JSON in"),
    ],
)
def test_what_is_broken_is_named(disk, make_list, damage, options, message):
    content = make_list()
    if damage:
        damage(content)
        disk.json("dataset_json/FF-NT.json", {"FF-NT": content})
    situation = options.pop("root", None)
    if situation == "frames removed":
        shutil.rmtree(disk.root / "FaceForensics++")
    if situation == "list broken":
        disk.truncate("dataset_json/FF-NT.json")
    with pytest.raises(DataError, match=message):
        open_dataset("nt", root=disk.root, layout="json", **options)


def test_a_missing_list_is_an_error_that_names_the_places(disk):
    disk.image("x.png")
    with pytest.raises(DataError, match=r"DeepfakeBench's list DFDC\.json for dfdc, but it is in none of"):
        open_dataset("dfdc", root=disk.root, split="test")
