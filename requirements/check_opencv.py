"""Exit with 1 where OpenCV's SEEDS is missing.

The Label Studio SDK asks for opencv-python-headless, which owns the same folder as the contrib
build: whichever pip unpacks last wins. The lock file leaves it out.
"""

import sys

import cv2

sys.exit(0 if hasattr(getattr(cv2, "ximgproc", None), "createSuperpixelSEEDS") else 1)
