"""The configuration files of the official package: parsed, never executed."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gdino_lib.config import GroundingDINOConfig
from gdino_lib.messages import shortened

# (width, heads per stage, depth of the third stage, window) of the official names
BACKBONES = {
    "swin_T_224_1k": (96, (3, 6, 12, 24), 6, 7),
    "swin_B_224_22k": (128, (4, 8, 16, 32), 18, 7),
    "swin_B_384_22k": (128, (4, 8, 16, 32), 18, 12),
    "swin_L_224_22k": (192, (6, 12, 24, 48), 18, 7),
    "swin_L_384_22k": (192, (6, 12, 24, 48), 18, 12),
}
# official name -> field of `GroundingDINOConfig`: values that the tensors of a checkpoint show as well, ...
FIELDS_SHOWN_BY_TENSORS = {
    "hidden_dim": "width",
    "dim_feedforward": "ffn_width",
    "enc_layers": "encoder_layers",
    "dec_layers": "decoder_layers",
    "num_queries": "queries",
    "num_feature_levels": "levels",
    "use_fusion_layer": "fusion",
    "use_text_cross_attention": "text_cross_attention",
}
# ... and values that only the configuration has
FIELDS_OF_CONFIG_ONLY = {
    "nheads": "heads",
    "enc_n_points": "points",
    "pe_temperatureH": "position_temperature",
    "dropout": "dropout",
    "fusion_droppath": "fusion_drop_path",
}
# other values describe models that nobody has published and that `GroundingDINO` cannot build
SUPPORTED_VALUES = {
    "modelname": ("groundingdino",),
    "position_embedding": ("sine", "v2"),  # two names of one encoding
    "return_interm_indices": ([1, 2, 3], (1, 2, 3), [0, 1, 2, 3], (0, 1, 2, 3)),  # stages whose maps the model takes
    "pre_norm": (False,),
    "query_dim": (4,),
    "num_patterns": (0,),
    "two_stage_type": ("standard",),
    "two_stage_bbox_embed_share": (False,),
    "two_stage_class_embed_share": (False,),
    "transformer_activation": ("relu",),
    "embed_init_tgt": (True,),
    "max_text_len": (256,),
    "use_text_enhancer": (True,),
    "sub_sentence_present": (True, False),
}
EQUAL_VALUES = {"dec_n_points": "enc_n_points", "pe_temperatureW": "pe_temperatureH"}


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `GroundingDINOConfig` that an official configuration file sets.

    The file is Python with nothing but `name = value` lines. It is parsed, never executed. Names that do not describe the
    model (`batch_size`, `dn_number`, ...) are ignored, as the official code ignores them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another statement, a computed value, or a model that `GroundingDINO` cannot build; the message names the
            line.
    """
    file = _ConfigFile(os.fspath(path), _assignments(Path(path)))
    _check(file)
    width, heads, depth, window = BACKBONES[file.value("backbone")]
    fields = {
        "backbone": "swin",
        "swin_width": width,
        "swin_depths": (2, 2, depth, 2),
        "swin_heads": heads,
        "swin_window": window,
        "swin_maps": len(file.value("return_interm_indices", SUPPORTED_VALUES["return_interm_indices"][0])),
        "text_mode": "sub-sentence" if file.value("sub_sentence_present", True) else "whole-sentence",
    }
    for name, field in (FIELDS_SHOWN_BY_TENSORS | FIELDS_OF_CONFIG_ONLY).items():
        fields[field] = _typed(file, name, type(getattr(GroundingDINOConfig, field)))
    try:
        GroundingDINOConfig(**fields)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{file.path}: {error}") from None
    return fields


@dataclass(frozen=True)
class _ConfigFile:
    """The assignments of a configuration file: name -> (value, line)."""

    path: str
    assigned: dict[str, tuple[Any, int]]

    def value(self, name: str, default: Any = None) -> Any:
        return self.assigned[name][0] if name in self.assigned else default

    def error(self, name: str, expected: str) -> ValueError:
        value, line = self.assigned[name]
        return ValueError(f"{self.path}, line {line}: {name}: expected {expected}, got {_in_one_line(repr(value))}")


def _check(file: _ConfigFile) -> None:
    """Refuse a file that describes a model that `GroundingDINO` cannot build."""
    if "_base_" in file.assigned:
        raise file.error("_base_", "a file that stands alone")
    wanted = ["backbone", *FIELDS_SHOWN_BY_TENSORS, *FIELDS_OF_CONFIG_ONLY]
    if missing := [name for name in wanted if name not in file.assigned]:
        raise ValueError(f"{file.path} is no configuration of Grounding DINO: missing {', '.join(missing)}")
    for name, supported in SUPPORTED_VALUES.items():
        value = file.value(name, supported[0])
        if not any(type(value) is type(each) and value == each for each in supported):
            raise file.error(name, " or ".join(map(repr, supported)))
    for name, other in EQUAL_VALUES.items():
        if file.value(name, file.value(other)) != file.value(other):
            raise file.error(name, f"{file.value(other)!r}, as {other}")
    text = file.value("text_encoder_type", "bert-base-uncased")  # a name, or the path of a folder of this name
    if not isinstance(text, str) or Path(text).name != "bert-base-uncased":
        raise file.error("text_encoder_type", "'bert-base-uncased'")
    backbone = file.value("backbone")
    if not isinstance(backbone, str) or backbone not in BACKBONES:
        raise file.error("backbone", f"one of {', '.join(BACKBONES)}")


def _typed(file: _ConfigFile, name: str, kind: type) -> Any:
    """The value of a name, checked: a whole number must be positive, another number not negative, both below a million."""
    value = file.value(name)
    if kind is float and type(value) in (int, float) and 0 <= value < 1e6:
        return float(value)
    if type(value) is kind and (kind is bool or 0 < value < 1e6):
        return value
    raise file.error(name, {bool: "True or False", int: "a positive whole number", float: "a number from 0 on"}[kind])


def _assignments(path: Path) -> dict[str, tuple[Any, int]]:
    """name -> (value, line) of a file of plain assignments."""
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        text = path.read_text("utf-8")
        statements, lines = ast.parse(text).body, text.split("\n")
    except (MemoryError, RecursionError, SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}" if line else f"{path}"
        raise ValueError(f"{where}: expected `name = value` lines, got {type(error).__name__}") from None
    assigned: dict[str, tuple[Any, int]] = {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        try:
            names, value = _assignment(statement)
        except (MemoryError, RecursionError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {statement.lineno}: expected `name = value` with a plain value, "
                f"got `{_in_one_line(lines[statement.lineno - 1])}`; nothing of the file was run"
            ) from None
        assigned |= dict.fromkeys(names, (value, statement.lineno))
    return assigned


def _assignment(statement: ast.stmt) -> tuple[list[str], Any]:
    """(the names that a statement assigns a plain value to, the value).

    Raises:
        ValueError: another statement.
    """
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        raise ValueError
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if len(names) != len(targets):
        raise ValueError
    return names, ast.literal_eval(statement.value)


def _in_one_line(text: str) -> str:
    return shortened(" ".join(text.split()), 60)
