"""Classes register themselves: no list has to be kept, none is left out, and none takes another's place."""

import json
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum

import pytest

from sashimi_lib.models import BackboneConfig, DenoiserConfig
from sashimi_lib.registry import as_object, from_object, register
from tests.test_contract import concrete
from tests.test_pretrained import BACKBONES as SAVED
from tests.test_pretrained import DIFFUSION
from tests.training.backbones import BACKBONES as TRAINED
from tests.training.test_execution import DENOISERS


class Shade(StrEnum):
    LIGHT = "light"


def new_class(name="Own", frozen=True):
    """A class of that name, which is another one each time."""

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


def test_a_class_that_is_defined_once_more_takes_the_place_of_the_first():
    old, new = register(new_class()), register(new_class())
    assert type(from_object({"class": "Own"})) is new
    with pytest.raises(ValueError, match="class Own is not registered"):
        as_object(old())


def test_a_name_that_another_module_has_is_refused():
    with pytest.raises(
        ValueError, match=r"name of its own, got .*test_registry\.MuLaw: sashimi_lib.*MuLaw has"
    ):
        register(new_class("MuLaw"))


def test_what_could_change_is_refused():
    with pytest.raises(ValueError, match="kind must be a frozen dataclass, got Own"):
        register(new_class(frozen=False))
    with pytest.raises(ValueError, match="kind must be a frozen dataclass, got int"):
        register(int)


def test_a_subclass_has_to_register_itself():
    class Other(register(new_class())):
        pass

    with pytest.raises(ValueError, match="class Other is not registered"):
        as_object(Other())


def test_whoever_reads_files_knows_every_configuration_of_the_library():
    kinds = {kind.__name__ for kind in concrete(BackboneConfig, DenoiserConfig)}
    assert {"SaShiMiConfig", "DiffWaveConfig"} <= kinds
    code = "import sashimi_lib.pretrained; from sashimi_lib.registry import _CLASSES; print(*_CLASSES)"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert kinds <= set(known.split())


def test_every_backbone_and_denoiser_is_trained_and_saved_in_tests():
    backbones, denoisers = concrete(BackboneConfig), concrete(DenoiserConfig)
    assert {type(make().config) for make in TRAINED.values()} == backbones
    assert {type(config) for config in SAVED.values()} == backbones
    assert {type(config) for config in DENOISERS.values()} == denoisers
    assert {type(config.backbone) for config in DIFFUSION.values()} == denoisers
