"""Crop the face out of an image: a square around the largest detected face, with a margin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsnr_toolkit.errors import ProbeError

__all__ = ["Cropper", "FaceCropper", "cut_square"]

Pixels = NDArray[np.uint8]


#: Crops an image (H, W, 3), or returns None if it finds nothing to crop.
Cropper = Callable[[Pixels], Pixels | None]


class FaceCropper:
    """Crops the largest face that OpenCV finds.

    Args:
        model: An ONNX file of YuNet, for OpenCV's FaceDetectorYN. Without it, the frontal Haar cascade that OpenCV 4
            includes.
        margin: Margin on each side, relative to the face's box.

    Raises:
        ProbeError: If the file does not exist or cannot be read, or no file is given and OpenCV includes no cascade.
    """

    def __init__(self, model: str | Path | None = None, margin: float = 0.3) -> None:
        import cv2 as opencv

        cv2: Any = opencv  # untyped: its attributes differ between OpenCV 4 and 5

        if not 0 <= margin <= 2:
            raise ProbeError(f"expected a margin from 0 to 2, relative to the face, got {margin}; try 0.3")
        self._margin = margin
        self._yunet: Any = None
        self._cascade: Any = None
        if model is not None:
            self._yunet = _yunet(Path(model).expanduser())
        elif hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data"):
            file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"
            self._cascade = cv2.CascadeClassifier(str(file)) if file.is_file() else None
        if self._yunet is None and self._cascade is None:
            raise ProbeError(
                f"expected a face detector, but OpenCV {cv2.__version__} includes none; install OpenCV "
                "4, which has one (pip install 'opencv-python-headless<5'), give YuNet's file as --face-model PATH "
                "(face_detection_yunet_2023mar.onnx of OpenCV's model zoo), or crop faces first"
            )

    def __call__(self, image: Pixels) -> Pixels | None:
        """Return the largest face of an RGB image as a square with margin, or None if no face is found."""
        boxes = self._boxes(image)
        if not len(boxes):
            return None
        left, top, width, height = max(boxes, key=lambda box: box[2] * box[3])
        return cut_square(image, (left, top, left + width, top + height), self._margin)

    def _boxes(self, image: Pixels) -> Any:
        import cv2

        height, width = image.shape[:2]
        if self._yunet is not None:
            self._yunet.setInputSize((width, height))
            found = self._yunet.detect(np.ascontiguousarray(image[:, :, ::-1]))[1]
            return [] if found is None else found[:, :4].tolist()
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return self._cascade.detectMultiScale(grey, 1.1, 5)


def _yunet(path: Path) -> Any:
    import cv2

    if not path.is_file():
        raise ProbeError(f"expected the face detector's file, but {path} does not exist; check --face-model")
    try:
        return cv2.FaceDetectorYN.create(str(path), "", (320, 320))
    except cv2.error as error:
        raise ProbeError(
            f"expected {path} to be an ONNX file of YuNet, but OpenCV cannot read it ({error}); download it again"
        ) from error


def cut_square(image: Pixels, box: tuple[float, float, float, float], margin: float) -> Pixels:
    """Return a square crop around a box (left, top, right, bottom), with a margin on each side relative to the box.

    At the image's edge the square is moved in. If the image is too small for it, the crop is a smaller rectangle.

    >>> cut_square(np.zeros((100, 80, 3), np.uint8), (10, 10, 30, 30), 0.5).shape
    (40, 40, 3)
    """
    height, width = image.shape[:2]
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * margin))
    x = round(min(max((left + right - side) / 2, 0), max(width - side, 0)))
    y = round(min(max((top + bottom - side) / 2, 0), max(height - side, 0)))
    return np.ascontiguousarray(image[y : y + side, x : x + side])
