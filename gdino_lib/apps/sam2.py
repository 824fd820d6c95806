"""Masks by SAM 2, Meta's Segment Anything Model, through the public classes of `transformers`."""

from __future__ import annotations

import os

import numpy as np
import torch
import transformers

from gdino_lib.apps.other_models import check_model, hide_progress_without_terminal
from gdino_lib.messages import first_line
from gdino_lib.weights.loading import choose_device

WEIGHTS = "facebook/sam2.1-hiera-tiny"
AT_ONCE = 16  # boxes that the mask decoder takes together; each needs a float mask of the image's size


class Sam2:
    """A `gdino_lib.apps.segment.Segmenter`: a box is the prompt, and SAM 2 answers with a mask.

    Args:
        path_or_name: a folder with a SAM 2 in the layout of `transformers`, or a name on the Hugging Face hub, which is
            downloaded once. Only safetensors are read.
        device: as `gdino_lib.load` takes it.

    Raises:
        FileNotFoundError: there is no such model, or it cannot be downloaded.
        ValueError: another kind of model, a device that cannot be used, or `transformers` is older than 4.56.
    """

    def __init__(self, path_or_name: str | os.PathLike[str] = WEIGHTS, device: str = "auto") -> None:
        if not hasattr(transformers, "Sam2Model"):
            raise ValueError(f"SAM 2 needs transformers 4.56 or later, got {transformers.__version__}")
        self.device = choose_device(device)
        source = check_model(path_or_name, "config.json", "a SAM 2")
        hide_progress_without_terminal()
        try:
            model = transformers.Sam2Model.from_pretrained(source, use_safetensors=True)
            self.processor = transformers.Sam2Processor.from_pretrained(source)
        except Exception as error:  # the configuration and the weights each have errors of their own
            raise ValueError(
                f"{source!r}: expected a SAM 2 that transformers can load, got {first_line(error)}"
            ) from None
        torch.nn.Module.to(model, self.device)
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Masks bool [N, H, W] for pixels uint8 [H, W, 3] and boxes float [N, 4] as x1, y1, x2, y2 in pixels."""
        inputs = self.processor(images=pixels, input_boxes=[boxes.tolist()], return_tensors="pt").to(self.device)
        image = self.model.get_image_embeddings(inputs["pixel_values"])  # once for all boxes
        masks = []
        for part in inputs["input_boxes"].split(AT_ONCE, dim=1):  # (1, N, 4)
            logits = self.model(image_embeddings=image, input_boxes=part, multimask_output=False).pred_masks
            # (1, n, 1, h, w) -> bool (n, 1, H, W)
            (full,) = self.processor.post_process_masks(logits.cpu(), inputs["original_sizes"].cpu())
            masks.append(full[:, 0].numpy())
        return np.concatenate(masks)
