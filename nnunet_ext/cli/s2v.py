"""``nnunet-ext s2v …``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from nnunet_ext.cli.flags import SEVERAL, Commands, add_command, add_group, write_and_print
from nnunet_ext.cli.models import add_model_flags, add_prediction_flags, model_folder, prediction
from nnunet_ext.errors import InputError


def _predict(arguments: argparse.Namespace) -> None:
    from nnunet_ext.s2vnet.predictor import predict

    number = predict(
        arguments.images,
        arguments.out,
        model_folder(arguments),
        prediction(arguments),
        direction=arguments.direction,
    )
    print(f"{number} segmentations in {arguments.out}")


def _session(arguments: argparse.Namespace) -> dict[str, Any]:
    """Turn the flags of :func:`_add_session_flags` into arguments for opening a session."""
    return {
        "model": model_folder(arguments),
        "fold": arguments.fold,
        "checkpoint": arguments.checkpoint,
        **_computing(arguments),
    }


def _computing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of them that name no model.

    Raises:
        InputError: a number is out of its range.
    """
    if arguments.threads is not None and arguments.threads < 1:
        raise InputError(f"--threads is {arguments.threads}; give a number from 1 on, or leave it out for all.")
    if not 0 <= arguments.cache < math.inf:
        raise InputError(f"--cache is {arguments.cache} MiB; give a number from 0 on.")
    return {
        "device": arguments.device,
        "torch_n_threads": arguments.threads,
        "cache_bytes": int(arguments.cache * 2**20),
    }


def _interact(arguments: argparse.Namespace) -> None:
    from nnunet_ext.interactive.interact import interact

    changes = interact(
        arguments.images,
        prompts=arguments.prompts,
        out=arguments.out,
        log=arguments.log,
        propagation=arguments.propagation == "on",
        **_session(arguments),
    )
    for number, change in enumerate(changes, 1):
        kind = change["prompt"]["type"]
        print(f"{number:>3} {kind:<9} changed {change['voxels']} voxels in {len(change['slices'])} slices")
    print(f"{arguments.out}  the segmentation")


def _evaluate_clicks(arguments: argparse.Namespace) -> None:
    from nnunet_ext.files import require_folder
    from nnunet_ext.interactive.click_report import ClickReport
    from nnunet_ext.interactive.evaluate_box_and_clicks import evaluate_box_and_clicks
    from nnunet_ext.interactive.evaluate_clicks import evaluate_clicks

    require_folder(arguments.out)
    said: dict[str, Any] = {
        "cases": arguments.cases,
        "propagation": {"on": [True], "off": [False], "both": [True, False]}[arguments.propagation],
        "done": lambda line: print(line, flush=True),
        **_session(arguments),
    }
    chosen = {"clicks": arguments.clicks, "nsd_tolerance_mm": arguments.nsd_tolerance}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    evaluation: ClickReport[Any]
    if arguments.protocol == "cvpr2025":
        if chosen:
            raise InputError(
                "--protocol cvpr2025 has five clicks per structure and NSD at 2 mm; leave out --clicks and "
                "--nsd-tolerance."
            )
        evaluation = evaluate_box_and_clicks(arguments.images, arguments.references, **said)
    else:
        evaluation = evaluate_clicks(arguments.images, arguments.references, **chosen, **said)
    print()
    write_and_print(evaluation, Path(arguments.out), "clicks.csv, clicks.json and clicks.png")


def _serve(arguments: argparse.Namespace) -> None:
    from nnunet_ext.viewer.serve import serve, serve_demo, serve_remote

    here: dict[str, Any] = {"host": arguments.host, "say": lambda line: print(line, flush=True)}
    port = 8000 if arguments.port is None else arguments.port
    if arguments.upload is not None and not arguments.nninteractive:
        raise InputError("--upload limits what --nninteractive receives; give both, or leave it out.")
    if arguments.demo:
        model = (arguments.model, arguments.dataset, arguments.fold)
        own_checkpoint = arguments.checkpoint != "checkpoint_final.pth"
        if arguments.images or any(part is not None for part in model) or own_checkpoint or arguments.nninteractive:
            raise InputError(
                "--demo has its own image and model; leave out --image, --model, -d, -f, -chk and --nninteractive."
            )
        serve_demo(
            arguments.out or "nnunet_ext_click_demo",
            prompts_out=arguments.prompts_out,
            port=port,
            **_computing(arguments),
            **here,
        )
        return
    said = {**here, **_session(arguments)}
    if arguments.nninteractive:
        if arguments.images or arguments.out or arguments.prompts_out:
            raise InputError(
                "With --nninteractive the plug-in opens the image and saves; leave out --image, --out and "
                "--prompts-out."
            )
        upload = {} if arguments.upload is None else {"upload_mib": arguments.upload}
        serve_remote(port=1527 if arguments.port is None else arguments.port, **upload, **said)
        return
    if not arguments.images:
        raise InputError("Which image? Give --image FILE, one per channel.")
    serve(
        images=arguments.images,
        out=arguments.out,
        prompts_out=arguments.prompts_out,
        port=port,
        **said,
    )


def _add_session_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags for the model of a session, and for how the session runs."""
    add_model_flags(command, "nnUNetTrainerS2VNet", "2d")
    command.add_argument("-f", "--fold", metavar="FOLD", help="one fold (default: fold all, else the first trained)")
    command.add_argument(
        "-device", "--device", choices=["cuda", "cpu", "mps"], help="device (default: cuda if available, else cpu)"
    )
    command.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch on the CPU (default: all)")
    command.add_argument(
        "--cache", type=float, default=2048, metavar="MIB", help="memory for features; changes no result (%(default)s)"
    )


def add(commands: Commands) -> None:
    """Add to the commands of ``nnunet-ext``."""
    parts = add_group(
        commands, "s2v", "predict with models of S2VNet through whole volumes, and correct segmentations with prompts"
    )
    predict = add_command(
        parts,
        "predict",
        _predict,
        "predict segmentations of a folder of images, with the flags of nnUNetv2_predict; centres propagate through "
        "the whole volume",
        "nnunet-ext s2v predict -i imagesTs -o predictions -d 4 -f 0",
        "nnunet-ext s2v predict -i imagesTs -o predictions -d 4 --direction forward --disable_tta",
    )
    add_prediction_flags(predict, "nnUNetTrainerS2VNet", "2d")
    predict.add_argument(
        "--direction", choices=["forward", "backward", "both"], default="both", help="order of the slices (%(default)s)"
    )
    interact = add_command(
        parts,
        "interact",
        _interact,
        "segment one image with prompts from a file; the same prompts give the same result",
        "nnunet-ext s2v interact -i case_0000.nii.gz -m MODEL --prompts prompts.json -o case.nii.gz",
    )
    interact.add_argument(
        "-i", dest="images", required=True, **SEVERAL, metavar="FILE", help="image, one file per channel"
    )
    interact.add_argument("-o", dest="out", required=True, metavar="FILE", help="segmentation to write")
    interact.add_argument("--prompts", required=True, metavar="FILE", help="prompts as JSON, see docs/s2vnet.md")
    interact.add_argument("--log", metavar="FILE", help="JSON to write: the changes by every prompt")
    interact.add_argument(
        "--propagation", choices=["on", "off"], default="on", help="off: prompts change only their slice (%(default)s)"
    )
    _add_session_flags(interact)
    clicks = add_command(
        parts,
        "evaluate-clicks",
        _evaluate_clicks,
        "simulate clicks where segmentations are most wrong, and report how they improve: Dice, surface Dice, seconds",
        "nnunet-ext s2v evaluate-clicks -i imagesTs -r labelsTs -m MODEL -o clicks --propagation both",
        "nnunet-ext s2v evaluate-clicks -i imagesTs -r labelsTs -m MODEL -o clicks --protocol cvpr2025",
    )
    clicks.add_argument("-i", dest="images", required=True, metavar="FOLDER", help="images, as for nnUNetv2_predict")
    clicks.add_argument("-r", dest="references", required=True, metavar="FOLDER", help="their label maps")
    clicks.add_argument("-o", dest="out", required=True, metavar="FOLDER", help="folder for clicks.csv, .json, .png")
    clicks.add_argument("--cases", **SEVERAL, metavar="CASE", help="cases (default: all with a reference)")
    clicks.add_argument(
        "--protocol",
        choices=["largest", "cvpr2025"],
        default="largest",
        help="largest: one click at a time, in the largest error; cvpr2025: as in the challenge for interactive 3D "
        "segmentation, a box, then five clicks per structure: DSC-AUC, NSD-AUC, final DSC and NSD (%(default)s)",
    )
    clicks.add_argument("--clicks", type=int, metavar="N", help="clicks per case (10; cvpr2025: 5 per structure)")
    clicks.add_argument(
        "--propagation",
        choices=["on", "off", "both"],
        default="on",
        help="off: a click changes only its slice; both: compare (%(default)s)",
    )
    clicks.add_argument("--nsd-tolerance", type=float, metavar="MM", help="tolerance of surface Dice (1; cvpr2025: 2)")
    _add_session_flags(clicks)
    serve = add_command(
        parts,
        "serve",
        _serve,
        "serve a web page to correct an image, or a folder of images, by clicking; needs nnunet-ext[viewer]",
        "nnunet-ext s2v serve --demo",
        "nnunet-ext s2v serve -i case_0000.nii.gz -m MODEL -o case.nii.gz --prompts-out prompts.json",
        "nnunet-ext s2v serve -i imagesTs -m MODEL -o corrected",
        "nnunet-ext s2v serve -m MODEL --nninteractive",
    )
    serve.add_argument(
        "-i",
        "--image",
        dest="images",
        **SEVERAL,
        metavar="FILE",
        help="image, one file per channel; or a folder of images",
    )
    serve.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="file that Save writes the segmentation to (a folder for a folder of images); the session is stored "
        "beside it, and the next start continues it; default: download only",
    )
    serve.add_argument("--demo", action="store_true", help="use a synthetic image and a small model from the package")
    serve.add_argument("--prompts-out", metavar="FILE", help="write all prompts as JSON, for s2v interact")
    serve.add_argument("--host", default="127.0.0.1", help="address of this machine to listen on (%(default)s)")
    serve.add_argument("--port", type=int, help="port; 0 takes a free one (8000; with --nninteractive 1527)")
    serve.add_argument(
        "--nninteractive",
        action="store_true",
        help="serve nnInteractive's remote protocol instead of a page, for its plug-ins in napari and 3D Slicer",
    )
    serve.add_argument(
        "--upload",
        type=int,
        metavar="MIB",
        help="with --nninteractive: largest unpacked image (2048)",
    )
    _add_session_flags(serve)
