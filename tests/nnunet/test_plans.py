"""Our settings in the plans of nnU-Net."""

from dataclasses import fields

import pytest

from nnunet_ext.catalogue import OPTIONS, TRAINERS, default_options, resolve
from nnunet_ext.nnunet.options import all_methods, with_overrides
from nnunet_ext.nnunet.plans import KEY, extension_settings, remember, resolved, without_extension
from tests import tiny


def test_what_is_remembered_of_one_configuration_is_not_in_its_parent_and_can_be_taken_out_again():
    plans = tiny.plans()
    plans["configurations"]["child"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    plans["configurations"]["3d_fullres"].pop(KEY, None)
    remember(plans, "3d_fullres", "labels", {"has_regions": True})
    remember(plans, "child", "schedule", {"epochs": 3})
    parent, child = resolved(plans, "3d_fullres"), resolved(plans, "child")
    assert parent[KEY] == {"labels": {"has_regions": True}}
    assert child[KEY] == {"labels": {"has_regions": True}, "schedule": {"epochs": 3}}
    assert (child["batch_size"], child["patch_size"]) == (7, parent["patch_size"])
    assert "inherits_from" not in child
    assert extension_settings(child, "pnpnet") == {}
    stock = without_extension(plans)
    assert all(KEY not in settings for settings in stock["configurations"].values())
    assert KEY in plans["configurations"]["child"]


@pytest.mark.parametrize("method", OPTIONS)
def test_every_default_is_a_value_that_plans_may_give(method):
    options = default_options(method)
    overrides = {field.name: getattr(options, field.name) for field in fields(options)}
    assert with_overrides(options, overrides) == options


def test_every_method_with_options_is_known():
    sections = {method.SECTION for name in TRAINERS for method in all_methods(resolve(name))}
    assert sections == set(OPTIONS)
