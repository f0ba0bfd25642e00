"""Local features of an image, and how many of them two images share in one geometric arrangement.

SIFT finds points that stay the same when an image is rotated, scaled or lit differently, and describes the surroundings
of each: Lowe, "Distinctive image features from scale-invariant keypoints", International Journal of Computer Vision 60
(2004) 91. Descriptors are compared by the Hellinger distance: Arandjelovic and Zisserman, "Three things everyone should
know to improve object retrieval", CVPR 2012.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]  # (K, 4): x and y in pixels, size in pixels, angle in degrees, clockwise from the right
Descriptors = NDArray[np.uint8]  # (K, 128): square roots of SIFT's values, of norm 255

KEPT = 500  # features per image, the strongest
# The number of features that SIFT describes; those in the dark frame are dropped. Describing all 1,700 takes 1.6 times
# as long and finds only one more of the 218 public pairs with an equal lesion_id.
_DESCRIBED = 700
_DARK = 25  # grey levels: the frame that a dermatoscope leaves has no features
_FRAME = 9  # pixels around the dark frame that its edge affects
# Finer than SIFT's usual 1.6, which on these images of 224 px finds a third of the features: of the pairs with an equal
# lesion_id, 95% instead of 92% share 6.
_SIGMA = 1.15
_CONTRAST = 0.02  # half of OpenCV's: skin has little contrast
_RATIO = 0.85  # a match is kept if the second-best is this much farther away
# Clear matches that must agree on a map, to start from. Of 300 random pairs none had more than 5; at 3 or 4, periodic
# patterns such as a pigment network gave false pairs.
_AGREED = 6
_PIXELS = 4.0  # largest distance of a shared feature from its mapped place
_SCALES = (0.25, 4.0)
_OCTAVES, _DEGREES = 0.6, 25.0  # largest differences of a feature's size and angle from the mapped ones
_ALIKE = 0.85  # smallest cosine of two shared features
_STRIP = 7.0  # pixels: half the width of a ruler with its letters
_LINES = 30  # places; the lines between them are tried
# How the values of a descriptor, 4 x 4 cells with 8 directions each, change places when the image is mirrored.
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()


@dataclass(frozen=True)
class Features:
    """The strongest features of an image, at most `KEPT`, the strongest first."""

    points: Points
    descriptors: Descriptors


def extract(image: NDArray[np.uint8]) -> Features:
    """Find the features of an image, uint8 (H, W, 3), RGB; a blank one has none."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    lit = cv2.erode((grey > _DARK).astype(np.uint8), np.ones((_FRAME, _FRAME), np.uint8))
    even = cv2.createCLAHE(3.0, (8, 8)).apply(grey)
    sift = cv2.SIFT.create(_DESCRIBED, contrastThreshold=_CONTRAST, sigma=_SIGMA)
    found, values = sift.detectAndCompute(even, lit)
    if not found:
        return Features(np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8))
    points = np.array([(*point.pt, point.size, point.angle) for point in found], np.float32)
    strongest = np.lexsort((*points.T, [-point.response for point in found]))[:KEPT]
    roots = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-6))
    return Features(points[strongest], np.rint(255 * roots[strongest]).astype(np.uint8))


def mirrored(features: Features, width: int) -> Features:
    """Return the features of the image mirrored from left to right."""
    return Features(reflected(features.points, width), features.descriptors[:, MIRROR])


def reflected(points: Points, width: int) -> Points:
    """Return the points of the image mirrored from left to right; `width` is in pixels."""
    x, y, size, angle = points.T
    return np.stack([width - 1 - x, y, size, (180 - angle) % 360], axis=1)


def shared(a: Features, b: Features) -> int:
    """Count the places of an image that one similarity (shift, rotation and scale) maps to alike places of another.

    Those in the one straight strip that holds most of them do not count: every ruler has the same marks.
    """
    if min(len(a.points), len(b.points)) < _AGREED:
        return 0
    alike = a.descriptors.astype(np.float32) @ b.descriptors.astype(np.float32).T / np.float32(255**2)
    start, end = (np.ascontiguousarray(of.points[:, :2]) for of in (a, b))  # OpenCV takes no other layout
    first, second = _matched(alike, start)
    if len(first) < _AGREED:
        return 0
    warp, agreed = cv2.estimateAffinePartial2D(
        start[first], end[second], method=cv2.RANSAC, ransacReprojThreshold=_PIXELS, maxIters=1000
    )
    if warp is None or agreed.sum() < _AGREED:
        return 0
    scale, turn = np.hypot(warp[0, 0], warp[1, 0]), np.rad2deg(np.arctan2(warp[1, 0], warp[0, 0]))
    if not _SCALES[0] < scale < _SCALES[1]:
        return 0
    # With the map known, a feature may be less distinct, but it must have the place, size and angle of its partner.
    apart = np.linalg.norm((start @ warp[:, :2].T + warp[:, 2])[:, None] - end, axis=2)
    octaves = np.log2(b.points[:, 2] / a.points[:, 2, None] / scale)
    turns = (b.points[:, 3] - a.points[:, 3, None] - turn + 180) % 360 - 180
    alike *= (apart < _PIXELS) & (np.abs(octaves) < _OCTAVES) & (np.abs(turns) < _DEGREES) & (alike > _ALIKE)
    best = alike.argmax(axis=1)
    kept = np.flatnonzero((alike.max(axis=1) > 0) & (alike.argmax(axis=0)[best] == np.arange(len(best))))
    kept = kept[_distinct(start[kept])]
    return min(_off_line(start[kept]), _off_line(end[best[kept]]))


def _matched(alike: NDArray[np.float32], start: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of features that are nearest to each other and clearly nearer than the next one."""
    best = alike.argmax(axis=1)
    rows = np.arange(len(best))
    others = alike.copy()
    others[rows, best] = -1
    clear = 1 - alike[rows, best] < _RATIO**2 * (1 - others.max(axis=1))
    kept = np.flatnonzero(clear & (alike.argmax(axis=0)[best] == rows))
    kept = kept[_distinct(start[kept])]
    return kept, best[kept]


def _distinct(places: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the index of one feature for each place: a feature with two angles counts once."""
    return np.unique(np.rint(places), axis=0, return_index=True)[1]


def _off_line(places: NDArray[np.float32]) -> int:
    """Count the places outside of the strip that holds most of them; its middle goes through two of them."""
    some = places[:: 1 + len(places) // _LINES]
    first, second = np.triu_indices(len(some), 1)
    along = some[second] - some[first]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / (np.hypot(*along.T)[:, None] + 1e-6)
    apart = across @ places.T - (across * some[first]).sum(axis=1)[:, None]
    return len(places) - int((np.abs(apart) < _STRIP).sum(axis=1).max(initial=0))
