"""Cases of a folder for simulated users: a session with a model, and images with their references."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nnunet_ext.data.folders import case_names
from nnunet_ext.data.label_definitions import ScoredLabels
from nnunet_ext.data.raw import require_labels
from nnunet_ext.data.reading import Reader, Volume, require_same_geometry
from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.metrics import CaseMetrics, label_metrics
from nnunet_ext.interactive.session import S2VSession
from nnunet_ext.nnunet.models import require_images
from nnunet_ext.processes.memory import peak_host_mib


@dataclass(frozen=True)
class ClickCases:
    """A session, and the cases that go through it.

    Attributes:
        session: session with the model.
        labels: labels to score.
        files: channels and reference of every case.
        reader: reader of these files.
    """

    session: S2VSession
    labels: ScoredLabels
    files: Mapping[str, tuple[list[Path], Path]]
    reader: Reader

    @classmethod
    def opened(
        cls,
        images: str | Path,
        references: str | Path,
        model: str | Path,
        cases: Sequence[str] | None = None,
        fold: int | str | None = None,
        checkpoint: str = "checkpoint_final.pth",
        device: str | None = None,
        **options: Any,
    ) -> ClickCases:
        """Open a model and find the files of the cases.

        Args:
            images: folder of images, named as for nnU-Net.
            references: folder of their label maps.
            model: folder with ``plans.json`` and ``fold_…``.
            cases: cases to use; by default all with a reference.
            fold: see :meth:`S2VSession.initialize_from_trained_model_folder`.
            checkpoint: file name in the folder of the fold.
            device: ``cuda``, ``cpu`` or ``mps``; by default a GPU if there is one.
            options: options of the session.

        Raises:
            InputError: the model, a file or a case is missing, or does not fit.
        """
        session = S2VSession(device, **options)
        session.initialize_from_trained_model_folder(model, fold, checkpoint)
        description = session.model.dataset_json
        labels = ScoredLabels.from_dataset_json(description, f"dataset.json of {model}")
        files = _files(Path(images), Path(references), description, cases)
        return cls(session, labels, files, Reader(session.model.plans_manager.plans["image_reader_writer"]))

    @property
    def threads(self) -> int:
        """Number of PyTorch's threads."""
        return self.session.threads or torch.get_num_threads()

    def each(self, propagation: Sequence[bool]) -> Iterator[tuple[str, bool, Volume]]:
        """Put the image of every case into the session, once per way, and yield its name, the way and its reference.

        Args:
            propagation: the ways: True, False for prompts that change only their slice, or both.

        Raises:
            InputError: a file cannot be read, or an image and its reference do not fit.
        """
        for name, (channels, reference) in self.files.items():
            truth = self.reader.labels(reference)
            require_labels(truth.array, set(self.labels.known or ()), reference)
            require_same_geometry(name, truth, self.reader.image(channels[0]))
            for way in propagation:
                self.session.propagation = way
                self.session.set_image_from_files(channels)
                yield name, way, truth

    def peak_mib(self) -> tuple[float | None, float | None]:
        """Peak memory in MiB of the process so far, and of the GPU; None if it cannot be measured."""
        device = self.session.device
        on_gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
        return peak_host_mib(), on_gpu


def scored(session: S2VSession, truth: Volume, labels: ScoredLabels, nsd_tolerance_mm: float) -> dict[str, CaseMetrics]:
    """Metrics of a session's present label map, by label.

    Args:
        session: session with an image.
        truth: reference of the image.
        labels: labels to score.
        nsd_tolerance_mm: tolerance of the NSD.
    """
    return label_metrics(
        session.target_buffer.reshape(truth.array.shape),
        truth.array,
        truth.spacing_mm,
        labels.values,
        ignore_label=labels.ignore,
        nsd_tolerances_mm=[nsd_tolerance_mm],
    )


def way_name(propagation: bool) -> str:
    """The word for propagation in reports: ``on`` or ``off``."""
    return "on" if propagation else "off"


def rounded(value: float) -> float | None:
    """A rounded number for JSON; NaN becomes None."""
    return None if math.isnan(value) else round(value, 4)


def _files(
    images: Path, references: Path, description: Mapping[str, Any], cases: Sequence[str] | None
) -> dict[str, tuple[list[Path], Path]]:
    if not references.is_dir():
        raise InputError(f"The reference folder {references} does not exist.")
    ending = description["file_ending"]
    names = case_names(references, ending)
    if cases is not None and (unknown := sorted(set(cases) - set(names))):
        raise InputError(
            f"{references} holds no reference of case {unknown[0]}; there are {len(names)} {ending} files."
        )
    names = names if cases is None else sorted(set(cases))
    if not names:
        raise InputError(f"{references} holds no {ending} files; is it the folder of the references?")
    channels = require_images(images, description, names)
    return {name: (channels[name], references / f"{name}{ending}") for name in names}
