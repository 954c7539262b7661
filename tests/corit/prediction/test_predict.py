import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from corit.model.contributions import contributions
from corit.model.head_files import save_detector
from corit.model.trained import DEMO_FILE, Trained, load_trained
from corit.prediction.crop import FaceCropper, cut_square
from corit.prediction.heatmap import draw_heatmap, look
from corit.prediction.media import find_inputs, read_frames
from corit.prediction.predict import as_batch, predict_files, predict_pixels, save_predictions, unique_names
from gsnr_toolkit.data.demo.dataset import open_demo
from gsnr_toolkit.errors import ProbeError
from gsnr_toolkit.models.weights_files import WeightsError
from tests.support.tiny_clip import tiny_clip

DATA = open_demo("df", split="test", size=6, image_size=96)


@pytest.fixture(scope="module")
def demo():
    return load_trained()


@pytest.fixture
def folder(tmp_path):
    """Two images, a broken one, a text file, and a video of five frames."""
    for number in range(2):
        Image.fromarray(DATA.load_image(number)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:400])
    (tmp_path / "readme.txt").write_text("no image")
    write_video(tmp_path / "clip.avi", [DATA.load_image(number) for number in range(5)])
    return tmp_path


def write_video(path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()


def test_an_image_gets_the_score_of_its_tensor(demo, folder):
    found = predict_files(demo, [folder / "0.png"])
    batch = as_batch(demo, [DATA.load_image(0)])
    assert found.files["probability"].item() == pytest.approx(float(demo.model.predict(batch)))
    assert found.files["answer"].item() == ("fake" if found.files["probability"].item() >= 0.5 else "real")
    assert found.heatmaps == {}


def test_a_score_does_not_depend_on_the_company(demo, folder):
    alone = predict_files(demo, [folder / "1.png"]).files["probability"].item()
    together = predict_files(demo, [folder], batch_size=3).files.set_index("file")["probability"]
    assert together[str(folder / "1.png")] == pytest.approx(alone, rel=1e-5)


def test_a_folder_with_a_broken_image_and_a_video(demo, folder):
    found = predict_files(demo, [folder], frames_per_video=3, heatmaps=folder / "maps")
    files = found.files.set_index("file")
    assert [name.rpartition("/")[2] for name in files.index] == ["0.png", "1.png", "broken.png", "clip.avi"]
    broken = files.loc[str(folder / "broken.png")]
    assert broken["answer"] == "not scored"
    assert np.isnan(broken["probability"])
    assert broken["note"].startswith("broken image")
    video = found.frames[found.frames["file"] == str(folder / "clip.avi")]
    assert video["frame"].tolist() == [0, 2, 4]
    assert files.loc[str(folder / "clip.avi")]["probability"] == pytest.approx(video["probability"].mean())
    frames = list(read_frames(folder / "clip.avi", frames_per_video=3))
    for frame, number in zip(frames, (0, 2, 4), strict=True):  # MJPG changes pixels a little
        assert np.abs(frame.pixels.astype(float) - DATA.load_image(number)).mean() < 6
    scores = 1 / (1 + np.exp(-predict_pixels(demo, [frame.pixels for frame in frames])))
    np.testing.assert_allclose(video["probability"], scores, rtol=1e-4)
    assert set(found.heatmaps) == set(files.index) - {str(folder / "broken.png")}
    for path in found.heatmaps.values():
        with Image.open(path) as image:
            assert image.width > 1000
    save_predictions(found, folder / "out")
    assert (folder / "out" / "scores.csv").read_text().count("\n") == 5


def test_patterns_and_repetitions(folder):
    assert [path.name for path in find_inputs([str(folder / "*.png"), folder / "0.png"])] == [
        "0.png", "1.png", "broken.png",
    ]  # fmt: skip
    nested = folder / "deep" / "er"
    nested.mkdir(parents=True)
    (folder / "1.png").rename(nested / "1.png")
    assert find_inputs([str(folder / "**" / "1.png")]) == [nested / "1.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "expected at least one image"),
        (["0.pgn"], r"does not exist; check the path. Did you mean '0.png'\?"),
        (["readme.txt"], r"expected an image or a video, got .*readme.txt; give images"),
        (["*.gif"], r"that match .*\*.gif', got 0 other files"),
        (["*.txt"], r"that match .*\*.txt', got 1 other files"),
        (["empty"], r"expected images or videos in .*empty, got none"),
    ],
)
def test_what_is_no_image(folder, given, message):
    (folder / "empty").mkdir()
    with pytest.raises(ProbeError, match=message):
        find_inputs([str(folder / name) for name in given])


def test_files_that_only_pretend(folder):
    (folder / "text.jpg").write_text("hello")
    (folder / "text.mp4").write_text("hello")
    (frame,) = read_frames(folder / "text.jpg")
    assert (frame.pixels, frame.note) == (None, "not an image, despite its name")
    (frame,) = read_frames(folder / "text.mp4")
    assert frame.pixels is None
    assert "not a video" in frame.note


def test_photographs_are_turned_upright(tmp_path):
    image = Image.fromarray(DATA.load_image(0)[:48])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    (frame,) = read_frames(tmp_path / "turned.png")
    np.testing.assert_array_equal(frame.pixels, np.rot90(DATA.load_image(0)[:48], -1))


def test_no_face_is_said_and_not_scored(demo, folder):
    found = predict_files(demo, [folder / "0.png", folder / "clip.avi"], cropper=lambda image: None, frames_per_video=2)
    assert found.files["note"].tolist() == ["no face found", "2 x no face found"]
    assert found.files["answer"].tolist() == ["not scored"] * 2
    half = predict_files(demo, [folder / "0.png"], cropper=lambda image: image[10:80, 10:80])
    assert half.frames[["width", "height", "note"]].values.tolist() == [[70, 70, "cropped to the face"]]


def test_squares_around_faces_stay_inside():
    image = np.arange(100 * 80 * 3, dtype=np.uint8).reshape(100, 80, 3)
    np.testing.assert_array_equal(cut_square(image, (20, 30, 40, 50), 0.0), image[30:50, 20:40])
    assert cut_square(image, (0, 0, 20, 20), 0.5).shape == (40, 40, 3)
    assert cut_square(image, (0, 0, 80, 100), 0.5).shape == (100, 80, 3)


def test_a_face_detector_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(ProbeError, match=r"does not exist; check --face-model"):
        FaceCropper(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ProbeError, match=r"to be an ONNX file of YuNet"):
        FaceCropper(tmp_path / "bad.onnx")
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(ProbeError, match=r"expected a face detector, but OpenCV .* includes none"):
        FaceCropper()
    with pytest.raises(ProbeError, match=r"margin from 0 to 2"):
        FaceCropper(margin=-1)


def test_names_of_heat_maps_tell_files_apart(tmp_path):
    paths = [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "1.jpg"]
    names = list(unique_names(paths).values())
    assert len(set(names)) == 3
    assert names[0] == "a_1.png"


def test_the_parts_of_a_heat_map_add_up_to_the_answer(demo):
    image = DATA.load_image(1)
    picture = look(demo, image)
    logit = predict_pixels(demo, [image])[0]
    assert picture.relative
    mean = np.sum(demo.training["reference"]) + float(demo.model.head.bias)
    assert picture.parts.sum() + mean == pytest.approx(logit, abs=1e-4)
    assert picture.probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    batch = as_batch(demo, [image])
    with torch.no_grad():
        features = demo.model.features(batch)
    parts = contributions(demo.model, features).sum() + demo.model.head.bias
    assert float(parts) == pytest.approx(logit, abs=1e-5)


def test_a_heat_map_needs_regions(tmp_path, demo):
    with pytest.raises(ProbeError, match=r"expected CoRIT with regions for a heat map, got 'probe' without"):
        look(Trained(tiny_clip(), {"method": "probe"}), DATA.load_image(0))
    path = draw_heatmap(demo, DATA.load_image(0), tmp_path / "new" / "map.png", title="x.png", frame=3)
    assert path.stat().st_size > 10_000


def test_a_wrong_encoder_is_refused_in_a_sentence(tmp_path, demo):
    with pytest.raises(WeightsError, match=r"expected the encoder that the head in .* was trained on, 'clip-demo'"):
        load_trained(DEMO_FILE, weights="random")
    (tmp_path / "bad.safetensors").write_text("x")
    with pytest.raises(WeightsError, match=r"expected .*bad.safetensors to be a detector written by corit train or"):
        load_trained(tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"does not exist; check the path, or train a detector with corit train"):
        load_trained(tmp_path / "none.safetensors")
    again = load_trained(save_detector(demo.model, tmp_path / "own.safetensors"))
    assert not again.is_demo
    batch = as_batch(demo, [DATA.load_image(0)])
    assert torch.equal(again.model(batch), demo.model(batch))


def test_what_eight_bits_of_three_colours_cannot_hold_is_said(demo, tmp_path):
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tmp_path / "deep.tif")
    clear = np.dstack([DATA.load_image(0), np.full((96, 96), 128, np.uint8)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    found = predict_files(demo, [tmp_path / "clear.png", tmp_path / "deep.tif"])
    assert found.files["note"].iloc[0] == "transparency ignored"
    assert "pixels of 32 bits, which have no known white" in found.files["note"].iloc[1]
    assert found.files["answer"].iloc[1] == "not scored"
    alone = 1 / (1 + np.exp(-predict_pixels(demo, [DATA.load_image(0)])[0]))
    assert found.files["probability"].iloc[0] == pytest.approx(alone)
