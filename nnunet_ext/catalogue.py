"""The catalogue: every trainer of this package, its problem, its measured verdict, and the location of its class.

A verdict is edited here; tests compare README.md and the pages of the documentation with it.

``nnUNetTrainerX_50epochs`` (any number) exists for every trainer ``nnUNetTrainerX`` listed here. Such a class is made
on first use and kept in this module, which is also where ``pickle`` looks for it: a data-loader worker that was started
with spawn or forkserver resolves the name again through :func:`__getattr__` and gets the same class.
"""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple, get_args

Tier = Literal["methods", "controls and parts", "as published", "combinations"]
TIERS: tuple[Tier, ...] = get_args(Tier)


class Entry(NamedTuple):
    """A trainer: the location of its class, and what a user needs to choose it.

    Attributes:
        location: ``module:class``.
        tier: users are shown the methods first.
        description: the problem it is for and what it does, in one line.
        needs: what a data set or a command must have for it; empty: only what nnU-Net needs.
        network: ``stock`` if nnU-Net alone can predict with what it trained, else ``own``.
        measured: better, no difference, worse or not yet, against nnUNetTrainerReference, and where.
        page: of the documentation, where the numbers are.
    """

    location: str
    tier: Tier
    description: str
    needs: str
    network: Literal["stock", "own"]
    measured: str
    page: str


TRAINERS: dict[str, Entry] = {
    "nnUNetTrainerReference": Entry(
        location="nnunet_ext.nnunet.trainer:nnUNetTrainerReference",
        tier="methods",
        description="a fair baseline: stock nnU-Net through our code",
        needs="",
        network="stock",
        measured="the baseline, equal to nnUNetTrainer bit for bit",
        page="docs/benchmark.md",
    ),
    "nnUNetTrainerPnPNet": Entry(
        location="nnunet_ext.pnpnet.trainer:nnUNetTrainerPnPNet",
        tier="methods",
        description="adjacent structures with a confused boundary: class clustering, PnPNet's pulling branch",
        needs="",
        network="own",
        measured="better at borders (ACDC, 32 patients; one to three seeds), no verdict yet",
        page="docs/results/pnpnet.md",
    ),
    "nnUNetTrainerMaskedCRF": Entry(
        location="nnunet_ext.attenscribble.trainer:nnUNetTrainerMaskedCRF",
        tier="methods",
        description="only scribbles are annotated: masked CRF loss",
        needs="ignore label",
        network="stock",
        measured="better on 59 of 60 subjects, in 2D and 3D; three seeds, no verdict yet",
        page="docs/results/attenscribble.md",
    ),
    "nnUNetTrainerAttenScribble": Entry(
        location="nnunet_ext.attenscribble.trainer:nnUNetTrainerAttenScribble",
        tier="methods",
        description="only scribbles are annotated: the same, and attentive similarity as an option",
        needs="ignore label",
        network="stock",
        measured="better, like MaskedCRF, no verdict yet; its similarity showed no gain (ACDC, three seeds)",
        page="docs/results/attenscribble.md",
    ),
    "nnUNetTrainerMedContext": Entry(
        location="nnunet_ext.medcontext.trainer:nnUNetTrainerMedContext",
        tier="methods",
        description="few labelled cases: masked views and an averaged teacher",
        needs="2.3 times the compute with images without labels",
        network="stock",
        measured="no difference shown at equal time, with images without labels (two data sets, three seeds)",
        page="docs/results/medcontext.md",
    ),
    "nnUNetTrainerPartialLabels": Entry(
        location="nnunet_ext.partial_labels.trainer:nnUNetTrainerPartialLabels",
        tier="methods",
        description="not every label was annotated in every case",
        needs="annotated_labels",
        network="stock",
        measured="better, by 0.15 Dice over stock on the same data (ACDC, three seeds)",
        page="docs/results/partial_labels.md",
    ),
    "nnUNetTrainerLandmark": Entry(
        location="nnunet_ext.babloss.trainer:nnUNetTrainerLandmark",
        tier="methods",
        description="some cases carry masks, others only landmarks",
        needs="landmarks",
        network="stock",
        measured="better than stock on the same folder (short trainings)",
        page="docs/results/babloss.md",
    ),
    "nnUNetTrainerBaBLoss": Entry(
        location="nnunet_ext.babloss.trainer:nnUNetTrainerBaBLoss",
        tier="methods",
        description="the same, and each kind teaches the other",
        needs="landmarks on surfaces",
        network="stock",
        measured="no difference shown in Dice, surfaces nearer (ACDC, three subsets)",
        page="docs/results/babloss.md",
    ),
    "nnUNetTrainerS2VNet": Entry(
        location="nnunet_ext.s2vnet.trainer:nnUNetTrainerS2VNet",
        tier="methods",
        description="volumes too large for 3D, and corrections by clicks",
        needs="configuration 2d",
        network="own",
        measured="no difference shown, no verdict yet (ACDC, three seeds); clicks help",
        page="docs/results/s2vnet.md",
    ),
    "nnUNetTrainerCCM": Entry(
        location="nnunet_ext.pnpnet.trainer:nnUNetTrainerCCM",
        tier="controls and parts",
        description="the pulling branch of PnPNet alone, its default: class clustering module",
        needs="",
        network="own",
        measured="better at borders (ACDC, 32 patients; one to three seeds), no verdict yet",
        page="docs/results/pnpnet.md",
    ),
    "nnUNetTrainerSDM": Entry(
        location="nnunet_ext.pnpnet.trainer:nnUNetTrainerSDM",
        tier="controls and parts",
        description="the pushing branch of PnPNet alone: semantic difference module",
        needs="",
        network="own",
        measured="no difference shown (hippocampus, one training)",
        page="docs/results/pnpnet.md",
    ),
    "nnUNetTrainerSegmentedOnly": Entry(
        location="nnunet_ext.nnunet.segmented_only:nnUNetTrainerSegmentedOnly",
        tier="controls and parts",
        description="stock nnU-Net without the cases in which nothing is drawn: the control for learning from them",
        needs="ignore label",
        network="stock",
        measured="better than stock on the same folder (ACDC, three subsets)",
        page="docs/results/babloss.md",
    ),
    "nnUNetTrainerSCNP": Entry(
        location="nnunet_ext.scnp.trainer:nnUNetTrainerSCNP",
        tier="controls and parts",
        description="the loss of every voxel's worst neighbour: the cheap control for better boundaries",
        needs="",
        network="stock",
        measured="worse by 0.024 Dice (hippocampus, one training)",
        page="docs/results/pnpnet.md",
    ),
    "nnUNetTrainerSSA": Entry(
        location="nnunet_ext.attenscribble.trainer:nnUNetTrainerSSA",
        tier="controls and parts",
        description="the spatial self-attention of AttenScribble alone, without its losses",
        needs="ignore label",
        network="own",
        measured="not yet",
        page="docs/attenscribble.md",
    ),
    "nnUNetTrainerMedContextMaskedOnly": Entry(
        location="nnunet_ext.medcontext.trainer:nnUNetTrainerMedContextMaskedOnly",
        tier="controls and parts",
        description="both views of MedContext, but no teacher and no consistency",
        needs="twice the compute",
        network="stock",
        measured="no difference shown, behind more iterations (ACDC, three seeds)",
        page="docs/results/medcontext.md",
    ),
    "nnUNetTrainerTubeCutout": Entry(
        location="nnunet_ext.medcontext.trainer:nnUNetTrainerTubeCutout",
        tier="controls and parts",
        description="the masks of MedContext as plain augmentation: the control for masking itself",
        needs="",
        network="stock",
        measured="worse on both subsets of ACDC (short trainings)",
        page="docs/results/medcontext.md",
    ),
    "nnUNetTrainerSelfTraining": Entry(
        location="nnunet_ext.selftraining.trainer:nnUNetTrainerSelfTraining",
        tier="controls and parts",
        description="the network's own labels of unlabelled images: the control for MedContext's teacher and masks",
        needs="unlabelled images, 2.3 times the compute",
        network="stock",
        measured="no difference shown at equal time (two data sets, three seeds)",
        page="docs/results/medcontext.md",
    ),
    "nnUNetTrainerS2VNetNoPropagation": Entry(
        location="nnunet_ext.s2vnet.trainer:nnUNetTrainerS2VNetNoPropagation",
        tier="controls and parts",
        description="S2VNet in which every slice stands alone: the control for propagation",
        needs="configuration 2d",
        network="own",
        measured="no difference shown to stock or to S2VNet (CHAOS, one training of each half)",
        page="docs/results/s2vnet.md",
    ),
    "nnUNetTrainerPnPNetPaper": Entry(
        location="nnunet_ext.pnpnet.trainer:nnUNetTrainerPnPNetPaper",
        tier="as published",
        description="PnPNet as its authors' code computes it",
        needs="about twice the memory",
        network="own",
        measured="worse by 0.011 Dice (synthetic structures, one training)",
        page="docs/results/pnpnet.md",
    ),
    "nnUNetTrainerAttenScribblePaper": Entry(
        location="nnunet_ext.attenscribble.paper_trainer:nnUNetTrainerAttenScribblePaper",
        tier="as published",
        description="AttenScribble's published formulation",
        needs="ignore label",
        network="own",
        measured="worse in one short training (ACDC), no difference shown in another (CHAOS)",
        page="docs/results/attenscribble.md",
    ),
    "nnUNetTrainerMedContextPaper": Entry(
        location="nnunet_ext.medcontext.trainer:nnUNetTrainerMedContextPaper",
        tier="as published",
        description="MedContext with the arithmetic of its released code",
        needs="2.3 times the compute",
        network="stock",
        measured="worse at equal compute (short trainings)",
        page="docs/results/medcontext.md",
    ),
    "nnUNetTrainerBaBLossPaper": Entry(
        location="nnunet_ext.babloss.trainer:nnUNetTrainerBaBLossPaper",
        tier="as published",
        description="BaBLoss with the arithmetic of its published code",
        needs="landmarks on surfaces",
        network="stock",
        measured="not yet",
        page="docs/results/babloss.md",
    ),
    "nnUNetTrainerMaskedCRFPnPNet": Entry(
        location="nnunet_ext.combinations:nnUNetTrainerMaskedCRFPnPNet",
        tier="combinations",
        description="PnPNet with the masked CRF loss: scribbles and a confused boundary",
        needs="ignore label",
        network="own",
        measured="not yet",
        page="docs/own_trainer.md",
    ),
    "nnUNetTrainerMedContextPnPNet": Entry(
        location="nnunet_ext.combinations:nnUNetTrainerMedContextPnPNet",
        tier="combinations",
        description="MedContext around PnPNet: few labels and a confused boundary",
        needs="",
        network="own",
        measured="not yet",
        page="docs/own_trainer.md",
    ),
    "nnUNetTrainerMedContextPrimusS": Entry(
        location="nnunet_ext.medcontext.primus_trainer:nnUNetTrainerMedContextPrimusS",
        tier="combinations",
        description="MedContext around nnU-Net's small Primus, a transformer: few labels",
        needs="3D patches in multiples of 8, 2.3 times the compute with images without labels",
        network="stock",
        measured="not yet",
        page="docs/medcontext.md",
    ),
}
"""All trainers, in the order in which they are shown."""

REMOVED: dict[str, str] = {
    "nnUNetTrainerBaBLossA": "train nnUNetTrainerBaBLoss with plans of nnunet-ext plans … --option babloss.b_weight=0",
    "nnUNetTrainerBaBLossB": "train nnUNetTrainerBaBLoss with plans of nnunet-ext plans … --option babloss.a_weight=0",
    "nnUNetTrainerS2VNetAutomatic": "train nnUNetTrainerS2VNet with plans of nnunet-ext plans … --option "
    "s2vnet.interactive=0",
    **{
        f"nnUNetTrainerMedContext{inner}": f"put MedContext around nnUNetTrainer{inner} in two lines of your own, as "
        "docs/own_trainer.md shows"
        for inner in ("MaskedCRF", "AttenScribble", "PartialLabels", "BaBLoss")
    },
}
"""Replacements of names that were ready-made once."""

OPTIONS: dict[str, str] = {
    "pnpnet": "nnunet_ext.pnpnet.options:PnPNetOptions",
    "attenscribble": "nnunet_ext.attenscribble.options:AttenScribbleOptions",
    "medcontext": "nnunet_ext.medcontext.options:MedContextOptions",
    "selftraining": "nnunet_ext.selftraining.options:SelfTrainingOptions",
    "unlabelled": "nnunet_ext.unlabelled.options:UnlabelledOptions",
    "babloss": "nnunet_ext.babloss.options:BaBLossOptions",
    "s2vnet": "nnunet_ext.s2vnet.options:S2VNetOptions",
}
"""Location of the options of a method, by their section in the plans: a dataclass with the sound defaults."""

_EPOCHS = re.compile(r"(?P<name>.+)_(?P<epochs>[1-9][0-9]*)epochs?")


def default_options(method: str) -> Any:
    """The sound defaults of a method of :data:`OPTIONS`."""
    return resolve_name(OPTIONS[method])()


def in_tier(tier: Tier) -> dict[str, Entry]:
    """The trainers of one tier by name."""
    return {name: entry for name, entry in TRAINERS.items() if entry.tier == tier}


def resolve(name: str) -> type:
    """The trainer class called ``name``; the same object at every call.

    Raises:
        LookupError: no such trainer; the message lists those that exist, or says what replaces one that is gone.
        ImportError: the trainer exists, but something it needs is not installed.
    """
    if name in TRAINERS:
        return resolve_name(TRAINERS[name].location)
    match = _EPOCHS.fullmatch(name)
    if match is None or match["name"] not in TRAINERS:
        raise LookupError(
            advice(name)
            or f"There is no trainer {name!r} in nnunet_ext. There are: {', '.join(TRAINERS)}; "
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


def advice(name: str) -> str:
    """One sentence for somebody who asked for a trainer that is not here: its replacement, or the name that is meant.

    Empty for names that resemble none of ours, and for nnU-Net's own trainers.
    """
    match = _EPOCHS.fullmatch(name)
    base, epochs = (match["name"], name[match.end("name") :]) if match and match["name"] != _PREFIX else (name, "")
    if base in REMOVED:
        return f"{base} is no ready-made trainer any more: {REMOVED[base]}."
    if not name.startswith(_PREFIX) or name in (stock := _stock_trainers()):
        return ""
    known = {trainer.removeprefix(_PREFIX).lower(): trainer for trainer in (*stock, *TRAINERS)}
    close = get_close_matches(base.removeprefix(_PREFIX).lower(), known, n=1, cutoff=0.8)
    if not close:
        return ""
    meant = known[close[0]]
    return f"There is no trainer {name!r} here; did you mean {meant + (epochs if meant in TRAINERS else '')!r}?"


_PREFIX = "nnUNetTrainer"


def _stock_trainers() -> set[str]:
    """Names of nnU-Net's own trainers, from its sources: importing them all takes seconds."""
    spec = find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        return set()
    sources = (Path(spec.origin).parent / "training" / "nnUNetTrainer").rglob("*.py")
    classes = re.compile(rf"(?m)^class ({_PREFIX}\w*)")
    return {name for source in sources for name in classes.findall(source.read_text(encoding="utf-8"))}


def __getattr__(name: str) -> Any:
    try:
        return resolve(name)
    except LookupError as error:
        # nnU-Net asks for every trainer that it does not have itself, and then says to set a variable that is set
        if sentence := advice(name):
            print(f"nnunet-ext: {sentence}", file=sys.stderr, flush=True)
        raise AttributeError(str(error)) from None


def __dir__() -> list[str]:
    return [*globals(), *TRAINERS]
