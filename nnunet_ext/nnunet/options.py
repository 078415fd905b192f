"""The options of a method: declared in one way, resolved in one place.

A method declares a frozen pydantic dataclass with ranges in its ``options.py``::

    @dataclass(frozen=True, config=STRICT)
    class MyOptions(MethodOptions):
        SECTION: ClassVar[str] = "my_method"

        weight: Annotated[float, Field(ge=0)] = 0.1
        \"\"\"Weight of the extra term.\"\"\"

and its trainer names it: ``methods = (MyOptions,)``. :class:`nnunet_ext.nnunet.trainer.CommonTrainer` then reads the
section ``my_method`` of the plans, refuses what does not fit in one sentence, and keeps the result under
``self.options.my_method``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from nnunet_ext.errors import InputError
from nnunet_ext.refusals import reasons

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Configuration of every dataclass of options: no unknown names, no conversions such as ``"3"`` to 3, no nan."""

THE_PLANS = "The plans"
"""Who has options, for messages, where nobody knows the name of the plans."""


class MethodOptions:
    """Base of the options of a method."""

    SECTION: ClassVar[str]
    """Section of our settings in the plans: the name of the method's package."""

    OF_NETWORK: ClassVar[tuple[str, ...]] = ()
    """Names of options that the network of a model depends on; a training notes their values in the plans of its model
    (:mod:`nnunet_ext.nnunet.noted_options`)."""

    @classmethod
    def as_published(cls) -> Self:
        """Return the values of the publication, which trainers with ``published = True`` use.

        Raises:
            NotImplementedError: the method has no published variant.
        """
        raise NotImplementedError(f"{cls.__name__} has no published variant")

    @property
    def without_effect(self) -> Collection[str]:
        """Names of options that change nothing, given the values of others."""
        return ()

    @property
    def of_network(self) -> dict[str, Any]:
        """Values of :attr:`OF_NETWORK`, as JSON has them."""
        values = {name: getattr(self, name) for name in self.OF_NETWORK}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def require_fitting(self, configuration: Mapping[str, Any]) -> None:
        """Raise InputError if the planned network lacks something that these options name.

        Args:
            configuration: resolved configuration of the plans.
        """


@dataclass(frozen=True, config=STRICT)
class PseudoLabelOptions(MethodOptions):
    """Options that a method with pseudo-labels has among its own."""

    pseudo_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss on pseudo-labels (:mod:`.pseudo_labels`); 0, as published: there are none."""
    pseudo_confidence: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Probability from which on the teacher's label counts."""
    pseudo_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Momentum of the teacher's moving average: a mean over about ``1 / (1 − m)`` steps."""

    @property
    def without_effect(self) -> Collection[str]:
        return () if self.pseudo_weight else ("pseudo_confidence", "pseudo_momentum")


Chosen = TypeVar("Chosen", bound=MethodOptions)


def with_overrides(options: Chosen, overrides: Mapping[str, Any], where: str = THE_PLANS) -> Chosen:
    """Return the options with those of a plans file on top.

    Args:
        options: a dataclass of options.
        overrides: option name → value, as JSON has it.
        where: who has them, for messages.

    Raises:
        InputError: an option that the method does not have, or a value of another type or out of range.
    """
    values = {field.name: getattr(options, field.name) for field in fields(options)}  # type: ignore[arg-type]
    section = options.SECTION
    if unknown := set(overrides) - set(values):
        raise InputError(f"{where} have unknown {section} options {sorted(unknown)}; known are {sorted(values)}.")
    try:
        return type(options)(**{**values, **overrides})
    except ValidationError as error:
        raise InputError(f"{where} have {reasons(error, section)}.") from None


def resolve(
    method: type[Chosen],
    overrides: Mapping[str, Any],
    *,
    published: bool,
    fixed: Mapping[str, Any],
    where: str = THE_PLANS,
) -> Chosen:
    """Return the options that a trainer uses.

    Args:
        method: class of the options.
        overrides: section of the plans.
        published: take the published values; the plans do not apply.
        fixed: what makes this trainer what it is; it wins over the plans.
        where: the name of the plans, for messages.

    Raises:
        InputError: see :func:`with_overrides`.
    """
    options = method.as_published() if published else with_overrides(method(), overrides, where)
    return replace(options, **fixed) if fixed else options  # type: ignore[type-var]


def merged(trainer: type, attribute: str) -> dict[str, Any]:
    """Merge a mapping over the classes that a trainer is made of; the most derived class wins.

    Args:
        trainer: class.
        attribute: class attribute that holds a mapping. Mappings inside of it are merged, too.
    """
    result: dict[str, Any] = {}
    for base in reversed(trainer.__mro__):
        for key, value in vars(base).get(attribute, {}).items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = {**result[key], **value} if both else value
    return result


def all_methods(trainer: type) -> list[type[MethodOptions]]:
    """List the options of all methods that a trainer is made of, each once."""
    declared = [method for base in reversed(trainer.__mro__) for method in vars(base).get("methods", ())]
    return list(dict.fromkeys(declared))


def not_applied(used: Mapping[str, MethodOptions], plans: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the values of the plans that a trainer does not use: it is published, fixes them, or they have no effect.

    Args:
        used: options by section.
        plans: what the plans say, by section.
    """
    return [
        f"{section}.{name} = {value!r}"
        for section, chosen in plans.items()
        for name, value in chosen.items()
        if getattr(used[section], name) != value or name in used[section].without_effect
    ]
