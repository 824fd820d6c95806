"""Record the results of the official functions for the tests: `python tests/helpers/official_phrases.py [--record]`.

The script needs the environment of `tests/helpers/official.py`. In it, replace groundingdino-py 0.4.0's
`groundingdino/util/inference.py` and `utils.py` by those of the authors' repository (commit 96ca504e), whose `predict` has
the argument `remove_combined`. Without `--record`, the script compares the results with the recorded ones. This works with
0.4.0 itself, too; its labels differ where they contain "[CLS]".

`tests/gdino_lib/test_inference.py` compares `gdino_lib.inference` with
`tests/data/official_phrases.json`. Formulas in this file and in
`tests/helpers/official.py` make the logits, weights and images.
"""

import argparse
import inspect
import json
from pathlib import Path

import numpy
import torch

RECORD = Path(__file__).parents[1] / "data" / "official_phrases.json"
CAPTIONS = [
    "red block . orange block .",
    "Tricycle. Carpet, car? unicycle",
    "cat",
    "what's that? don't-walk sign . U.S.A. flag ..",
    "with_mask . without_mask . mask_weared_incorrect .",
    "a façade of 日本 . 🙂 . [SEP] . C++ ",
    "?",
    "",
    " . ".join(f"umbrella stand {number}" for number in range(63)) + " . dog",  # 256 tokens
]
THRESHOLDS = [(0.35, 0.25), (0.8, 0.4), (0.0, 0.0), (0.6, 0.95)]
CLASSES = [
    (["car", "carpet", "a cat", "", "Dog", "dog"], ["carpet", "car", "cat", "dog"]),
    (["carpet", "no mask", "mask"], ["car", "mask", "no mask", "mask"]),
    ([], ["cat"]),
    (["cat"], []),
]
MODEL_CAPTIONS = ["cat . remote control .", "Tricycle? dog .. no end"]
QUERIES = 12


def logits(tokens: int, seed: int) -> torch.Tensor:
    """float32 [QUERIES, tokens]: each query scores a few tokens high, sometimes special tokens."""
    random = numpy.random.default_rng(seed)
    values = random.standard_normal((QUERIES, tokens)) * 2.5 - 1.5
    values[: QUERIES // 2, 0] = -9  # [CLS]
    return torch.from_numpy(values).float()


def boxes(seed: int) -> torch.Tensor:
    """float32 [QUERIES, 4], random values in 0..1."""
    return torch.from_numpy(numpy.random.default_rng(seed + 1000).random((QUERIES, 4))).float()


def image() -> torch.Tensor:
    """A random image, float32 [3, 128, 160]."""
    return torch.from_numpy(numpy.random.default_rng(5).standard_normal((3, 128, 160))).float()


class Stub:
    """Returns the logits and boxes of the formulas in the form of the authors' model."""

    def __init__(self, tokenizer, seed):
        self.tokenizer, self.seed = tokenizer, seed

    def to(self, device):
        return self

    def __call__(self, images, captions):
        tokens = len(self.tokenizer(captions[0])["input_ids"])
        padded = torch.full((1, QUERIES, 256), -torch.inf)
        padded[0, :, :tokens] = logits(tokens, self.seed)
        return {"pred_logits": padded, "pred_boxes": boxes(self.seed)[None]}


def run() -> dict:
    """Run the official functions; returns their results as JSON values."""
    from groundingdino.util import inference
    from official import CONFIGS, official
    from transformers import BertTokenizerFast

    from gdino_lib.prompts import VOCABULARY

    combined = [False, True] if "remove_combined" in inspect.signature(inference.predict).parameters else [False]
    tokenizer = BertTokenizerFast(str(VOCABULARY / "vocab.txt"))

    def ask(model, caption, pixels, box_threshold, text_threshold):
        results = {}
        for remove in combined:
            options = {"remove_combined": True} if remove else {}
            found = inference.predict(model, pixels, caption, box_threshold, text_threshold, "cpu", **options)
            results |= {"boxes": found[0].tolist(), "scores": found[1].tolist(), f"remove_combined={remove}": found[2]}
        return results

    stubs = []
    for seed, caption in enumerate(CAPTIONS):
        for pair in THRESHOLDS:
            found = ask(Stub(tokenizer, seed), caption, image(), *pair)
            # a formula gives the boxes, so their indices are enough
            found["queries"] = [boxes(seed).tolist().index(box) for box in found.pop("boxes")]
            stubs.append({"caption": caption, "seed": seed, "thresholds": pair} | found)
    model = official(CONFIGS["small"])
    return {
        "preprocess_caption": [[caption, inference.preprocess_caption(caption)] for caption in CAPTIONS],
        "phrases2classes": [[*case, inference.Model.phrases2classes(*case).tolist()] for case in CLASSES],
        "stubs": stubs,
        "model": [
            {"caption": caption, "thresholds": (0.3, 0.5)} | ask(model, caption, image(), 0.3, 0.5)
            for caption in MODEL_CAPTIONS
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    options = parser.parse_args()
    found = json.loads(json.dumps(run()))
    if options.record:
        if "remove_combined=True" not in found["stubs"][0]:
            raise SystemExit("this package's predict has no argument remove_combined; see the docstring of this file")
        RECORD.write_text(json.dumps(found, indent=0, ensure_ascii=False) + "\n", "utf-8")
        return
    recorded = json.loads(RECORD.read_text("utf-8"))
    for key in ("stubs", "model"):
        for new, old in zip(found[key], recorded[key], strict=True):
            for name in new:
                if new[name] != old[name]:
                    pairs = zip(new[name], old[name], strict=False)
                    print(
                        new["caption"][:40], new["thresholds"], name, [pair for pair in pairs if pair[0] != pair[1]][:3]
                    )
    print("phrases2classes:", found["phrases2classes"], "recorded:", recorded["phrases2classes"])


if __name__ == "__main__":
    main()
