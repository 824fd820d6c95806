"""What an image shows: boxes, and the phrase of its prompt that names each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Target:
    """The boxes of one image, checked. The tensors stay on the CPU; the losses move them as needed.

    Attributes:
        boxes: float [n, 4], cxcywh in 0..1 of the image without its padding, sides above 0; n may be 0.
        phrases: int64 [n], index of each box's phrase in this image's own prompt. A prompt should name each phrase once:
            of several copies, the one with this index is meant, and the others count as absent.
        name: the image's name, for messages.

    Raises:
        ValueError: another shape, dtype, device or range; one line with the image's name.
    """

    boxes: Tensor
    phrases: Tensor
    name: str

    def __post_init__(self) -> None:
        boxes, phrases = self.boxes, self.phrases
        if boxes.device.type != "cpu" or phrases.device.type != "cpu":
            raise ValueError(
                f"{self.name}: expected boxes and phrases on the CPU, got {boxes.device}, {phrases.device}"
            )
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ValueError(f"{self.name}: boxes: expected float [n, 4], got {boxes.dtype} {list(boxes.shape)}")
        if phrases.shape != boxes.shape[:1] or phrases.dtype != torch.int64:
            wanted, given = [len(boxes)], f"{phrases.dtype} {list(phrases.shape)}"
            raise ValueError(f"{self.name}: phrases: expected one index per box, int64 {wanted}, got {given}")
        sound = ((boxes >= 0) & (boxes <= 1)).all(1) & (boxes[:, 2:] > 0).all(1)  # (n), False for NaN too
        if not sound.all():
            number = int((~sound).nonzero()[0])
            values = [round(value, 6) for value in boxes[number].tolist()]
            raise ValueError(f"{self.name}: box {number}: expected cxcywh in 0..1 with sides above 0, got {values}")
        if (phrases < 0).any():
            number = int((phrases < 0).nonzero()[0])
            raise ValueError(f"{self.name}: box {number}: expected a phrase's index, got {int(phrases[number])}")


def positive_map(target: Target, tokens: Tensor) -> Tensor:
    """Which tokens name each box.

    Args:
        tokens: int64 [T], phrase index of each token of this image's own prompt, a row of the model's `out.phrase_of_token`: -1
            for special tokens, closing "." and padding.

    Returns:
        bool [n, T] on the device of `tokens`, True on the tokens of the box's phrase; at least one a row.

    Raises:
        ValueError: a box whose phrase has no token.
    """
    positive = tokens == target.phrases.to(tokens.device)[:, None]  # (T) == (n, 1) -> (n, T)
    named = positive.any(1)
    if not named.all():
        number = int((~named).nonzero()[0])
        last = int(tokens.max()) if tokens.numel() else -1
        raise ValueError(
            f"{target.name}: box {number} is named by phrase {int(target.phrases[number])}, "
            f"which has no tokens in its prompt (the last phrase with tokens is {last})"
        )
    return positive


def pad_targets(targets: Sequence[Target], tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The targets of a batch as tensors, padded to n, the largest number of boxes of one image.

    Args:
        targets: one per image.
        tokens: int64 [B, T] on the CPU, the model's `out.phrase_of_token`.

    Returns:
        (boxes float [B, n, 4]; positive bool [B, n, T], the map of each image; real bool [B, n], False = padding). A padded
        box is the whole image, and no token names it.

    Raises:
        ValueError: as `positive_map`.
    """
    boxes = pad_sequence([target.boxes for target in targets], batch_first=True, padding_value=-1)
    phrases = pad_sequence([target.phrases for target in targets], batch_first=True, padding_value=-2)  # (B, n)
    real = phrases >= 0
    positive = tokens[:, None] == phrases[..., None]  # (B, 1, T) == (B, n, 1) -> (B, n, T)
    for image in (real & ~positive.any(-1)).any(1).nonzero().flatten().tolist():
        positive_map(targets[image], tokens[image])  # raises with the box and its phrase
    return torch.where(real[..., None], boxes, boxes.new_tensor([0.5, 0.5, 1, 1])), positive, real
