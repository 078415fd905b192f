"""Many clicks in a row: does a session with S2VNet get slower, does it need more and more memory?

::

    python benchmarks/s2v_clicks.py --model MODEL_FOLDER --image case_0000.nii.gz  # a trained model, all its channels
    python benchmarks/s2v_clicks.py  # random weights, noise of 10×256×216, plans as for ACDC

Clicks are at random places, of random labels, also the background, with a seed; every one is propagated as far as it
changes something. Printed after every 20 clicks: seconds per click (median of these 20), as a ratio to the automatic
segmentation of the whole volume in the same run, and the resident memory of the process (Linux), as a ratio to that
after the first 20 clicks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import s2v_inference
from step_cost import resident_bytes

from nnunet_ext.errors import InputError
from nnunet_ext.interactive.session import S2VSession

EVERY = 20
SEED = 0


def opened(args: argparse.Namespace) -> S2VSession:
    """A session with model and image."""
    session = S2VSession(args.device, torch_n_threads=args.threads, cache_bytes=args.cache * 2**20)
    if args.model:
        session.initialize_from_trained_model_folder(args.model)
        session.set_image_from_files(args.image)
        return session
    plain = s2v_inference.parser().parse_args([])
    setup = s2v_inference.setup_from(plain)
    session.initialize_from_predictor(
        s2v_inference.predictor(setup, s2v_inference.WAYS["S2VNet B, both"], mirroring=False)
    )
    noise = np.random.default_rng(SEED).normal(size=(1, *args.shape)).astype(np.float32)
    session.set_image(noise, {"spacing": list(setup.spacing_mm)})
    return session


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="trained with nnUNetTrainerS2VNet")
    parser.add_argument("--image", type=Path, nargs="+", metavar="FILE", help="one per channel; belongs to --model")
    parser.add_argument("--shape", type=int, nargs=3, default=(10, 256, 216), help="of the noise (10 256 216)")
    parser.add_argument("--clicks", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--cache", type=int, default=2048, metavar="MIB", help="memory for features (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU; default: all")
    args = parser.parse_args(arguments)
    if bool(args.model) != bool(args.image):
        parser.error("--model and --image belong together.")
    try:
        session = opened(args)
    except InputError as error:
        parser.error(str(error))
    begin = time.perf_counter()
    session.predict_automatic()
    automatic = time.perf_counter() - begin
    shape, labels = session.target_buffer.shape, list(session.labels.values())
    print(f"{args.device}; a volume of {'×'.join(map(str, shape))}; automatic segmentation: {automatic:.2f} s\n")
    print("| clicks | seconds per click | ratio to automatic | resident memory | ratio |\n|---:|---:|---:|---:|---:|")
    generator = np.random.default_rng(SEED)
    seconds, first = [], None
    for number in range(1, args.clicks + 1):
        voxel = [int(generator.integers(size)) for size in shape]
        begin = time.perf_counter()
        session.add_point_interaction(voxel, label=int(generator.choice(labels)))
        seconds.append(time.perf_counter() - begin)
        if number % EVERY == 0:
            resident = resident_bytes("VmRSS")
            first = first or resident
            memory = f"{resident / 2**20:.0f} MiB | {resident / first:.3f}" if resident and first else "– | –"
            last = median(seconds[-EVERY:])
            print(f"| {number} | {last:.2f} | {last / automatic:.3f} | {memory} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
