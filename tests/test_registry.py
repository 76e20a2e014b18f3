"""The registry: values survive JSON, names are unique, and every configuration of the library is in it."""

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum

import pytest

from sashimi_lib.models import BackboneConfig, DenoiserConfig
from sashimi_lib.registry import as_object, from_object, register
from tests.pretrained.cases import BACKBONES as SAVED
from tests.pretrained.cases import DIFFUSION
from tests.test_contract import concrete
from tests.training.backbones import BACKBONES as TRAINED
from tests.training.test_execution import DENOISERS


class Shade(StrEnum):
    LIGHT = "light"


def new_class(name="Own", frozen=True):
    """Return a new class of this name."""

    class Kind:
        size: int = 1
        shade: Shade = Shade.LIGHT
        pools: tuple[int, ...] = (4, 4)

    Kind.__name__ = Kind.__qualname__ = name
    return dataclass(frozen=frozen)(Kind)


def test_a_value_comes_back_through_json_with_its_types():
    Own = register(new_class())
    value = Own(2, pools=(1, 2))
    back = json.loads(json.dumps(value, default=as_object), object_hook=from_object)
    assert back == value
    assert type(back.pools) is tuple
    assert back.shade is Shade.LIGHT


def test_a_class_that_is_defined_again_replaces_the_first():
    old, new = register(new_class()), register(new_class())
    assert type(from_object({"class": "Own"})) is new
    with pytest.raises(ValueError, match="class Own is not registered"):
        as_object(old())


def test_a_name_of_a_class_of_another_module_is_refused():
    with pytest.raises(
        ValueError, match=r"unique name, got .*test_registry\.MuLaw: sashimi_lib.*MuLaw has the same"
    ):
        register(new_class("MuLaw"))


def test_a_mutable_class_is_refused():
    with pytest.raises(ValueError, match="kind must be a frozen dataclass, got Own"):
        register(new_class(frozen=False))
    with pytest.raises(ValueError, match="kind must be a frozen dataclass, got int"):
        register(int)


def test_a_subclass_has_to_be_registered():
    class Other(register(new_class())):
        pass

    with pytest.raises(ValueError, match="class Other is not registered"):
        as_object(Other())


def test_importing_pretrained_registers_every_configuration_of_the_library():
    kinds = {kind.__name__ for kind in concrete(BackboneConfig, DenoiserConfig)}
    assert {"SaShiMiConfig", "DiffWaveConfig"} <= kinds
    code = "import sashimi_lib.pretrained; from sashimi_lib.registry import _CLASSES; print(*_CLASSES)"
    registered = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert kinds <= set(registered.split())


def test_every_backbone_and_denoiser_is_trained_and_saved_in_tests():
    backbones, denoisers = concrete(BackboneConfig), concrete(DenoiserConfig)
    assert {type(make().config) for make in TRAINED.values()} == backbones
    assert {type(config) for config in SAVED.values()} == backbones
    assert {type(config) for config in DENOISERS.values()} == denoisers
    assert {type(config.backbone) for config in DIFFUSION.values()} == denoisers
