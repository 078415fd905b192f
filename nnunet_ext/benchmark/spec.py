"""Specification of a benchmark: one small YAML file that describes the comparison, checked before any training.

::

    description: PnPNet and its two branches against the reference, hippocampus, sized for two CPU cores
    baseline: nnUNetTrainerReference
    trainers:
      - nnUNetTrainerReference
      - nnUNetTrainerPnPNet
      - {name: Reference with 34 epochs, trainer: nnUNetTrainerReference, plans: {epochs: 34}}
      - {name: PnPNet on top, trainer: nnUNetTrainerPnPNet, from: nnUNetTrainerReference}   # from its final weights
      - {name: equal time, trainer: nnUNetTrainerReference, time_of: nnUNetTrainerPnPNet}   # sets the iterations
      - {name: slices, trainer: nnUNetTrainerReference, configuration: 2d}   # another configuration than the others
    datasets: [4]                       # numbers or names of preprocessed data sets, or synthetic, with synthetic_cases
    configurations: [3d_fullres]
    plans: {base: nnUNetPlans, presets: [cpu], epochs: 20, iterations: 50}   # as for `nnunet-ext plans`
    folds: [0]
    seeds: [0, 1]
    device: cpu
    metrics: {nsd_tolerances_mm: [1], definition: surface}
    references: {127: 27}               # score data set 127 against the labels of 27 (or of a folder)
    scored: validation                  # or held-out: the cases of imagesTs that have a reference in labelsTs
    raw: $nnUNet_raw                    # plan and preprocess the data inside the benchmark's folder, too
    splits: {by: 'patient\\d+', folds: 5}   # with raw: folds by subject, as for `nnunet-ext splits`
    drawn: {127: {from: 27, scribbles: {mode: line}}}   # with raw, or from synthetic: data sets made from another one

Only ``baseline``, ``trainers`` and ``datasets`` are required.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.surfaces import Definition
from nnunet_ext.files import file_name
from nnunet_ext.refusals import meant, sentence, shown

READY = Path(__file__).parent / "specs"
"""The benchmarks that come with the package."""

SYNTHETIC = "synthetic"
"""Name of the data set that the benchmark makes itself."""

# --- types of the models ----------------------------------------------------------------------------------------------

T = TypeVar("T")
Device = Literal["cpu", "cuda", "mps"]
Scored = Literal["validation", "held-out"]


def _listed(value: Any) -> Any:
    """Turn a single value into a list of one."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value if value is None or isinstance(value, Mapping) else (value,)


def _unique(values: tuple[T, ...]) -> tuple[T, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is there twice")
    return values


def _name(value: Any) -> Any:
    """Turn the number of a data set into a name."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _entry(value: Any) -> Any:
    """Turn the name of a trainer into an arm of that name."""
    return {"name": value, "trainer": value} if isinstance(value, str) else value


Listed = Annotated[tuple[T, ...], BeforeValidator(_listed)]
Several = Annotated[tuple[T, ...], BeforeValidator(_listed), Field(min_length=1)]
Name = Annotated[str, BeforeValidator(_name)]
Positive = Annotated[int, Field(ge=1)]
Numbers = Annotated[Several[Annotated[int, Field(ge=0)]], AfterValidator(_unique)]


class _Strict(BaseModel):
    """Model that refuses unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- the models -------------------------------------------------------------------------------------------------------


class PlansRecipe(_Strict):
    """The arguments of :func:`nnunet_ext.planning.write_plans`; without any, the plans are used as they are."""

    base: str = "nnUNetPlans"
    presets: Listed[str] = ()
    epochs: Positive | None = None
    iterations: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    batch_size: Positive | None = None
    spacing: Several[Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = None
    """Another resolution than the planned one in mm, with its own preprocessed data."""
    slice_axis: Annotated[int, Field(ge=0, le=2)] | None = None
    """Slices of ``2d`` across another axis of the images than the planned one, with their own preprocessed data."""
    patch_size: Several[Positive] | None = None
    features: Several[Positive] | None = None
    options: dict[str, dict[str, Any]] = {}
    """Options of methods, by the name of their package: ``{attenscribble: {crf_weight: 1.0}}``."""

    @property
    def unchanged(self) -> bool:
        return self == PlansRecipe(base=self.base)

    @property
    def identity(self) -> dict[str, Any]:
        """Content of digests; a field that older recipes lack is left out, so that published reports fit."""
        return {key: value for key, value in self.model_dump().items() if key != "slice_axis" or value is not None}

    @property
    def has_own_data(self) -> bool:
        """Whether the planned preprocessed data cannot be used."""
        return self.spacing is not None or self.slice_axis is not None

    @property
    def has_schedule(self) -> bool:
        """Whether the recipe sets a schedule, such as epochs or a learning rate; presets always do."""
        named = (self.epochs, self.iterations, self.learning_rate, self.momentum, self.warmup_steps)
        return bool(self.presets) or any(value is not None for value in named)

    def changed_by(self, own: PlansRecipe) -> PlansRecipe:
        """This recipe, overridden by the fields set in ``own``; options are merged method by method."""
        changes = {key: getattr(own, key) for key in own.model_fields_set}
        changes["options"] = {
            method: {**self.options.get(method, {}), **own.options.get(method, {})}
            for method in {**self.options, **own.options}
        }
        return self.model_copy(update=changes)


class Arm(_Strict):
    """One row of the comparison: a trainer and the plans it is trained with.

    ``dataset`` is another data set to train on, with the same cases and folds; for example one with dense labels, as
    the upper bound for scribbles. ``configuration`` is another configuration than that of the comparison; for example
    ``3d_fullres`` among trainers of ``2d``. ``start`` (``from`` in a file) is the arm whose final weights, of the same
    fold and seed, the training starts from; this shows what a method adds to a trained network. ``time_of`` is the arm
    whose training time this arm gets, which sets its iterations.
    """

    name: str
    trainer: str
    plans: PlansRecipe = PlansRecipe()
    dataset: Name | None = None
    configuration: str | None = None
    start: Annotated[str | None, Field(alias="from")] = None
    time_of: str | None = None

    @property
    def training(self) -> tuple[Any, ...]:
        """The training that it describes; arms with an equal one are the same, unless one has the time of another."""
        return self.trainer, self.plans, self.dataset, self.configuration, self.start


class Metrics(_Strict):
    """Metrics of every scored case; see :mod:`nnunet_ext.evaluation.metrics`."""

    nsd_tolerances_mm: Several[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = (1.0,)
    definition: Definition = "surface"
    interfaces: bool = False
    """NSD, HD95 and confusion where two labels touch, see :mod:`nnunet_ext.evaluation.interfaces`."""
    topology: bool = False
    """Errors in the number of components, holes and cavities, see :mod:`nnunet_ext.evaluation.topology`."""
    consistency: bool = False
    """Whether neighbouring slices agree as those of the truth, see :mod:`nnunet_ext.evaluation.slice_consistency`."""


class SplitRecipe(_Strict):
    """The arguments of :func:`nnunet_ext.splits.write.write_splits`: folds by subject, or few-shot subsets."""

    by: str
    folds: Annotated[int, Field(ge=2)] = 5
    few_shot: Listed[Positive | Literal["all"]] = ()
    seeds: Listed[Annotated[int, Field(ge=0)]] = ()


class DrawnLandmarks(_Strict):
    """Landmarks in place of most masks, as ``nnunet-ext landmarks derive`` makes them.

    In each of ``subsets`` disjoint subsets, ``segmented`` subjects keep their masks. Each subset is a fold; the cases
    with only landmarks are the same in all folds.
    """

    rule: Literal["extreme-points", "interface"] = "extreme-points"
    labels: Listed[str] = ()
    segmented: Positive
    subsets: Positive = 1


class MovedBorders(_Strict):
    """A border between two labels that is moved at random in every case, as if annotators disagreed about it.

    ``sd_mm`` is the standard deviation of the distance by which a point of the border moves. ``smooth_mm`` is the
    standard deviation of the Gaussian that smooths this distance along the border.
    """

    between: Listed[str]
    sd_mm: Annotated[float, Field(gt=0)] = 2.0
    smooth_mm: Annotated[float, Field(gt=0)] = 6.0
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _differ(self) -> MovedBorders:
        if len(self.between) != 2 or len(set(self.between)) != 2:
            raise ValueError(f"between is {list(self.between)}; a border lies between two different labels, by name")
        return self


class MissingLabels(_Strict):
    """Labels that become background in all cases of a subject, as in data sets from several sources.

    ``removed`` lists how many labels a subject may lack; which, and how many, is drawn for every subject.
    """

    removed: Numbers = (1, 2)
    seed: Annotated[int, Field(ge=0)] = 0
    alone: str | None = None
    """A label that stays as the only class, with folds that train on the subjects that have it: the data of a network
    of its own."""


class Drawn(_Strict):
    """A data set derived from one with all labels: with scribbles, landmarks, moved borders, or missing labels."""

    source: Annotated[Name, Field(alias="from")]
    scribbles: dict[str, Any] | None = None
    """Fields of :class:`nnunet_ext.scribbles.label_map.Options`."""
    landmarks: DrawnLandmarks | None = None
    borders: MovedBorders | None = None
    missing_labels: MissingLabels | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Drawn:
        kinds = ("scribbles", "landmarks", "borders", "missing_labels")
        if sum(getattr(self, kind) is not None for kind in kinds) != 1:
            raise ValueError(f"a data set is drawn with {', '.join(kinds[:-1])} or {kinds[-1]}; write one of them")
        return self


class _Common(_Strict):
    """Fields with the same form in a YAML file and in a :class:`Spec`."""

    name: str
    description: str = ""
    baseline: str
    datasets: Several[Name]
    configurations: Several[str] = ("3d_fullres",)
    folds: Numbers = (0, 1, 2, 3, 4)
    seeds: Numbers = (0,)
    device: Device = "cuda"
    metrics: Metrics = Metrics()
    references: dict[Name, Name] = {}
    """By data set, another data set or a folder with the label maps to use as references."""
    scored: Scored = "validation"
    """Cases to score: validation cases of the fold, or cases of ``imagesTs`` with a reference in ``labelsTs``."""
    raw: str | None = None
    """``nnUNet_raw`` of data sets that the benchmark plans and preprocesses inside its folder; may contain environment
    variables."""
    splits: SplitRecipe | None = None
    """Folds of all data sets that the benchmark preprocesses; nnU-Net's by default."""
    drawn: dict[Name, Drawn] = {}
    """Data sets that the benchmark derives inside its folder, by number, from those of ``raw`` or ``synthetic``."""
    synthetic_cases: Annotated[int, Field(ge=5)] = 12
    """Number of training cases of the synthetic data set."""

    @model_validator(mode="after")
    def _fits_together(self) -> _Common:
        for dataset in self.references:
            if dataset not in self.datasets:
                raise ValueError(f"references: {dataset} is none of the datasets ({', '.join(self.datasets)})")
        for number, drawn in self.drawn.items():
            if not number.isdigit():
                raise ValueError(f"drawn: {number!r} is no number of a data set, such as 138")
            if drawn.landmarks and not (self.splits and not self.splits.few_shot):
                raise ValueError(
                    f"drawn: {number} has landmarks in place of masks, by subject; add splits with by, without few_shot"
                )
            if drawn.missing_labels and drawn.missing_labels.alone and not self.splits:
                raise ValueError(f"drawn: {number} has one label alone and folds of its own; add splits with by")
        made = [drawn.source == SYNTHETIC for drawn in self.drawn.values()]
        for field in ("splits", "drawn"):
            if getattr(self, field) and not self.raw and not (field == "drawn" and all(made)):
                raise ValueError(
                    f"{field}: only where the benchmark preprocesses its data; name the folder of your data sets, "
                    "raw: $nnUNet_raw"
                )
        if SYNTHETIC in self.datasets and (len(self.datasets) > 1 or self.raw):
            raise ValueError(f"datasets: {SYNTHETIC} cannot be mixed with others; make it a benchmark of its own")
        if any(made) and (self.raw or not all(made)):
            raise ValueError(f"drawn: data from {SYNTHETIC} cannot be mixed with others; leave out raw and the others")
        return self


class Spec(_Common):
    """A checked benchmark; ``arms`` includes the baseline."""

    arms: tuple[Arm, ...]

    def configurations_of(self, arm: Arm) -> tuple[str, ...]:
        """The configurations that an arm trains: its own, or all of the comparison."""
        return (arm.configuration,) if arm.configuration else self.configurations

    @property
    def brings_its_data(self) -> bool:
        """Whether the data is planned and preprocessed inside the folder of the benchmark."""
        return self.raw is not None or self.is_synthetic

    @property
    def is_synthetic(self) -> bool:
        """Whether the benchmark makes all of its data itself."""
        return self.datasets == (SYNTHETIC,) or any(drawn.source == SYNTHETIC for drawn in self.drawn.values())

    def with_synthetic(self, name: str) -> Spec:
        """The same with the full name of the synthetic data set wherever it is meant."""

        def named(value: str | None) -> str | None:
            return name if value == SYNTHETIC else value

        return self.model_copy(
            update={
                "datasets": tuple(map(named, self.datasets)),
                "references": {key: named(value) for key, value in self.references.items()},
                "drawn": {
                    number: drawn.model_copy(update={"source": named(drawn.source)})
                    for number, drawn in self.drawn.items()
                },
                "arms": tuple(arm.model_copy(update={"dataset": named(arm.dataset)}) for arm in self.arms),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the specification as JSON values; :meth:`from_dict` is the inverse."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Spec:
        """Read a specification from the result of :meth:`as_dict`.

        Raises:
            ValueError: the content has another form.
        """
        return cls.model_validate({**content, "arms": _listed(content["arms"])})


class _File(_Common):
    """Content of a YAML file: common plans, and trainers that may override some of them."""

    plans: PlansRecipe = PlansRecipe()
    trainers: Several[Annotated[Arm, BeforeValidator(_entry)]]

    @model_validator(mode="after")
    def _compares_something(self, info: ValidationInfo) -> _File:
        names = [arm.name for arm in self.trainers]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"trainers: {twice[0]} is there twice; give one of them another name")
        by_file: dict[str, str] = {}
        for name in names:
            if (other := by_file.setdefault(file_name(name), name)) != name:
                raise ValueError(f"trainers: {other!r} and {name!r} differ only in punctuation; rename one of them")
        for place, arm in enumerate(self.trainers):
            if arm.start is not None and arm.start not in names[:place]:
                raise ValueError(f"trainers: {arm.name} starts from {arm.start!r}, which is not listed before it")
            if arm.start is not None and arm.configuration != self.trainers[names.index(arm.start)].configuration:
                raise ValueError(f"trainers: {arm.name} starts from {arm.start}, whose configuration is another one")
            if arm.time_of is not None:
                self._can_be_timed(arm)
            if arm.configuration is not None:
                self._has_one_comparison(arm)
        trained = [(arm.training, arm.time_of) for arm in self.spec().arms]
        if any(trained.count(one) > 1 for one in trained):
            raise ValueError("trainers: two have the same trainer and plans; repeat trainings with seeds")
        if self.baseline not in names:
            raise ValueError(
                f"baseline: {self.baseline!r} is none of the trainers{meant(self.baseline, names)}; "
                f"there are {', '.join(names)}"
            )
        if len(names) < 2 and not info.context:
            raise ValueError(f"trainers: only {names[0]} is there; a comparison needs another one")
        return self

    def _can_be_timed(self, arm: Arm) -> None:
        others = [other.name for other in self.trainers if other.time_of is None]
        if arm.time_of not in others:
            there = ", ".join(others)
            raise ValueError(f"trainers: {arm.name} has the time of {arm.time_of!r}, which is no other arm ({there})")
        if "iterations" in arm.plans.model_fields_set:
            raise ValueError(f"trainers: {arm.name} has iterations, but the time of {arm.time_of} sets them")
        if len(self.datasets) > 1 or len(self.configurations) > 1:
            raise ValueError(f"trainers: {arm.name}: time_of needs one data set and one configuration")

    def _has_one_comparison(self, arm: Arm) -> None:
        if len(self.configurations) > 1:
            listed = ", ".join(self.configurations)
            raise ValueError(
                f"trainers: {arm.name} has a configuration of its own, but is compared in several ({listed}); leave one"
            )
        if arm.configuration in self.configurations:
            raise ValueError(
                f"trainers: {arm.name}: {arm.configuration} is the configuration of all; leave it out there"
            )

    def spec(self) -> Spec:
        """The specification, in which every arm has its complete plans."""
        arms = tuple(arm.model_copy(update={"plans": self.plans.changed_by(arm.plans)}) for arm in self.trainers)
        return Spec(arms=arms, **{name: getattr(self, name) for name in _Common.model_fields})


# --- files ------------------------------------------------------------------------------------------------------------


def ready_specs() -> dict[str, Path]:
    """The benchmarks that come with the package, by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


def load(name_or_path: str | Path, *, alone: bool = False) -> Spec:
    """Read a YAML file, or the ready benchmark of that name.

    Args:
        name_or_path: the file, or the name.
        alone: allow one trainer alone, as in the report of a baseline.

    Raises:
        InputError: there is no such file, it is no YAML, or it has an unknown key or a wrong value.
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
        raise InputError(f"{path} holds {shown(content)}, but a benchmark is a mapping with trainers and datasets.")
    return parse(content, str(path), path.stem, alone=alone)


def parse(content: Mapping[str, Any], where: str, name: str, *, alone: bool = False) -> Spec:
    """Check the content of a YAML file.

    Args:
        content: the mapping in the file.
        where: name of the file in messages.
        name: name of the benchmark, unless the file gives one.
        alone: allow one trainer alone.

    Raises:
        InputError: a key is unknown or missing, or a value is wrong.
    """
    try:
        # keys become text, because a message would take numbers for places in a list
        context = {"alone": True} if alone else None
        return _File.model_validate(_named_by_text({"name": name, **content}), context=context).spec()
    except ValidationError as error:
        raise InputError(sentence(error, _File, where)) from None


def _named_by_text(value: Any) -> Any:
    """The value with all keys of mappings as text."""
    if isinstance(value, Mapping):
        return {str(key): _named_by_text(entry) for key, entry in value.items()}
    return [_named_by_text(entry) for entry in value] if isinstance(value, list) else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys; by default the last one would win silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} is there twice{node.start_mark}")
        return super().construct_mapping(node, deep)
