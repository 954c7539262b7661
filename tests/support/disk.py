"""Small copies of the layouts on disk that the readers must understand."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

METHODS = {"df": "Deepfakes", "f2f": "Face2Face", "fs": "FaceSwap", "nt": "NeuralTextures"}
SPLITS = {"train": [["000", "003"], ["004", "007"]], "val": [["010", "012"]], "test": [["020", "021"]]}


class Disk:
    """Writes images and lists below a folder."""

    def __init__(self, root: Path):
        self.root = root

    def image(self, path, value=128, size=(24, 24)):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(value).integers(0, 60, (*size[::-1], 3))
        Image.fromarray((noise + value % 190).astype(np.uint8)).save(file)
        return file

    def truncate(self, path, keep=0.5):
        file = self.root / path
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])

    def json(self, path, content):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        return file

    def faceforensics(self, top=".", compressions=("c23",), methods=("nt",), frames=3, splits=SPLITS):
        for split, pairs in splits.items():
            self.json(f"{top}/{split}.json", pairs)
            for level in compressions:
                for a, b in (pair[::turn] for pair in pairs for turn in (1, -1)):
                    for number in range(frames):
                        original = f"{top}/original_sequences/youtube/{level}/frames/{a}"
                        self.image(f"{original}/{number:03}.png", value=int(a) + number)
                        for method in methods:
                            forged = f"{top}/manipulated_sequences/{METHODS[method]}/{level}/frames/{a}_{b}"
                            self.image(f"{forged}/{number:03}.png", value=100 + int(a) + number)
        return self.root / top

    def nt_list(self, style="posix", name="FF-NT", prefix="FaceForensics++", levels=("c23",), splits=SPLITS):
        """A DeepfakeBench list of NeuralTextures, with the frames that it names."""
        top = self.faceforensics("FaceForensics++", compressions=levels, splits=splits)
        content = {"FF-real": {}, "FF-NT": {}}
        for label, kind in (
            ("FF-real", "original_sequences/youtube"),
            ("FF-NT", "manipulated_sequences/NeuralTextures"),
        ):
            for split, pairs in splits.items():
                videos = {a if label == "FF-real" else f"{a}_{b}" for p in pairs for a, b in (p, p[::-1])}
                content[label][split] = {
                    level: {
                        video: {
                            "label": label,
                            # os.scandir's order is arbitrary: the list is not sorted
                            "frames": [
                                "/".join([prefix, kind, level, "frames", video, frame.name])
                                for frame in sorted((top / kind / level / "frames" / video).iterdir(), reverse=True)
                            ],
                        }
                        for video in sorted(videos)
                    }
                    for level in levels
                }
        if style == "windows":
            content = json.loads(json.dumps(content).replace("/", "\\\\"))
        self.json(f"dataset_json/{name}.json", {name: content})
        return content
