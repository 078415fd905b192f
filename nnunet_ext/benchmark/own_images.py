"""Images without labels of the data that a benchmark brings itself, preprocessed for the trainings that draw them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_ext.benchmark.plans import written_plans
from nnunet_ext.benchmark.preprocessed import plans_of
from nnunet_ext.benchmark.spec import PlansRecipe
from nnunet_ext.data.channels import images_by_case
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json
from nnunet_ext.nnunet.plans import resolved
from nnunet_ext.unlabelled.found import FOLDER
from nnunet_ext.unlabelled.prepared import Notes, prepared_folder, read_prepared, recipe


def preprocess_images(raw: Path, arms: Sequence[tuple[str, PlansRecipe, tuple[str, ...]]]) -> None:
    """Preprocess the images in ``imagesUn`` of a data set as they are now, if anything changed; variables are set.

    Args:
        raw: folder of the data set, whose labelled cases are preprocessed.
        arms: trainer, plans and configurations of every arm that is trained on it.

    Raises:
        InputError: an image cannot be used.
    """
    place = raw / FOLDER
    images = images_by_case(place, read_json(raw / "dataset.json")["file_ending"]) if place.is_dir() else {}
    from nnunet_ext.find_trainer import find_trainer
    from nnunet_ext.unlabelled.preprocess import prepare_unlabelled
    from nnunet_ext.unlabelled.training import UnlabelledData

    for name, plans_recipe, configurations in arms:
        trainer = find_trainer(name)
        if not issubclass(trainer, UnlabelledData):
            continue
        plans = written_plans(plans_recipe, raw.name, configurations)
        planned = plans_of(raw.name, plans)["configurations"]
        for configuration in (name for name in configurations if name in planned):  # others are refused later
            options = trainer.resolve_options(resolved(plans_of(raw.name, plans), configuration))
            if options.unlabelled.images != "folder" or _are_prepared(raw.name, plans, configuration, images):
                continue
            if not images:
                identifier = resolved(plans_of(raw.name, plans), configuration)["data_identifier"]
                shutil.rmtree(prepared_folder(dataset_folder(raw.name), identifier))
                print(f"{place} holds no images any more, so those preprocessed before are removed", flush=True)
                continue
            print(f"preprocessing {len(images)} images without labels of {raw.name} for {configuration}", flush=True)
            report = prepare_unlabelled(raw.name, plans, [configuration])
            if report.exit_code:
                worst = report.findings[0]
                raise InputError(f"{place}, {worst.case}: {worst.text}; correct or remove the image.")
            print(report.report(), flush=True)


def _are_prepared(dataset: str, plans: str, configuration: str, images: Mapping[str, Sequence[Path]]) -> bool:
    """Whether these images are preprocessed as they are now."""
    content = plans_of(dataset, plans)
    identifier = resolved(content, configuration)["data_identifier"]
    there = read_prepared(prepared_folder(dataset_folder(dataset), identifier))
    own = recipe(content, configuration)
    wanted = {name: Notes.for_files(own, files, ()) for name, files in images.items()}
    return there.keys() == wanted.keys() and all(
        (there[name].recipe, there[name].sources) == (note.recipe, note.sources) for name, note in wanted.items()
    )
