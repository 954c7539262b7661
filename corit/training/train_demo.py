"""Train the demo detector that ships with the package, and write its card: ``python -m corit.training.train_demo``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

import pandas as pd
import torch

from corit.model.features import FeatureMaker
from corit.model.head_files import encoder_hash
from corit.model.trained import DEMO_FILE, Trained, load_trained
from corit.scoring.evaluate import evaluate_detector, markdown_table, wide_table
from corit.scoring.metrics import METRICS
from corit.training.config import DetectorTraining
from corit.training.data import open_evaluation
from corit.training.train import train_detector
from gsnr_toolkit.data.registry import DATASETS
from gsnr_toolkit.support.atomic import write_text

__all__ = ["DEMO_DATA", "DEMO_TRAINING", "main"]

#: The embedded data sets. The numbers on the card are measured on their test splits.
DEMO_DATA = tuple(name for name in DATASETS if name.startswith("demo-"))

DEMO_TRAINING = DetectorTraining(
    encoder="clip-demo", data="demo-nt", fakes="given", mid_layer=2, train_samples=4000, eval_samples=600, lr=1e-2
)

_CARD = """\
# corit-demo

CoRIT on `clip-demo`, to try `corit predict` and `corit eval` right after installation. **A demo**: it has seen drawn
faces of 64 pixels alone, and knows nothing about photographs. Its answer to a photograph means nothing.

Trained on {real} real faces of `{data}` and the forgery of each; it has seen no other forgery.
The step was chosen by the AUC on validation images of the same kind: {val_auc:.3f} at step {step} of {steps}. The test
splits played no part in any choice.

## How it was made

```
python -m corit.training.train_demo
```

{made}.
Settings other than the defaults: {settings}.
The head has {size} weights and a bias; the encoder is `clip-demo`'s, frozen, sha256 {encoder}.

## What it can and cannot do

Test splits, one real and one forged image of each person, 95 % intervals of a bootstrap over images. The forgeries are
those of the data set.

{table}

An interval of the AUC that holds 0.5 is no evidence of detection. The detector finds traces like those that it was
trained on, and no others: this small frozen encoder lets a linear head see hardly anything of a blend, which is why the
demo is not trained on self-blended images alone, as `corit train` does by default.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, test on every embedded data set, and write the weights and the card."""
    parser = argparse.ArgumentParser(prog="python -m corit.training.train_demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=DEMO_FILE.parent, help="folder for weights and card")
    parser.add_argument("--cache", type=Path, help="folder for cached features, to resume an interrupted run")
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
    how = f"{minutes:.1f} minutes on {options.threads} CPU thread(s)"
    made = how if maker.found == 0 else "Made with features that earlier runs had left in the cache"
    write_text(options.out / "corit-demo.md", _card(pd.concat(tables, ignore_index=True), result, trained, made))
    sys.stdout.write(f"{place}\n")


def _card(table: pd.DataFrame, result: Mapping[str, Any], trained: Trained, made: str) -> str:
    detector: Any = trained.model
    wide = wide_table(table, "video").assign(n=lambda rows: rows["real"] + rows["fake"])
    wide["data"] = [f"`{name}`" for name in wide["data"]]
    default = DetectorTraining().to_dict()
    changed = {name: value for name, value in DEMO_TRAINING.to_dict().items() if value != default[name]}
    return _CARD.format(
        real=(DEMO_TRAINING.train_samples or 0) // 2,
        data=DEMO_TRAINING.data,
        step=result["selected_step"],
        steps=result["steps"],
        val_auc=result["val_auc_selected"],
        made=made,
        settings=", ".join(f"`{name}={value}`" for name, value in changed.items()) or "none",
        size=detector.feature_dim,
        encoder=encoder_hash(detector.encoder)[:12],
        table=markdown_table(wide, {"data": "data", "n": "n", **{name: name for name in METRICS}}),
    )


if __name__ == "__main__":
    main()
