"""Whether a training has the network that the same job would have here; another version may have other defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.benchmark.preprocessed import plans_of
from nnunet_ext.benchmark.records import weights
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.files import read_json
from nnunet_ext.nnunet.plans import KEY, NOTED, resolved


def other_network(about: Mapping[str, Any], job: Job) -> str:
    """Say in which options, or in how many weights, the network of a training differs; empty if in none.

    Args:
        about: the training, as its record describes it.
        job: the same training here.
    """
    from nnunet_ext.find_trainer import find_trainer
    from nnunet_ext.nnunet.trainer import CommonTrainer

    trainer = find_trainer(job.trainer)
    if not issubclass(trainer, CommonTrainer):
        return ""
    settings = resolved(plans_of(job.dataset, job.plans), job.configuration)
    options = vars(trainer.resolve_options(settings))
    known = about.get("settings", {}).get(KEY, {})
    noted = known.get(NOTED, {})
    if differences := [
        f"{section}.{name} = {noted[section][name]!r} there and {value!r} here"
        for section, used in options.items()
        for name, value in used.of_network.items()
        if noted.get(section, {}).get(name, value) != value
    ]:
        return ", ".join(differences)
    if "weights" not in about:
        return ""
    # what else a training notes for its network, such as names of landmarks, is the same for the same data
    described = {section: content for section, content in known.items() if section not in (*options, NOTED)}
    here = _weights(trainer, job, {**settings, KEY: {**described, **settings.get(KEY, {})}})
    return "" if here == about["weights"] else f"{about['weights']:,} weights there and {here:,} here"


def _weights(trainer: Any, job: Job, settings: Mapping[str, Any]) -> int:
    """The number of weights of the network that a trainer would build for these settings of a configuration."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = plans_of(job.dataset, job.plans)
    plans["configurations"][job.configuration] = dict(settings)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(job.configuration)
    description = read_json(dataset_folder(job.dataset) / "dataset.json")
    channels = determine_num_input_channels(manager, configuration, description)
    heads = manager.get_label_manager(description).num_segmentation_heads
    return weights(trainer.build_network_architecture(manager, configuration, channels, heads, True).state_dict())
