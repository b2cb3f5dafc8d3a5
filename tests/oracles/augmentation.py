"""One image at a time, pixel by pixel: what a crop, a flip and a cutout mean. Shares no code with the package."""

import numpy as np


def crop(image: np.ndarray, padding: int, top: int, left: int) -> np.ndarray:
    """The window at (top, left) of the image (C, H, W) with a black border."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + top - padding, x + left - padding
                if 0 <= source_y < height and 0 <= source_x < width:
                    result[c, y, x] = image[c, source_y, source_x]
    return result


def flip(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])


def all_crops_and_flips(image: np.ndarray, padding: int, mirror: bool) -> set[bytes]:
    """Every picture that random crop and flip may make of an image."""
    crops = [crop(image, padding, y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return {picture.tobytes() for picture in crops + ([flip(picture) for picture in crops] if mirror else [])}


def cutout(image: np.ndarray, size: int, center_y: int, center_x: int) -> np.ndarray:
    """Zero where the square of this size around the centre covers the image (C, H, W)."""
    result = image.copy()
    for y in range(center_y - size // 2, center_y - size // 2 + size):
        for x in range(center_x - size // 2, center_x - size // 2 + size):
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                result[:, y, x] = 0
    return result
