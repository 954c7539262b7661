"""Train the demo detector that ships with the package, and write its card: ``python -m corit.train_demo``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import pandas as pd
import torch

from corit.evaluate import evaluate_detector, markdown_table
from corit.features import FeatureMaker
from corit.metrics import METRICS
from corit.train import train_detector
from corit.train_config import DetectorTraining
from corit.train_data import open_evaluation
from corit.trained import DEMO_FILE, load_trained
from gsnr_toolkit.atomic import write_text
from gsnr_toolkit.data.registry import DATASETS

__all__ = ["DEMO_DATA", "DEMO_TRAINING", "main"]

#: The embedded data sets, on whose test splits the card's numbers are measured.
DEMO_DATA = tuple(name for name in DATASETS if name.startswith("demo-"))

DEMO_TRAINING = DetectorTraining(encoder="clip-demo", data="demo-df", views=4, steps=800)

_CARD = """\
# corit-demo

CoRIT on `clip-demo`, to try `corit predict` and `corit eval` right after installation. **A demo**: it has seen drawn
faces of 64 pixels and self-blended copies of them, and knows nothing about photographs. Its answer to a photograph
means nothing.

Trained on self-blended pairs of the real faces of `{data}` alone; it has seen no forgery of any of the data sets
below. The step was chosen by AUC on self-blended pairs of the validation split (step {step} of {steps}, {val_auc:.3f});
the test splits played no part in any choice but this page.

## How it was made

```
python -m corit.train_demo
```

{made} {threads} CPU thread(s). Settings other than the defaults: {settings}. The head has {size} weights; the encoder
is `clip-demo`'s, frozen, sha256 {encoder}.

## What it can and cannot do

Test splits, one image a person and class, 95 % intervals of a bootstrap over images. The forgeries are those of the
data set, which it never saw.

{table}

An interval that holds 0.5 is no evidence of detection. Accuracy at a probability of 0.5, and calibration, are poor
where forgeries do not look like blends: probabilities are those of self-blended pairs, half of them fake.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test on every embedded data set, write the weights and the card.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog="python -m corit.train_demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO_FILE.parent, help="folder of weights and card")
    parser.add_argument("--cache", type=Path, help="folder of cached features, to go on where a run broke off")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = train_detector(DEMO_TRAINING, folder, device="cpu", cache=options.cache, draws=0, progress=True)
        minutes = (time.monotonic() - began) / 60
        options.out.mkdir(parents=True, exist_ok=True)
        place = options.out / DEMO_FILE.name
        copyfile(Path(folder) / "selected.safetensors", place)
    trained = load_trained(place)
    maker = FeatureMaker(trained.model, options.cache)
    tables = [
        evaluate_detector(trained, open_evaluation(DEMO_TRAINING, name, trained.spec), maker=maker, progress=True).table
        for name in DEMO_DATA
    ]
    made = f"{minutes:.1f} minutes on" if maker.found == 0 else "Made (with features from an earlier run) on"
    write_card(options.out / "corit-demo.md", pd.concat(tables, ignore_index=True), result, trained, made)
    sys.stdout.write(f"{place}\n")


def write_card(path: Path, table: pd.DataFrame, result: dict[str, object], trained: object, made: str) -> None:
    """Write the card.

    Args:
        path: Where to.
        table: Measures on every data set.
        result: What the training returned.
        trained: The detector.
        made: How long it took, as the beginning of a sentence.
    """
    from typing import Any

    from corit.evaluate import wide_table
    from corit.weights import encoder_hash

    detector: Any = trained
    wide = wide_table(table, "video").assign(n=lambda rows: rows["real"] + rows["fake"])
    wide["data"] = [f"`{name}`" for name in wide["data"]]
    default = DetectorTraining().to_dict()
    changed = {name: value for name, value in DEMO_TRAINING.to_dict().items() if value != default[name]}
    text = _CARD.format(
        data=DEMO_TRAINING.data,
        step=result["selected_step"],
        steps=result["steps"],
        val_auc=result["val_auc_selected"],
        made=made,
        threads=torch.get_num_threads(),
        settings=", ".join(f"{name} {value}" for name, value in changed.items()) or "none",
        size=detector.model.feature_dim,
        encoder=encoder_hash(detector.model.encoder)[:12],
        table=markdown_table(wide, {"data": "data", "n": "n", **{name: name for name in METRICS}}),
    )
    write_text(path, text)


if __name__ == "__main__":
    main()
