"""Images without labels of the data that a benchmark brings itself, preprocessed for the trainings that draw them."""

from __future__ import annotations

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
    from nnunet_ext.unlabelled.training import UnlabelledData

    for name, plans_recipe, configurations in arms:
        trainer = find_trainer(name)
        if not issubclass(trainer, UnlabelledData):
            continue
        plans = written_plans(plans_recipe, raw.name, configurations)
        content = plans_of(raw.name, plans)
        planned = content["configurations"]
        for configuration in (name for name in configurations if name in planned):  # others are refused later
            settings = resolved(content, configuration)
            if trainer.resolve_options(settings).unlabelled.images == "folder":
                folder = prepared_folder(dataset_folder(raw.name), settings["data_identifier"])
                if _outdated(folder, raw, recipe(content, configuration), images):
                    _prepare(raw, plans, configuration, len(images))


def _outdated(folder: Path, raw: Path, own: str, images: Mapping[str, Sequence[Path]]) -> bool:
    """Remove cases whose image left ``imagesUn``; return whether others are new or have changed."""
    from nnunet_ext.unlabelled.preprocess import remove_case

    place = (raw / FOLDER).absolute()
    # images of other folders are the user's own work
    there = {name: note for name, note in read_prepared(folder).items() if Path(note.sources[0][0]).parent == place}
    wanted = {name: Notes.for_files(own, files, ()) for name, files in images.items()}
    if gone := sorted(there.keys() - wanted.keys()):
        for name in gone:
            remove_case(folder, name)
        print(f"{len(gone)} images without labels left {place}; they are not drawn any more", flush=True)
    return not all(_is_same(note, there.get(name)) for name, note in wanted.items())


def _prepare(raw: Path, plans: str, configuration: str, number: int) -> None:
    from nnunet_ext.unlabelled.preprocess import prepare_unlabelled

    print(f"preprocessing {number} images without labels of {raw.name} for {configuration}", flush=True)
    report = prepare_unlabelled(raw.name, plans, [configuration])
    if report.exit_code:
        worst = report.findings[0]
        raise InputError(f"{raw / FOLDER}, {worst.case}: {worst.text}; correct or remove the image.")
    print(report.report(), flush=True)


def _is_same(wanted: Notes, there: Notes | None) -> bool:
    return there is not None and (there.recipe, there.sources) == (wanted.recipe, wanted.sources)
