"""All numbers and choices of a training run; the command `gdino train` has an option for each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from gdino_lib.ranges import (
    CheckedFields,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
)

Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["step", "cosine"]


@dataclass(frozen=True)
class LossSettings(CheckedFields):
    """Weights of the matching costs and the losses. The paper has two versions; the defaults are those of its appendix.

    Raises:
        ValueError: a negative or infinite number.
    """

    _unknown: ClassVar[str] = "unknown loss settings"

    match_class: NonNegativeFloat = 1.0  # weights of the matching costs
    match_box: NonNegativeFloat = 5.0
    match_giou: NonNegativeFloat = 2.0
    class_weight: NonNegativeFloat = 2.0  # weights of the losses
    box_weight: NonNegativeFloat = 5.0
    giou_weight: NonNegativeFloat = 2.0
    alpha: Share = 0.25  # focal loss: weight of positives; 1 - alpha for negatives
    gamma: NonNegativeFloat = 2.0  # focal loss: the larger, the less easy tokens count
    layers: NonNegativeFloat = 1.0  # factor for the decoder layers before the last; 0 leaves them out
    proposals: NonNegativeFloat = 1.0  # factor for the encoder's proposals; 0 leaves them out
    denoising: NonNegativeFloat = 1.0  # factor for the denoising queries; 0 leaves them out

    @classmethod
    def section_4_1(cls) -> LossSettings:
        """The weights of the paper's section 4.1, which MMDetection follows: matching 2, 5, 2, loss 1, 5, 2."""
        return cls(match_class=2.0, class_weight=1.0)


@dataclass(frozen=True)
class TrainingSettings(CheckedFields):
    """How to train. The defaults fine-tune a trained model on a small data set, after MMDetection's recipe.

    Raises:
        ValueError: a value out of its range, or an unknown choice; one line with the field's name.
    """

    _unknown: ClassVar[str] = "unknown settings"

    epochs: Annotated[PositiveInt, "passes over the training data; images that fill no whole step are left out"] = 20
    batch_size: Annotated[PositiveInt, "images per step, over all processes and passes together"] = 4
    accumulation_steps: Annotated[PositiveInt, "forward and backward passes per step (gradient accumulation)"] = 1
    lr: Annotated[NonNegativeFloat, "learning rate of AdamW"] = 1e-4
    lr_scale: Annotated[
        Mapping[str, NonNegativeFloat],
        "PART=FACTOR: learning rate of the parameters whose names begin with PART, as a multiple of lr; 0 freezes them; "
        "if several PARTs fit, the longest counts",
    ] = field(default_factory=lambda: {"image_backbone.backbone": 0.1, "text_encoder.bert": 0.0})
    schedule: Annotated[Schedule, "how the learning rate falls: at the drops, or along half a cosine to 0"] = "step"
    drops: Annotated[
        tuple[Share, ...],
        "for the step schedule: shares of the run, in 0..1, after which the learning rate falls to a tenth; 1: never",
    ] = (0.75,)
    warmup_steps: Annotated[
        NonNegativeInt, "first steps, over which the learning rate rises from 0; at most a tenth of the run"
    ] = 100
    weight_decay: Annotated[NonNegativeFloat, "weight decay of AdamW"] = 1e-4
    clip: Annotated[NonNegativeFloat, "largest norm of the gradients of a step; 0: no limit"] = 0.1
    ema: Annotated[Share, "decay of a moving average of the weights, which is validated and saved; 0: no average"] = 0.0
    dropout: Annotated[Share, "dropout of enhancer and decoder in training"] = 0.0
    precision: Annotated[Precision, "precision of the forward pass; the weights stay float32"] = "float32"
    gradient_checkpointing: Annotated[bool, "recompute activations in the backward pass, which saves memory"] = False
    lora_rank: Annotated[NonNegativeInt, "train low-rank adapters of this rank; 0: train the weights instead"] = 0
    lora_alpha: Annotated[PositiveFloat, "the adapters' update is multiplied by lora_alpha / lora_rank"] = 16.0
    denoising: Annotated[NonNegativeInt, "positive denoising queries per image, and as many negative; 0: none"] = 100
    box_noise: Annotated[NonNegativeFloat, "noise on the boxes of denoising queries, in halves of a box's sides"] = 1.0
    label_noise: Annotated[Share, "half of this share of the denoising queries gets another phrase"] = 0.5
    validate_every: Annotated[PositiveInt, "epochs from one validation to the next"] = 1
    patience: Annotated[NonNegativeInt, "stop after this many validations without a better AP; 0: never"] = 0
    save_every: Annotated[PositiveInt, "steps from one checkpoint to the next; each epoch ends with one, too"] = 500
    seed: Annotated[Seed, "seed of all random choices"] = 0
    loss: LossSettings = field(default_factory=LossSettings)  # weights of the matching costs and the losses

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation_steps {self.accumulation_steps}"
            )
