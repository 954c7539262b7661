"""Self-blended images: a forgery made of one real image alone, to train on and as a counterpart at test time.

Files by step: ``faces`` and ``sources`` (where a face is), ``windows`` (cuts), ``masks``, ``photometric``, ``blend``
(the steps in order), ``recipe`` (every number), ``seeds``; and above them ``dataset``, ``loaders``, ``counterpart``.
"""

from importlib.util import find_spec

if find_spec("cv2") is None:
    raise ModuleNotFoundError("corit.sbi needs OpenCV: pip install 'gsnr-toolkit[corit]'", name="cv2")

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
