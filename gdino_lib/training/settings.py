"""Everything about a training run that is a number or a choice; the command `gdino train` has an option for each field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

Precision = Literal["float32", "bfloat16", "float16"]
Schedule = Literal["step", "cosine"]


@dataclass(frozen=True)
class LossSettings:
    """Weights. The paper contradicts itself on the class term: these defaults are its appendix's.

    Raises:
        ValueError: a negative or infinite number.
    """

    match_class: float = 1.0  # of the matching costs
    match_box: float = 5.0
    match_giou: float = 2.0
    class_weight: float = 2.0  # of the losses
    box_weight: float = 5.0
    giou_weight: float = 2.0
    alpha: float = 0.25  # focal loss: weight of positives; 1 - alpha for negatives
    gamma: float = 2.0  # focal loss: how little easy tokens count
    layers: float = 1.0  # of the decoder layers before the last; 0 leaves them out
    proposals: float = 1.0  # of the encoder's proposals; 0 leaves them out
    denoising: float = 1.0  # of the denoising queries; 0 leaves them out

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, most = getattr(self, entry.name), 1 if entry.name == "alpha" else math.inf
            if not (0 <= value <= most and math.isfinite(value)):
                raise ValueError(
                    f"{entry.name}: expected a number of 0 or more{', at most 1' * (most == 1)}, got {value}"
                )

    @classmethod
    def section_4_1(cls) -> LossSettings:
        """The weights of the paper's section 4.1, which MMDetection follows: matching 2, 5, 2, loss 1, 5, 2."""
        return cls(match_class=2.0, class_weight=1.0)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The defaults fine-tune a trained model on a small data set, after MMDetection's recipe.

    Raises:
        ValueError: a value out of its range, or an unknown choice; one line with the field's name.
    """

    epochs: Annotated[int, "passes over the training data, but for what fills no whole step"] = 20
    batch_size: Annotated[int, "images per step, over all processes and passes together"] = 4
    accumulation_steps: Annotated[
        int, "forward and backward passes that make up a step: gradient accumulation, less memory"
    ] = 1
    lr: Annotated[float, "learning rate of AdamW"] = 1e-4
    lr_scale: Annotated[
        Mapping[str, float],
        "PART=FACTOR: learning rate of the parameters whose names begin with PART, as a multiple of lr; 0 freezes them; "
        "the longest PART that fits counts",
    ] = field(default_factory=lambda: {"image_backbone.backbone": 0.1, "text_encoder.bert": 0.0})
    schedule: Annotated[Schedule, "how the learning rate falls: at the drops, or along half a cosine to 0"] = "step"
    drops: Annotated[
        tuple[float, ...], "step: shares of the run, in 0..1, after which it falls to a tenth; 1: never"
    ] = (0.75,)
    warmup_steps: Annotated[
        int, "first steps, over which the learning rate rises from 0; a tenth of the run at most"
    ] = 100
    weight_decay: Annotated[float, "of AdamW"] = 1e-4
    clip: Annotated[float, "largest norm of the gradients of a step; 0: no limit"] = 0.1
    ema: Annotated[float, "decay of a moving average of the weights, to validate and keep; 0: none"] = 0.0
    dropout: Annotated[float, "of enhancer and decoder, while training"] = 0.0
    precision: Annotated[Precision, "of the forward pass; the weights stay float32"] = "float32"
    gradient_checkpointing: Annotated[bool, "compute each layer twice instead of remembering it: less memory"] = False
    lora_rank: Annotated[int, "train low-rank adapters of this rank instead of the weights; 0: the weights"] = 0
    lora_alpha: Annotated[float, "the adapters' update is multiplied by lora_alpha / lora_rank"] = 16.0
    denoising: Annotated[int, "denoising queries an image, as many positive as negative ones; 0: none"] = 100
    box_noise: Annotated[float, "of denoising queries, in halves of a box's sides"] = 1.0
    label_noise: Annotated[float, "of denoising queries: half of it is the share that carries another phrase"] = 0.5
    validate_every: Annotated[int, "epochs from one validation to the next"] = 1
    patience: Annotated[int, "stop after so many validations without a better AP; 0: never"] = 0
    save_every: Annotated[int, "steps from one checkpoint to the next; each epoch ends with one, too"] = 500
    seed: Annotated[int, "of everything random"] = 0
    loss: LossSettings = field(default_factory=LossSettings)  # weights of the matching costs and the losses

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr_scale", dict(self.lr_scale))
        object.__setattr__(self, "drops", tuple(self.drops))  # JSON knows lists only
        if isinstance(self.loss, dict):
            object.__setattr__(self, "loss", LossSettings(**self.loss))
        at_least = {"epochs": 1, "batch_size": 1, "accumulation_steps": 1, "validate_every": 1, "save_every": 1}
        at_least |= dict.fromkeys(("warmup_steps", "lora_rank", "denoising", "patience", "weight_decay", "clip"), 0)
        at_least |= dict.fromkeys(("lr", "lora_alpha", "box_noise"), 0)
        for name, least in at_least.items():
            value = getattr(self, name)
            if not (value >= least and math.isfinite(value)) or (least == 1 and value != int(value)):
                raise ValueError(f"{name}: expected {'a whole number of ' * (least == 1)}at least {least}, got {value}")
        for name in ("dropout", "label_noise", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected a number in 0..1, got {getattr(self, name)}")
        for name, choices in (("precision", Precision), ("schedule", Schedule)):
            if getattr(self, name) not in choices.__args__:
                wanted = ", ".join(choices.__args__)
                raise ValueError(f"{name}: expected one of {wanted}, got {getattr(self, name)!r}")
        for name, values in (("drops", self.drops), ("lr_scale", self.lr_scale.values())):
            for value in values:
                if not (0 <= value <= 1 if name == "drops" else value >= 0):
                    raise ValueError(
                        f"{name}: expected {'shares in 0..1' if name == 'drops' else '0 or more'}, got {value}"
                    )
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulation_steps {self.accumulation_steps}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field that is not known here.
        """
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return cls(**values)
