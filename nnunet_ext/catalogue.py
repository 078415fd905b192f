"""The catalogue: every trainer of this package, what it is, and where its class lives.

``nnUNetTrainerX_50epochs`` (any number) exists for every trainer ``nnUNetTrainerX`` listed here. Such a class is made
on first use and kept in this module, which is also where ``pickle`` looks for it: a data-loader worker that was started
with spawn or forkserver resolves the name again through :func:`__getattr__` and gets the same class.
"""

from __future__ import annotations

import re
from pkgutil import resolve_name
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """Where a trainer's class lives (``module:class``) and one line that says what it is."""

    location: str
    description: str


TRAINERS: dict[str, Entry] = {
    "nnUNetTrainerReference": Entry(
        "nnunet_ext.nnunet.trainer:nnUNetTrainerReference",
        "stock nnU-Net through the common trainer of this package: the baseline of every comparison",
    ),
    "nnUNetTrainerPnPNet": Entry(
        "nnunet_ext.pnpnet.trainer:nnUNetTrainerPnPNet",
        "adjacent structures with a confused boundary: pushing and pulling branch (PnPNet)",
    ),
    "nnUNetTrainerSDM": Entry(
        "nnunet_ext.pnpnet.trainer:nnUNetTrainerSDM",
        "the pushing branch of PnPNet alone: semantic difference module",
    ),
    "nnUNetTrainerCCM": Entry(
        "nnunet_ext.pnpnet.trainer:nnUNetTrainerCCM",
        "the pulling branch of PnPNet alone: class clustering module",
    ),
    "nnUNetTrainerPnPNetPaper": Entry(
        "nnunet_ext.pnpnet.trainer:nnUNetTrainerPnPNetPaper",
        "PnPNet as its authors' code computes it, for comparison; about twice the memory",
    ),
    "nnUNetTrainerAttenScribble": Entry(
        "nnunet_ext.attenscribble.trainer:nnUNetTrainerAttenScribble",
        "only scribbles are annotated: masked CRF loss and attentive similarity (AttenScribble)",
    ),
    "nnUNetTrainerMaskedCRF": Entry(
        "nnunet_ext.attenscribble.trainer:nnUNetTrainerMaskedCRF",
        "the masked CRF loss of AttenScribble alone; the network is stock nnU-Net's",
    ),
    "nnUNetTrainerSSA": Entry(
        "nnunet_ext.attenscribble.trainer:nnUNetTrainerSSA",
        "the spatial self-attention of AttenScribble alone, without its losses",
    ),
    "nnUNetTrainerAttenScribblePaper": Entry(
        "nnunet_ext.attenscribble.trainer:nnUNetTrainerAttenScribblePaper",
        "AttenScribble's published formulation, for comparison",
    ),
    "nnUNetTrainerMedContext": Entry(
        "nnunet_ext.medcontext.trainer:nnUNetTrainerMedContext",
        "few labels: full and masked views of each patch with an averaged teacher (MedContext); 2.3 times the compute",
    ),
    "nnUNetTrainerMedContextMaskedOnly": Entry(
        "nnunet_ext.medcontext.trainer:nnUNetTrainerMedContextMaskedOnly",
        "both views of MedContext, but no teacher and no consistency",
    ),
    "nnUNetTrainerTubeCutout": Entry(
        "nnunet_ext.medcontext.trainer:nnUNetTrainerTubeCutout",
        "the masks of MedContext as plain augmentation: the control for masking itself",
    ),
    "nnUNetTrainerMedContextPaper": Entry(
        "nnunet_ext.medcontext.trainer:nnUNetTrainerMedContextPaper",
        "MedContext with the arithmetic of its released code, for comparison",
    ),
    "nnUNetTrainerPartialLabels": Entry(
        "nnunet_ext.partial_labels.trainer:nnUNetTrainerPartialLabels",
        "not every label was annotated in every case: nnU-Net's loss on what was (annotated_labels in dataset.json)",
    ),
    "nnUNetTrainerBaBLoss": Entry(
        "nnunet_ext.babloss.trainer:nnUNetTrainerBaBLoss",
        "some cases carry masks, others landmarks: both in one network, each teaching the other (BaBLoss)",
    ),
    "nnUNetTrainerLandmark": Entry(
        "nnunet_ext.babloss.trainer:nnUNetTrainerLandmark",
        "segmentation and landmarks in one network, without the bridge of BaBLoss",
    ),
    "nnUNetTrainerBaBLossA": Entry(
        "nnunet_ext.babloss.trainer:nnUNetTrainerBaBLossA",
        "BaBLoss with direction A alone: landmarks pull boundaries that nobody drew",
    ),
    "nnUNetTrainerBaBLossB": Entry(
        "nnunet_ext.babloss.trainer:nnUNetTrainerBaBLossB",
        "BaBLoss with direction B alone: drawn boundaries pull landmarks that nobody placed",
    ),
    "nnUNetTrainerBaBLossPaper": Entry(
        "nnunet_ext.babloss.trainer:nnUNetTrainerBaBLossPaper",
        "BaBLoss with the arithmetic of its published code, for comparison",
    ),
    "nnUNetTrainerS2VNet": Entry(
        "nnunet_ext.s2vnet.trainer:nnUNetTrainerS2VNet",
        "volumes with 2D layers only: each slice starts from the cluster centres of its neighbour (S2VNet); for 2d",
    ),
    "nnUNetTrainerS2VNetAutomatic": Entry(
        "nnunet_ext.s2vnet.trainer:nnUNetTrainerS2VNetAutomatic",
        "S2VNet trained without clicks",
    ),
    "nnUNetTrainerS2VNetNoPropagation": Entry(
        "nnunet_ext.s2vnet.trainer:nnUNetTrainerS2VNetNoPropagation",
        "S2VNet in which every slice stands alone: the control for propagation",
    ),
    "nnUNetTrainerMaskedCRFPnPNet": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMaskedCRFPnPNet",
        "PnPNet with the masked CRF loss: scribbles and a confused boundary",
    ),
    "nnUNetTrainerMedContextPnPNet": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMedContextPnPNet",
        "MedContext around PnPNet: few labels and a confused boundary",
    ),
    "nnUNetTrainerMedContextMaskedCRF": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMedContextMaskedCRF",
        "MedContext around the masked CRF loss: scribbles in few volumes",
    ),
    "nnUNetTrainerMedContextAttenScribble": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMedContextAttenScribble",
        "MedContext around AttenScribble: scribbles in few volumes",
    ),
    "nnUNetTrainerMedContextPartialLabels": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMedContextPartialLabels",
        "MedContext around partial labels: few volumes, not every label in each",
    ),
    "nnUNetTrainerMedContextBaBLoss": Entry(
        "nnunet_ext.combinations:nnUNetTrainerMedContextBaBLoss",
        "MedContext around BaBLoss: masks in few cases, landmarks in others",
    ),
}

OPTIONS: dict[str, str] = {
    "pnpnet": "nnunet_ext.pnpnet.options:PnPNetOptions",
    "attenscribble": "nnunet_ext.attenscribble.options:AttenScribbleOptions",
    "medcontext": "nnunet_ext.medcontext.options:MedContextOptions",
    "babloss": "nnunet_ext.babloss.options:BaBLossOptions",
    "s2vnet": "nnunet_ext.s2vnet.options:S2VNetOptions",
}
"""Where the options of a method live, by their section in the plans: a dataclass whose defaults are the sound ones."""

_EPOCHS = re.compile(r"(?P<name>.+)_(?P<epochs>[1-9][0-9]*)epochs?")


def default_options(method: str) -> Any:
    """The sound defaults of a method of :data:`OPTIONS`."""
    return resolve_name(OPTIONS[method])()


def resolve(name: str) -> type:
    """The trainer class called ``name``; the same object at every call.

    Raises:
        LookupError: no such trainer; the message lists those that exist.
        ImportError: the trainer exists, but something it needs is not installed.
    """
    if name in TRAINERS:
        return resolve_name(TRAINERS[name].location)
    match = _EPOCHS.fullmatch(name)
    if match is None or match["name"] not in TRAINERS:
        raise LookupError(
            f"There is no trainer {name!r} in nnunet_ext. There are: {', '.join(TRAINERS)}; "
            "each also with a number of epochs, such as nnUNetTrainerPnPNet_50epochs."
        )
    if name not in globals():
        base = resolve(match["name"])
        epochs = int(match["epochs"])
        globals()[name] = type(
            name,
            (base,),
            {"__module__": __name__, "__doc__": f"{match['name']} for {epochs} epochs.", "fixed_num_epochs": epochs},
        )
    return globals()[name]


def __getattr__(name: str) -> Any:
    try:
        return resolve(name)
    except LookupError as error:
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*globals(), *TRAINERS]
