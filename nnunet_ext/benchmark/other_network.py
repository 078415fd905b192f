"""Whether a training has the network that the same job would have here; another version may have other defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from nnunet_ext.benchmark.folder import Job
from nnunet_ext.benchmark.preprocessed import plans_of
from nnunet_ext.benchmark.records import weights
from nnunet_ext.data.folders import dataset_folder
from nnunet_ext.nnunet.plans import KEY, NOTED, resolved


def other_network(about: Mapping[str, Any], job: Job) -> str:
    """Say in which options, or in how many weights, the network of a training differs; empty if in none.

    Args:
        about: the training, as its record describes it; plans and data are those of the job.
        job: the same training here.
    """
    from nnunet_ext.find_trainer import find_trainer
    from nnunet_ext.nnunet.noted_options import differing
    from nnunet_ext.nnunet.trainer import CommonTrainer

    trainer, known = find_trainer(job.trainer), about.get("settings", {})
    if not issubclass(trainer, CommonTrainer) or not known:
        return ""
    plans = plans_of(job.dataset, job.plans)
    settings = resolved(plans, job.configuration)
    options = trainer.resolve_options(settings)
    if there := differing(known, options):
        return ", ".join(
            f"{section}.{name} = {value!r} there and {getattr(getattr(options, section), name)!r} here"
            for section, values in there.items()
            for name, value in values.items()
        )
    # what a training adapts and notes for its network beside its options is the same for the same data
    own, methods = settings.get(KEY, {}), vars(options)
    noted = {name: content for name, content in known.get(KEY, {}).items() if name not in (*methods, NOTED)}
    as_trained = {name: known[name] for name in ("patch_size",) if name in known}
    plans["configurations"][job.configuration] = {**settings, **as_trained, KEY: {**noted, **own}}
    description = (dataset_folder(job.dataset) / "dataset.json").read_text()
    here = _weights(job.trainer, json.dumps(plans), job.configuration, description)
    if about.get("weights", here[0]) in here:
        return ""
    return f"{about['weights']:,} weights there and {here[0]:,} here"


@cache
def _weights(name: str, plans: str, configuration: str, description: str) -> tuple[int, int]:
    """Return the number of weights of the network that a trainer would build.

    Once, and with modules that have several names counted by each of them, as early reports did.

    Args:
        name: of the trainer.
        plans: JSON.
        configuration: name.
        description: ``dataset.json``.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunet_ext.find_trainer import find_trainer

    manager, dataset_json = PlansManager(json.loads(plans)), json.loads(description)
    settings = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, settings, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    network = find_trainer(name).build_network_architecture(manager, settings, channels, heads, True)
    state = network.state_dict()
    return weights(state), sum(value.numel() for value in state.values())
