"""An image becomes boxes, whatever format the model is in."""

from lib.detection.detector import FaceDetector

__all__ = ["FaceDetector"]
