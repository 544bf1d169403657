"""Prepare images for a model as its image processor does."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedhello.data.pictures import Scale
from fedhello.errors import ModelError
from fedhello.model.blocks import PAGE

FORMS = ((96, 160), (160, 96))
"""Height and width of synthetic images that test whether a processor's output has one size."""


@dataclass(frozen=True)
class Preparation:
    """Scaling and normalisation of an image.

    Attributes:
        shape: Channels, height and width of the output.
        mean: Value subtracted from each channel, for pixels within 0 … 1.
        std: Divisor of each channel afterwards.
        scale: Function that scales and crops; None scales bilinearly, without keeping the aspect ratio.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: Scale | None = None


def prepare_as(processor: Any, config: Any, name: str) -> Preparation:
    """Return the preparation of images: the processor's, or without one a guess from the model's configuration.

    Args:
        processor: An image processor of transformers; None assumes values within −1 … 1.
        config: The model's configuration.
        name: The model's name, for messages.

    Raises:
        ModelError: If the processor does not produce images of one size, or has too few means.
    """
    reads = getattr(config, "vision_config", None) or config
    channels: int | None = getattr(reads, "num_channels", None)
    if channels is None:
        raise ModelError(
            f"expected a model that reads images as pixels, with num_channels in its configuration; {name} is of type "
            f"{config.model_type}. {PAGE} lists what works."
        )
    if processor is None:
        size = stated_size(config)
        if size is None:
            raise ModelError(
                f"expected preprocessor_config.json in the folder of {name}, or image_size in its configuration; found "
                "neither"
            )
        return Preparation((channels, *size), (0.5,) * channels, (0.5,) * channels)

    def scale(pixels: np.ndarray) -> np.ndarray:
        found = processor(
            pixels, do_rescale=False, do_normalize=False, input_data_format="channels_last", return_tensors="pt"
        )
        scaled: np.ndarray = found["pixel_values"][0].numpy()
        return scaled

    return Preparation(_made_shape(scale, channels, name), *_normalisation(processor, channels, name), scale)


def stated_size(config: Any) -> tuple[int, int] | None:
    """Return the height and width of images in a model's configuration, or None if it states none."""
    size = getattr(getattr(config, "vision_config", None) or config, "image_size", None)
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _made_shape(scale: Scale, channels: int, name: str) -> tuple[int, int, int]:
    """Return the shape of the processor's output, which must not depend on the input's size."""
    try:
        made = [scale(np.zeros((*form, channels), dtype=np.uint8)) for form in FORMS]
    except Exception as error:  # it is configured by a file and may raise anything
        raise ModelError(
            f"expected the image processor of {name} to scale images of {channels} channels; it raised: {error}. "
            "Correct preprocessor_config.json in a copy of the model."
        ) from error
    shapes = [image.shape for image in made]
    if shapes[0] != shapes[1] or shapes[0][0] != channels or any(image.dtype != np.uint8 for image in made):
        raise ModelError(
            f"expected the image processor of {name} to bring all images to one size, of 8 bits and {channels} "
            f"channels; found {shapes[0]} and {shapes[1]} of {made[0].dtype}. State height and width in size, or a "
            "crop_size with do_center_crop, in preprocessor_config.json of a copy of the model."
        )
    _, height, width = shapes[0]
    return channels, height, width


def _normalisation(processor: Any, channels: int, name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation for values within 0 … 1, converted from the processor's range."""
    if not processor.do_normalize:
        mean, std = (0.0,) * channels, (1.0,) * channels
    else:
        mean, std = tuple(processor.image_mean or ()), tuple(processor.image_std or ())
    for key, values in (("image_mean", mean), ("image_std", std)):
        if len(values) != channels:
            raise ModelError(
                f"expected {key} of the image processor of {name} to have {channels} values, one per channel of the "
                f"model; found {len(values)}"
            )
    largest = 255 * processor.rescale_factor if processor.do_rescale else 255.0
    return tuple(m / largest for m in mean), tuple(s / largest for s in std)
