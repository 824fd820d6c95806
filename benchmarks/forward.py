"""Time Swin-T's forward pass beside transformers' port: `python benchmarks/forward.py --json FILE`.

Both models have the same weights and inputs and run in one process, in turns. The ratio is that of the medians. The port uses
its own deformable attention, in PyTorch. `--device cuda` times a GPU.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from peers import captions, hugging_face, ours_from
from results import report

from gdino_lib.config import GroundingDINOConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each measurement (default: 5)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(800, 1066), metavar=("H", "W"), help="of the image (default: 800 1066)"
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    options = parser.parse_args()
    device = options.device
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    config = GroundingDINOConfig.tiny(logit_epsilon=1e-5)
    peer = hugging_face(config)
    ours = ours_from(peer, config).to(device)
    peer.to(device)
    images = torch.randn(1, 3, *options.size, device=device)
    prompts = [["cat", "remote control", "a person with an umbrella"]]
    texts, mask = captions(prompts), torch.ones(1, *options.size, dtype=torch.long, device=device)
    texts = {name: tensor.to(device) for name, tensor in texts.items()}
    runs = {
        "transformers": lambda: peer(pixel_values=images, pixel_mask=mask, **texts),
        "gdino_lib": lambda: ours(images, prompts),
    }
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    figures = {"machine": f"{machine}, torch {torch.__version__}", "size": list(options.size)}
    for name, enabled in (("float32", False), ("bfloat16", True)):
        seconds = {peer_name: [] for peer_name in runs}
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            for turn in range(options.repeats + 1):
                for peer_name, run in runs.items():
                    start = time.perf_counter()
                    run()
                    wait()
                    if turn:
                        seconds[peer_name].append(time.perf_counter() - start)
        medians = {peer_name: round(median(values), 4) for peer_name, values in seconds.items()}
        ratio = round(medians["transformers"] / medians["gdino_lib"], 2)
        figures[name] = {f"{peer_name} (s)": value for peer_name, value in medians.items()} | {"times as fast": ratio}
    report(figures, options.json)


if __name__ == "__main__":
    main()
