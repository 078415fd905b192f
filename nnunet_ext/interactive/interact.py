"""``nnunet-ext s2v interact``: a session without a screen, with prompts from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_ext.data.reading import Reader, require_same_geometry
from nnunet_ext.data.spacing_files import spacing_file
from nnunet_ext.errors import InputError
from nnunet_ext.files import require_other_file, write_json
from nnunet_ext.interactive.prompt_list import read_prompts
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.version import __version__


def mask_reader(session: S2VSession, image: Path) -> Any:
    """A function that reads the label map ``(z, y, x)`` in a file, which must lie on the voxels of an image.

    The function raises InputError if the file cannot be read, or lies on other voxels.
    """
    model = session.model
    reader = Reader(model.plans_manager.plans["image_reader_writer"])
    like = reader.image(image)

    def read(path: Path) -> NDArray:
        if not path.is_file():
            raise InputError(f"There is no file {path}.")
        found = reader.labels(path)
        try:
            require_same_geometry(path.name, like, found)
        except InputError:
            raise InputError(f"{path} does not lie on the voxels of {image}; resample it to the image.") from None
        return found.array if found.array.ndim == 3 else found.array[None]

    return read


def interact(
    images: Sequence[str | Path],
    model: str | Path,
    prompts: str | Path,
    out: str | Path,
    *,
    fold: int | str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    device: str | None = None,
    log: str | Path | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Segment one image with prompts from a file; the same prompts give the same bytes.

    Prompts that still wait at the end are predicted. If no prompt is left, the automatic result is written.

    Args:
        images: one file per channel.
        model: folder with ``plans.json`` and ``fold_…``.
        prompts: file of prompts, see :mod:`nnunet_ext.interactive.prompt_list`.
        out: file to write, with the geometry of the image.
        fold: see :meth:`S2VSession.initialize_from_trained_model_folder`.
        checkpoint: file name in the folder of the fold.
        device: ``cuda``, ``cpu`` or ``mps``; by default a GPU if there is one.
        log: JSON file to write, with the changes by every prompt.
        options: options of the session.

    Returns:
        The changes by each prompt: voxels, slices, box, and voxels by label.

    Raises:
        InputError: a file, the model or a prompt is wrong; nothing is written then.
    """
    session = S2VSession(device, **options)
    session.initialize_from_trained_model_folder(model, fold, checkpoint)
    session.set_image_from_files(images)
    session.case.require_writable(out)
    written = spacing_file(Path(out))
    if written is not None and Path(prompts).resolve() == written.resolve():
        raise InputError(f"{prompts} would be replaced by the spacing of {out}; choose another name for one of them.")
    if log is not None:
        spacings = [file for file in (spacing_file(Path(images[0]), image=True), written) if file is not None]
        taken = (*images, prompts, out, *spacings)
        require_other_file(log, "--log", taken, "the image, the prompts, the segmentation or a spacing")
    todo = read_prompts(prompts, mask_reader(session, Path(images[0])))
    if session.case.is_reoriented and any(prompt.reversed for prompt in todo):
        raise InputError(
            f'{prompts} has axes xyz, indices of the file, but the reader of the model turns {images[0]}; give "axes": '
            '"zyx", indices of the array as it was turned.'
        )
    entries = []
    for prompt in todo:
        before = session.target_buffer.copy()
        prompt.apply(session)
        entries.append({"prompt": prompt.as_array, **_changes(session, before)})
    before = session.target_buffer.copy()
    if session.waiting or not session.has_result:
        session.predict()
        entries.append({"prompt": {"type": "predict"}, **_changes(session, before)})
    session.write(out)
    if log is not None:
        content = {
            "nnunet_ext": __version__,
            "images": [Path(image).name for image in images],
            "model": Path(model).name,
            "axes": "zyx",
            "prompts": entries,
        }
        write_json(Path(log), content)
    return entries


def _changes(session: S2VSession, before: NDArray) -> dict[str, Any]:
    """The changes of the label map since ``before``."""
    after = session.target_buffer
    where = np.argwhere(before != after)
    if not len(where):
        return {"voxels": 0, "slices": [], "box": None, "labels": {}}
    was, becomes = before[tuple(where.T)], after[tuple(where.T)]
    labels = {
        name: {"added": int((becomes == value).sum()), "removed": int((was == value).sum())}
        for name, value in session.labels.items()
    }
    return {
        "voxels": len(where),
        "slices": np.unique(where[:, session.case.slice_axis]).tolist(),
        "box": [[int(low), int(high) + 1] for low, high in zip(where.min(0), where.max(0), strict=True)],
        "labels": labels,
    }
