"""What a benchmark compares: one small YAML file, read and checked before anything is trained.

::

    description: PnPNet and its two branches against the reference, hippocampus, sized for two CPU cores
    baseline: nnUNetTrainerReference
    trainers:
      - nnUNetTrainerReference
      - nnUNetTrainerPnPNet
      - {name: Reference with 34 epochs, trainer: nnUNetTrainerReference, plans: {epochs: 34}}
    datasets: [4]                       # numbers or names of preprocessed data sets, or synthetic
    configurations: [3d_fullres]
    plans: {base: nnUNetPlans, presets: [cpu], epochs: 20, iterations: 50}   # as for `nnunet-ext plans`
    folds: [0]
    seeds: [0, 1]
    device: cpu
    metrics: {nsd_tolerances_mm: [1], definition: surface}
    references: {127: 27}               # score data set 127 against the labels of 27 (or of a folder)

Only ``baseline``, ``trainers`` and ``datasets`` are required.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.surfaces import Definition

READY = Path(__file__).parent / "specs"
"""The benchmarks that come with the package."""

SYNTHETIC = "synthetic"
"""Name of the data set that the runner makes itself."""


@dataclass(frozen=True)
class PlansRecipe:
    """The arguments of :func:`nnunet_ext.planning.write_plans`; without any, the plans are used as they are."""

    base: str = "nnUNetPlans"
    presets: tuple[str, ...] = ()
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    features: tuple[int, ...] | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of methods, by the name of their package: ``{attenscribble: {crf_weight: 1.0}}``."""

    @property
    def unchanged(self) -> bool:
        return self == PlansRecipe(base=self.base)


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: a trainer and the plans it is trained with.

    ``dataset``: trained on this data set instead, which has the same cases and folds, such as one with dense labels as
    the upper bound for scribbles.
    """

    name: str
    trainer: str
    plans: PlansRecipe
    dataset: str | None = None


@dataclass(frozen=True)
class Metrics:
    """What ``evaluate`` computes for every validation case; see :mod:`nnunet_ext.evaluation.metrics`."""

    nsd_tolerances_mm: tuple[float, ...] = (1.0,)
    definition: Definition = "surface"


@dataclass(frozen=True)
class Spec:
    """A benchmark, checked. ``arms`` includes the baseline."""

    name: str
    baseline: str
    arms: tuple[Arm, ...]
    datasets: tuple[str, ...]
    description: str = ""
    configurations: tuple[str, ...] = ("3d_fullres",)
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = (0,)
    device: str = "cuda"
    metrics: Metrics = field(default_factory=Metrics)
    references: Mapping[str, str] = field(default_factory=dict)
    """By data set: the data set or the folder whose label maps are the truth, where that is not its own."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; :meth:`from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Spec:
        def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

        arms = tuple(
            Arm(arm["name"], arm["trainer"], PlansRecipe(**tuples(arm["plans"])), arm.get("dataset"))
            for arm in content["arms"]
        )
        return cls(**{**tuples(content), "arms": arms, "metrics": Metrics(**tuples(content["metrics"]))})


def ready_specs() -> dict[str, Path]:
    """The benchmarks that come with the package, by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


def load(name_or_path: str | Path) -> Spec:
    """Read a YAML file, or the ready benchmark of that name.

    Raises:
        InputError: no such file, no YAML, an unknown key (with the one that was probably meant), a wrong value.
    """
    path = ready_specs().get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise InputError(
            f"There is no benchmark {str(name_or_path)!r}: neither a file nor one of {', '.join(ready_specs())}."
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {_shown(content)}, but a benchmark is a mapping with trainers and datasets.")
    return parse(content, str(path), path.stem)


def parse(content: Mapping[str, Any], where: str, name: str) -> Spec:
    """Check what a YAML file holds.

    Args:
        content: the mapping.
        where: name of the file, for messages.
        name: of the benchmark, unless the file gives one.
    """
    known = {f.name for f in fields(Spec)} - {"arms"} | {"trainers", "plans"}
    _only(content, known, where)
    for key in ("baseline", "trainers", "datasets"):
        if key not in content:
            raise InputError(f"{where} has no {key}; a benchmark needs baseline, trainers and datasets.")
    plans = _plans(_mapping(content.get("plans", {}), f"{where}, plans"), f"{where}, plans")
    arms = tuple(_arm(entry, plans, where) for entry in _list(content["trainers"], f"{where}, trainers", (str, dict)))
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}, trainers: {twice} is there twice; give one of them another name.")
    trained = [(arm.trainer, arm.plans, arm.dataset) for arm in arms]
    if any(trained.count(one) > 1 for one in trained):
        raise InputError(f"{where}, trainers: two have the same trainer and plans; repeat trainings with seeds.")
    if content["baseline"] not in names:
        raise InputError(
            f"{where}, baseline: {content['baseline']!r} is none of the trainers{_meant(content['baseline'], names)}; "
            f"there are {', '.join(names)}."
        )
    if len(arms) < 2:
        raise InputError(f"{where}, trainers: only {names[0]} is there; a comparison needs another one.")
    datasets = tuple(map(str, _list(content["datasets"], f"{where}, datasets", (int, str))))
    device = content.get("device", Spec.device)
    if device not in ("cpu", "cuda", "mps"):
        raise InputError(f"{where}, device: {device!r} is not cpu, cuda or mps.")
    return Spec(
        name=_text(content.get("name", name), f"{where}, name"),
        description=_text(content.get("description", ""), f"{where}, description"),
        baseline=content["baseline"],
        arms=arms,
        datasets=datasets,
        configurations=tuple(_list(content.get("configurations", Spec.configurations), f"{where}, configurations")),
        folds=_numbers(content.get("folds", Spec.folds), f"{where}, folds"),
        seeds=_numbers(content.get("seeds", Spec.seeds), f"{where}, seeds"),
        device=device,
        metrics=_metrics(_mapping(content.get("metrics", {}), f"{where}, metrics"), f"{where}, metrics"),
        references=_references(_mapping(content.get("references", {}), f"{where}, references"), datasets, where),
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _arm(entry: Any, plans: PlansRecipe, where: str) -> Arm:
    if isinstance(entry, str):
        return Arm(entry, entry, plans)
    _only(entry, {"name", "trainer", "plans", "dataset"}, f"{where}, trainers")
    if not {"name", "trainer"} <= set(entry):
        raise InputError(f"{where}, trainers: {_shown(entry)} needs a name and a trainer.")
    own = _mapping(entry.get("plans", {}), f"{where}, plans of {entry['name']}")
    changes = asdict(_plans(own, f"{where}, plans of {entry['name']}"))
    changes["options"] = {
        method: {**plans.options.get(method, {}), **changes["options"].get(method, {})}
        for method in {**plans.options, **changes["options"]}
    }
    return Arm(
        _text(entry["name"], f"{where}, trainers, name"),
        _text(entry["trainer"], f"{where}, trainers, trainer"),
        replace(plans, **{key: value for key, value in changes.items() if key in own}),
        str(entry["dataset"]) if "dataset" in entry else None,
    )


def _plans(content: Mapping[str, Any], where: str) -> PlansRecipe:
    _only(content, {f.name for f in fields(PlansRecipe)}, where)
    checked: dict[str, Any] = {}
    for key, value in content.items():
        if value is None:
            continue
        if key == "base":
            checked[key] = _text(value, f"{where}, base")
        elif key == "presets":
            checked[key] = tuple(_list(value, f"{where}, presets"))
        elif key in ("patch_size", "features"):
            checked[key] = tuple(_list(value, f"{where}, {key}", (int,)))
        elif key == "options":
            methods = _mapping(value, f"{where}, options")
            checked[key] = {m: dict(_mapping(chosen, f"{where}, options, {m}")) for m, chosen in methods.items()}
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{where}, {key}: {_shown(value)} is no number of at least 1.")
        else:
            checked[key] = value
    return PlansRecipe(**checked)


def _metrics(content: Mapping[str, Any], where: str) -> Metrics:
    _only(content, {f.name for f in fields(Metrics)}, where)
    tolerances = _list(content.get("nsd_tolerances_mm", [1.0]), f"{where}, nsd_tolerances_mm", (int, float))
    definition = content.get("definition", "surface")
    if definition not in ("surface", "voxel"):
        raise InputError(f"{where}, definition: {definition!r} is neither surface nor voxel.")
    if min(tolerances) <= 0:
        raise InputError(f"{where}, nsd_tolerances_mm: {min(tolerances)} is not positive.")
    return Metrics(tuple(map(float, tolerances)), definition)


def _references(content: Mapping[str, Any], datasets: Sequence[str], where: str) -> dict[str, str]:
    references = {str(dataset): str(truth) for dataset, truth in content.items()}
    for dataset in references:
        if dataset not in datasets:
            raise InputError(f"{where}, references: {dataset} is none of the datasets ({', '.join(datasets)}).")
    return references


# --- checks -----------------------------------------------------------------------------------------------------------


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a second key of the same name win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def _only(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{_meant(key, known)}; known are {', '.join(sorted(known))}.")


def _meant(word: Any, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: {_shown(value)} is no mapping.")
    return value


def _list(value: Any, where: str, kinds: tuple[type, ...] = (str,)) -> list[Any]:
    expected = " or ".join({str: "text", int: "numbers", float: "numbers", dict: "mappings"}[kind] for kind in kinds)
    if isinstance(value, str) or not isinstance(value, Sequence):
        value = [value]
    if not value or not all(isinstance(entry, kinds) and not isinstance(entry, bool) for entry in value):
        raise InputError(f"{where}: {_shown(value)} is no list of {expected}.")
    return list(value)


def _numbers(value: Any, where: str) -> tuple[int, ...]:
    numbers = _list(value, where, (int,))
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InputError(f"{where}: {_shown(value)} holds a negative or a repeated number.")
    return tuple(numbers)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: {_shown(value)} is no text.")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
