"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: small matrices learn, the model's own weights stay."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TypeVar

from safetensors.torch import save_file
from torch import nn

from data_prep.atomic import atomic_folder
from gdino_lib.weights.files import read_json, read_tensors

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
Model = TypeVar("Model", bound=nn.Module)


def add(model: Model, rank: int, alpha: float = 16.0) -> Model:
    """Put adapters beside every linear layer and freeze everything else.

    An adapter begins at zero, so the model's outputs stay the same. The four matrices inside each `nn.MultiheadAttention` (in
    the text layers and the decoder) get no adapters, because they are not layers. `model` is changed and returned.

    Args:
        rank: rank of the adapters; alpha: the adapters' update is multiplied by alpha / rank.

    Raises:
        ValueError: a rank below 1, or a model that has adapters already.
        ModuleNotFoundError: peft is not installed.
    """
    if rank < 1:
        raise ValueError(f"rank: expected at least 1, got {rank}")
    if hasattr(model, "peft_config"):
        raise ValueError("the model has adapters already; merge them first")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError:
        raise ModuleNotFoundError("LoRA needs peft, which is not installed: pip install 'gdino_lib[train]'") from None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType] - peft divides it by the rank, whatever it is
        target_modules=_linear_layers(model),
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    # peft reads its configuration from this attribute; the stub of nn.Module allows parameters and modules alone
    model.peft_config = {"default": config}  # pyright: ignore[reportArgumentType]
    return model


def save(model: nn.Module, folder: Path | str, overwrite: bool = False) -> None:
    """Write the adapters alone, in peft's layout: a folder with their weights and their configuration.

    Raises:
        ValueError: the model has no adapters.
        FileExistsError: `folder` holds files and `overwrite` is off, or files other than adapters.
    """
    from peft import get_peft_model_state_dict

    config = _peft_config(model)
    with atomic_folder(folder, overwrite, (WEIGHTS, CONFIG)) as target:
        state = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
        save_file(state, target / WEIGHTS)
        plain = {name: sorted(v) if isinstance(v, set) else v for name, v in config.to_dict().items()}
        (target / CONFIG).write_text(json.dumps(plain, indent=1, default=str) + "\n", encoding="utf-8")


def load(model: Model, folder: Path | str) -> Model:
    """Put saved adapters into a model of the kind that they were trained for; `model` is changed and returned.

    Raises:
        FileNotFoundError: no adapters in `folder`.
        ValueError: adapters of another model; the message names tensors that are missing, unexpected or of another shape.
            The model then has new adapters, which do not change its outputs.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: no such file, expected a folder of adapters with {WEIGHTS} and {CONFIG}"
            )
    values = read_json(folder / CONFIG)
    try:
        rank, alpha = int(values["r"]), float(values["lora_alpha"])
    except (ArithmeticError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG}: expected peft's configuration of LoRA, got {type(error).__name__}: {error}"
        ) from None
    state, _ = read_tensors(folder / WEIGHTS)
    ranks = {len(tensor) for name, tensor in state.items() if "lora_A" in name and tensor.ndim}
    if rank not in ranks or not 0 < alpha < math.inf:  # before adapters of another rank take memory
        given = f"r {values['r']!r:.40} and lora_alpha {values['lora_alpha']!r:.40}"
        raise ValueError(
            f"{folder / CONFIG}: expected the tensors' rank {sorted(ranks)} and a positive alpha, got {given}"
        )
    add(model, rank, alpha)
    wanted = get_peft_model_state_dict(model)
    wrong = {
        "missing": wanted.keys() - state.keys(),
        "unexpected": state.keys() - wanted.keys(),
        "of another shape": {name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape},
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {kind}, the first is {min(names)!r}" for kind, names in wrong.items() if names)
        raise ValueError(f"{folder / WEIGHTS} does not fit the model: {told}")
    set_peft_model_state_dict(model, state)
    return model


def merge(model: Model) -> Model:
    """Add the adapters to the weights and remove them. The plain model has the same outputs; it is changed and returned.

    Raises:
        ValueError: the model has no adapters.
    """
    from peft.tuners.lora import LoraLayer

    _peft_config(model)
    for name, module in [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]:
        module.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config
    return model.requires_grad_(True)


def _linear_layers(model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    return [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and not isinstance(modules[name.rpartition(".")[0]], nn.MultiheadAttention)
    ]


def _peft_config(model: nn.Module):  # noqa: ANN202
    config = getattr(model, "peft_config", None)
    if not config:
        raise ValueError("the model has no adapters")
    return config["default"]
