import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from corit.sbi import Face, Recipe, SelfBlended, open_sbi, pair_loader
from corit.sbi.loaders import PairBatches
from gsnr_toolkit.data import open_dataset
from gsnr_toolkit.data.base import DataError
from gsnr_toolkit.data.demo.dataset import open_demo
from gsnr_toolkit.data.layouts.image_folder import open_image_folder
from gsnr_toolkit.data.loaders import probe_loader, train_loader
from gsnr_toolkit.data.own import in_memory, wrap
from gsnr_toolkit.data.transforms import image_to_tensor
from gsnr_toolkit.errors import ProbeWarning


@pytest.fixture(scope="module")
def demo():
    return open_demo("nt", size=16, image_size=48)


@pytest.fixture(scope="module")
def data(demo):
    return SelfBlended(demo, seed=1)


def generic(images, **options):
    inner = in_memory(images, [0] * len(images), **options)
    return SelfBlended(inner, masks="generic")


def test_two_rows_for_each_real_image(demo, data):
    real = demo.records[demo.records["label"] == 0]
    assert len(data) == 2 * len(real) == 16
    assert data.records["label"].tolist() == [0, 1] * 8
    assert data.records["method"].tolist() == ["real", "sbi"] * 8
    assert data.records["source"].tolist() == real["source"].repeat(2).tolist()
    assert data.records["id"].tolist()[:2] == ["face-0-real", "face-0-real#sbi"]
    assert set(data.records["domain"]) == {"demo-nt"}
    assert (data.name, data.caption) == ("sbi-demo-nt", "self-blended embedded data")
    assert "self-blended images of the 8 real images of demo-nt" in data.notes[0]
    assert "exact landmarks" in data.notes[1]


def test_items_are_the_images_of_the_pair(data):
    pair = data.pair(4)
    for row, image in ((4, pair.target), (5, pair.blend)):
        tensor, label = data[row]
        assert label == row % 2
        torch.testing.assert_close(tensor, image_to_tensor(image, 48), rtol=0, atol=0)
        np.testing.assert_array_equal(data.load_image(row), image)
    torch.testing.assert_close(data[-1][0], data[15][0], rtol=0, atol=0)
    with pytest.raises(IndexError, match="a row below 16, got row 16"):
        data[16]


def test_embedded_faces_give_their_own_landmarks(demo):
    data = SelfBlended(demo, recipe=Recipe(flip_chance=0))
    for row in (0, 7, 15):
        pair = data.pair(row)
        assert pair.outline in ("68 landmarks", "81 landmarks")
        np.testing.assert_allclose(pair.face.landmarks, demo.pair(2 * (row // 2)).landmarks, atol=1e-4)


def test_embedded_faces_of_other_worlds_too():
    for family in ("cdf", "dfdc"):
        demo = open_demo(family, size=4, image_size=48, split="test")
        data = SelfBlended(demo, recipe=Recipe(flip_chance=0))
        np.testing.assert_allclose(data.pair(2).face.landmarks, demo.pair(2).landmarks, atol=1e-4)


def test_images_of_the_models_size_keep_all_their_pixels(data):
    for row in range(0, 16, 2):
        assert data.pair(row).target.shape == (48, 48, 3)


def test_epochs_differ_and_come_back(data):
    first, second = (data[3, epoch][0] for epoch in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(data[3][0], first, rtol=0, atol=0)
    data.epoch = 1
    try:
        torch.testing.assert_close(data[3][0], second, rtol=0, atol=0)
    finally:
        data.epoch = 0


def test_seeds_differ(demo):
    one, two = (SelfBlended(demo, seed=seed) for seed in (1, 2))
    assert not torch.equal(one[1][0], two[1][0])


def test_test_splits_are_seeded_by_content():
    demo = open_demo("nt", size=6, image_size=48, split="test")
    one, two = SelfBlended(demo, seed=1), SelfBlended(demo, seed=2)
    assert one.seeding == "content"
    two.epoch = 5
    torch.testing.assert_close(one[3][0], two[3][0], rtol=0, atol=0)
    alone = in_memory([demo.load_image(2)], [0], image_size=48)
    assert not torch.equal(SelfBlended(alone, masks="generic")[0][0], one[2][0])
    same = SelfBlended(alone, masks=lambda index, image: Face(demo.pair(2).landmarks), seeding="content")
    torch.testing.assert_close(same[1][0], one[3][0], rtol=0, atol=0)


def test_the_houses_loaders_work_unchanged(data):
    batches = list(probe_loader(data, 8, batch_size=4))
    assert [labels.sum().item() for _, labels in batches] == [2, 2]
    assert batches[0][0].shape == (4, 3, 48, 48)
    again = list(probe_loader(data, 8, batch_size=4))
    torch.testing.assert_close(batches[0][0], again[0][0], rtol=0, atol=0)
    sources = data.records["source"].iloc[list(probe_loader(data, 8).dataset.indices)]
    assert sources.nunique() == 8
    assert [labels.sum().item() for _, labels in train_loader(data, batch_size=4)] == [2] * 4


def test_pair_loader_gives_whole_pairs_and_new_ones_at_each_epoch(data):
    loader = pair_loader(data, batch_size=8, seed=3)
    first, second = (list(loader) for _ in range(2))
    assert len(loader) == len(first) == 2
    for epoch, batches in enumerate((first, second)):
        order = np.random.default_rng([3, epoch]).permutation(8)
        images = torch.cat([images for images, _ in batches])
        for place, pair in enumerate(order):
            for member in (0, 1):
                expected = data[2 * int(pair) + member, epoch][0]
                torch.testing.assert_close(images[2 * place + member], expected, rtol=0, atol=0)
    resumed = pair_loader(data, batch_size=8, seed=3)
    resumed.batch_sampler.epoch = 1
    torch.testing.assert_close(next(iter(resumed))[0], second[0][0], rtol=0, atol=0)


def test_workers_give_the_same_pairs_in_every_epoch(data):
    alone, helped = (pair_loader(data, 8, num_workers=n) for n in (0, 2))
    for _ in range(2):
        for (x, y), (other_x, other_y) in zip(alone, helped, strict=True):
            torch.testing.assert_close(x, other_x, rtol=0, atol=0)
            torch.testing.assert_close(y, other_y)


def test_a_pair_is_made_once_in_a_batch(data, monkeypatch):
    made = []
    original = SelfBlended.pair
    monkeypatch.setattr(SelfBlended, "pair", lambda self, *a: made.append(a) or original(self, *a))
    list(pair_loader(data, 8))
    assert len(made) == 8


def test_pairs_are_left_out_whole():
    batches = PairBatches(4, 4, exclude=[0, 3])
    rows = sorted(row for batch in batches for row, _ in batch)
    assert rows == [4, 5, 6, 7]
    with pytest.raises(DataError, match="one pair to be left, but exclude removes 4 of 4"):
        PairBatches(4, 4, exclude=range(8))
    with pytest.raises(DataError, match="even batch_size of at least 2, got 3"):
        PairBatches(4, 3)


def test_loaders_leave_global_random_states_alone(data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(pair_loader(data, 8))
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_a_copy_in_another_process_reads_the_same(data):
    torch.testing.assert_close(pickle.loads(pickle.dumps(data))[5][0], data[5][0], rtol=0, atol=0)


@pytest.fixture
def frames(tmp_path):
    """Two real videos with landmarks, one without, one with zeros, one unreadable, and a forged one."""
    points = open_demo("nt", size=2, image_size=96).pair(0).landmarks
    rng = np.random.default_rng(0)
    for kind, videos in (("real", "abcde"), ("fake", "f")):
        for video in videos:
            folder = tmp_path / kind / "frames" / video
            folder.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(folder / "0.png")
    for video, content in {"a": points, "b": points[:68], "d": points * 0}.items():
        (tmp_path / "real/landmarks" / video).mkdir(parents=True)
        np.save(tmp_path / "real/landmarks" / video / "0.npy", content)
    (tmp_path / "real/landmarks/e").mkdir()
    (tmp_path / "real/landmarks/e/0.npy").write_bytes(b"nothing")
    return tmp_path


def test_landmarks_beside_frames_are_found_and_missing_ones_told(frames):
    inner = open_image_folder("mine", path=frames, image_size=64)
    with pytest.warns(ProbeWarning, match="generic outlines, not face outlines, for 3 of 5 real images") as seen:
        data = SelfBlended(inner, recipe=Recipe(inner_chance=0))
    message = str(seen[0].message)
    for reason in ("1 x no landmark file", "1 x all landmarks are zero", "1 x landmark file that cannot be read"):
        assert reason in message
    assert "landmark files of 2 of 5 real images" in data.notes[-2]
    assert data.notes[-1] in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, not again at every image
        outlines = [data.pair(row).outline for row in range(0, 10, 2)]
    assert outlines == ["81 landmarks", "68 landmarks", "generic", "generic", "generic"]
    assert "path" in data.records.columns


def test_insisting_on_landmarks(frames):
    inner = open_image_folder("mine", path=frames, image_size=64)
    with pytest.raises(DataError, match=r"3 of 5 have none .* or use masks='auto'"):
        SelfBlended(inner, masks="landmarks")


def test_aligned_crops_have_their_faces_in_the_middle(frames):
    inner = open_image_folder("mine", path=frames, image_size=96)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = SelfBlended(inner, masks="aligned", recipe=Recipe(inner_chance=0))
    assert [data.pair(row).outline for row in range(0, 10, 2)] == ["81 landmarks", "68 landmarks", *["box"] * 3]
    assert data.pair(4).face.box.tolist() == Face.aligned(96, 96).box.tolist()
    assert "where aligned crops have their faces" in data.notes[-1]


def test_generic_masks_on_request_are_no_surprise(frames):
    inner = open_image_folder("mine", path=frames, image_size=64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = SelfBlended(inner, masks="generic")
    assert "as requested" in data.notes[-1]
    assert data.pair(0).outline == "generic"


def test_images_without_faces_are_warned_about_once():
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with pytest.warns(ProbeWarning, match="for 3 of 3 real images .3 x no landmarks beside the images"):
        SelfBlended(in_memory(images, [0, 0, 0], image_size=32))


def test_larger_images_are_cut_around_the_face():
    image = np.random.default_rng(0).integers(0, 256, (1, 300, 400, 3), dtype=np.uint8)
    inner = in_memory(image, [0], image_size=32)
    data = SelfBlended(inner, masks=lambda index, image: Face(box=np.float32([100, 80, 160, 160])))
    sizes = {data.pair(0, epoch).target.shape for epoch in range(10)}
    assert all(height == width < 64 + 1 for height, width, _ in sizes)  # first made smaller, to twice the model's side
    assert data[0][0].shape == (3, 32, 32)


def test_a_centre_crop_becomes_a_random_one_without_resampling():
    image = np.arange(60 * 70, dtype=np.int64).reshape(60, 70)
    image = np.stack([image % 251, image // 251, image * 0], axis=-1).astype(np.uint8)
    inner = in_memory([image], [0], image_size=32, fit="crop", mean=(0, 0, 0), std=(1, 1, 1))
    recipe = Recipe(flip_chance=0, augmented="source", final=False)
    data = SelfBlended(inner, masks="generic", recipe=recipe)
    places = set()
    for epoch in range(8):
        pixels = (data[0, epoch][0] * 255).round().to(torch.int64)
        number = pixels[0] + 251 * pixels[1]
        top, left = divmod(int(number[0, 0]), 70)
        torch.testing.assert_close(number, torch.arange(60 * 70).view(60, 70)[top : top + 32, left : left + 32])
        places.add((top, left))
    assert len(places) > 4
    small = in_memory([image[:20, :24]], [0], image_size=32, fit="crop")
    assert SelfBlended(small, masks="generic")[1][0].shape == (3, 32, 32)


def test_grey_and_palette_files_are_read(tmp_path):
    for kind, mode in (("real", "L"), ("fake", "L")):
        (tmp_path / kind).mkdir()
        Image.new(mode, (40, 40), 90).save(tmp_path / kind / "1.png")
    inner = open_image_folder("mine", path=tmp_path, image_size=40)
    assert SelfBlended(inner, masks="generic")[1][0].shape == (3, 40, 40)


def test_opening_by_name(monkeypatch):
    data = open_dataset("corit.sbi:open_sbi", split="val", image_size=32, size=6, seed=4)
    assert (data.name, len(data), data.image_size, data.seeding) == ("sbi-demo-df", 6, 32, "content")
    monkeypatch.setenv("CORIT_SBI_DATA", "demo-cdf")
    assert open_sbi(size=4).name == "sbi-demo-cdf"
    assert open_sbi(data="demo-nt", size=4, strength=0.5).inner.strength == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SelfBlended(wrap([(torch.zeros(3, 8, 8), 0)], "mine")),
            "mine: expected images as pixels .* returns tensors",
        ),
        (
            lambda: generic(np.zeros((1, 32, 32, 3), np.uint8)).pair(0) and _no_real(),
            "real images .*, but it has none",
        ),
        (
            lambda: SelfBlended(open_demo("nt", size=2), masks="oval"),
            "masks to be one of auto, landmarks, aligned, generic",
        ),
        (lambda: SelfBlended(open_demo("nt", size=2), seeding="time"), "one of epoch, content, got 'time'"),
        (lambda: SelfBlended(open_demo("nt", size=2), seed=-1), "seed of at least 0, got -1"),
        (lambda: SelfBlended(open_demo("nt", size=2), masks=lambda i, x: 3)[0], "a Face or None for image 0, got int"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(DataError, match=message):
        make()


def _no_real():
    return SelfBlended(in_memory(np.zeros((1, 32, 32, 3), np.uint8), [1]))
