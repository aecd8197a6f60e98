"""How a picture becomes pixels: as the model's folder says; where that cuts out a square, padded to one instead."""

from pathlib import Path
from typing import Any

from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

ImageProcessor = CLIPImageProcessorPil | LlavaImageProcessorPil
LONGEST = 4
"""Of a picture's sides the longer one, in shorter ones: what is beyond is too long to be taken as it is."""
LARGEST = 4096
"""Pixels of the longer side of such a picture, where it is padded."""


def image_processor(name: str | Path) -> Any:
    """The folder's, or that of a hub id. Where it would cut a picture to a square, it pads it to one first, as
    LLaVA-1.5 does."""
    own = CLIPImageProcessorPil.from_pretrained(name)
    return LlavaImageProcessorPil.from_pretrained(name, do_pad=True) if _pads(own) else own


def pads_pictures(name: str | Path) -> bool:
    """Whether a picture is made a square by padding it; else the folder's preprocessing does it in its own way."""
    return _pads(CLIPImageProcessorPil.from_pretrained(name))


def _pads(own: Any) -> bool:
    return bool(own.do_center_crop or own.do_pad)


def within_reason(image: Image.Image, *, padded: bool) -> Image.Image:
    """A very long picture made smaller, since its square is as high as it is long; where its shorter side is scaled up
    to the model's, not padded, its middle: the ends are cut off."""
    width, height = image.size
    side = LONGEST * min(width, height)
    if max(width, height) <= side:
        return image
    if padded:
        share = LARGEST / max(width, height)
        return image if share >= 1.0 else image.resize((max(1, round(share * width)), max(1, round(share * height))))
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    return image.crop((left, top, left + min(width, side), top + min(height, side)))


def seen_part(processor: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Of a picture's width and height, the shares that reach the tower: its middle; more than 1 where it is padded."""
    if processor.do_pad:
        reach = [max(size)] * 2
    else:
        reach = [min(side, LONGEST * min(size)) for side in size]
    if processor.do_center_crop and processor.size.shortest_edge:
        pixel = min(reach) / processor.size.shortest_edge  # sides of the picture's pixels in one of the model's
        crop = processor.crop_size
        reach = [min(side, pixel * wanted) for side, wanted in zip(reach, (crop.width, crop.height), strict=True)]
    return reach[0] / size[0], reach[1] / size[1]
