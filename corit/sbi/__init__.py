"""Self-blended images: forgeries made from one real image, for training and as counterparts at test time.

``faces`` and ``sources`` locate the face, ``windows``, ``masks`` and ``photometric`` are the steps, ``blend`` runs them
in order, ``recipe`` holds every number, ``seeds`` the random numbers; ``dataset``, ``loaders`` and ``counterpart`` are
what callers use. Detectors, training and scores do not belong here: this package knows images only.
"""

from importlib.util import find_spec

if find_spec("cv2") is None:
    raise ModuleNotFoundError(
        "expected OpenCV for corit.sbi, but it is not installed; run pip install 'gsnr-toolkit[corit]'", name="cv2"
    )

from corit.sbi.blend import SelfBlend, self_blend
from corit.sbi.counterpart import counterpart, counterpart_and_mask
from corit.sbi.dataset import SelfBlended, open_sbi
from corit.sbi.faces import Face
from corit.sbi.loaders import PairBatches, pair_loader
from corit.sbi.recipe import SOURCE_ONLY, Recipe
from corit.sbi.seeds import content_seed

__all__ = [
    "SOURCE_ONLY",
    "Face",
    "PairBatches",
    "Recipe",
    "SelfBlend",
    "SelfBlended",
    "content_seed",
    "counterpart",
    "counterpart_and_mask",
    "open_sbi",
    "pair_loader",
    "self_blend",
]
