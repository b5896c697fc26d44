"""The built-in models by name: what a config's ``model`` section can ask for."""

import dataclasses
import difflib
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.errors import UserError, shown
from sbt.models.alexnet import AlexNet, ReducedAlexNet
from sbt.models.convnet import MLP, ConvNet
from sbt.models.keskar import DeepConv, FullyConnected, ShallowConv
from sbt.models.resnet import CifarResNet, CifarResNet18, ResNet50
from sbt.models.vgg import CifarVGG16
from sbt.models.wide_resnet import WideResNet
from sbt.ranges import BELOW_ONE, Range, check_number, ranges_of

_ML18 = "Masters & Luschi 2018, arXiv:1804.07612"
_HE15 = "He et al. 2015, arXiv:1512.03385"
_GZ20 = "Gao & Zhong 2020, arXiv:2012.08795"
_ZK16 = "Zagoruyko & Komodakis 2016, arXiv:1605.07146"
_KESKAR = "Keskar et al. 2017, arXiv:1609.04836"


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One entry of the registry.

    Attributes:
      build: the module's class with what the model's name fixes; takes the class's other fields.
      source: the paper it comes from.
      doc: one line.
      input_shape: ``(height, width, channels)`` of its standard data.
      num_classes: classes of its standard data.
    """

    build: functools.partial[nn.Module]
    source: str
    doc: str
    input_shape: tuple[int, int, int] = (32, 32, 3)
    num_classes: int = 10


def _spec(
    module: type[nn.Module],
    source: str,
    doc: str,
    shape: tuple[int, int, int] = (32, 32, 3),
    classes: int = 10,
    **fixed: Any,
) -> ModelSpec:
    return ModelSpec(functools.partial(module, **fixed), source, doc, shape, classes)


MODELS: dict[str, ModelSpec] = {
    "convnet": _spec(ConvNet, "sbt", "two convolutions, for 8x8 digits", (8, 8, 1)),
    "mlp": _spec(MLP, "sbt", "multi-layer perceptron, for 8x8 digits", (8, 8, 1)),
    "alexnet": _spec(ReducedAlexNet, f"{_ML18}, Figs 1, 5, 6", "reduced AlexNet"),
    "alexnet_dropout": _spec(AlexNet, _GZ20, "AlexNet for 32x32 images, with dropout"),
    "resnet8": _spec(CifarResNet, f"{_ML18}, Fig. 2; {_HE15}", "CIFAR ResNet, n = 1", depth=8),
    "resnet20": _spec(CifarResNet, f"{_ML18}, Fig. 3; {_HE15}", "CIFAR ResNet, n = 3", depth=20),
    "resnet32": _spec(
        CifarResNet, f"{_ML18}, Figs 4, 7-11, 13, 17, 18; {_HE15}", "CIFAR ResNet, n = 5", depth=32
    ),
    "resnet44": _spec(CifarResNet, _HE15, "CIFAR ResNet, n = 7", depth=44),
    "resnet56": _spec(CifarResNet, _HE15, "CIFAR ResNet, n = 9", depth=56),
    "resnet18": _spec(CifarResNet18, f"{_GZ20}, Fig. 16", "ResNet-18 with a CIFAR stem"),
    "resnet50": _spec(
        ResNet50, f"{_ML18}, Figs 12, 14; {_HE15}", "ImageNet ResNet-50", (224, 224, 3), 1000
    ),
    "vgg16": _spec(CifarVGG16, "Simonyan & Zisserman 2014, arXiv:1409.1556", "VGG-16 for CIFAR"),
    "wrn16_4": _spec(WideResNet, _ZK16, "wide ResNet", depth=16, widen=4),
    "wrn28_10": _spec(WideResNet, _ZK16, "wide ResNet", depth=28, widen=10),
    "f1": _spec(FullyConnected, _KESKAR, "five dense layers, MNIST", (28, 28, 1), depth=5),
    "f2": _spec(FullyConnected, _KESKAR, "seven dense layers, TIMIT", (1, 1, 360), 1973, depth=7),
    "c1": _spec(ShallowConv, _KESKAR, "AlexNet-like, CIFAR-10"),
    "c2": _spec(DeepConv, _KESKAR, "VGG-like, CIFAR-10"),
    "c3": _spec(ShallowConv, _KESKAR, "AlexNet-like, CIFAR-100", classes=100),
    "c4": _spec(DeepConv, _KESKAR, "VGG-like, CIFAR-100", classes=100),
}

# What another part of the config sets, and which.
_SET_ELSEWHERE = {
    "num_classes": "It follows from the data.",
    "bn_batch": "Set config.bn_batch.",
    "bn_axis_name": "It follows from the devices.",
    "dtype": "Set config.engine.precision.",
}


def build_model(
    config: Mapping[str, Any],
    num_classes: int,
    bn_batch: int | None = None,
    dtype: Any = jnp.float32,
    bn_axis_name: str | None = None,
) -> nn.Module:
    """The module that a config's ``model`` section describes.

    Args:
      config: ``name``, a key of :data:`MODELS`, and fields of that model's class.
      num_classes: number of logits.
      bn_batch: b, examples that share batch statistics in training; None: all of the micro-batch.
      dtype: dtype of the computation.
      bn_axis_name: mesh axis that batch statistics span in training; None: no other device.

    Raises:
      UserError: unknown name or field, or a value of another type than the field's default.
    """
    fields = dict(config)
    name = fields.pop("name", None)
    if name not in MODELS:
        raise UserError("config.model.name", f"unknown model {name!r}", _nearest(str(name), MODELS))
    spec, defaults = MODELS[name], _fields(MODELS[name])
    for field, value in fields.items():
        if field in _SET_ELSEWHERE:
            raise UserError(f"config.model.{field}", "is not set here", _SET_ELSEWHERE[field])
        if field in spec.build.keywords:
            fixed = spec.build.keywords[field]
            raise UserError(
                f"config.model.{field}", "is not set here", f"{name} stands for {fixed!r}."
            )
        if field not in defaults:
            raise UserError(
                f"config.model.{field}", f"{name} has no such field", _nearest(field, defaults)
            )
        allowed = ranges_of(spec.build.func).get(field)
        _check(f"config.model.{field}", value, defaults[field], allowed)
        if isinstance(defaults[field], tuple):
            fields[field] = tuple(value)
    return spec.build(
        **fields,
        num_classes=num_classes,
        bn_batch=bn_batch,
        bn_axis_name=bn_axis_name,
        dtype=dtype,
    )


def model_fields(name: str) -> dict[str, Any]:
    """The fields that a config's ``model`` section may set, with their defaults.

    Raises:
      UserError: unknown name.
    """
    if name not in MODELS:
        raise UserError("config.model.name", f"unknown model {name!r}", _nearest(name, MODELS))
    return _fields(MODELS[name])


class ModelDescription(NamedTuple):
    """One row of ``sbt list``: ``parameters`` counted for ``input_shape`` and ``num_classes``."""

    name: str
    parameters: int
    input_shape: tuple[int, int, int]
    num_classes: int
    source: str
    doc: str


def describe_models() -> list[ModelDescription]:
    """Every model with its parameter count for its standard data and its source."""
    rows = []
    for name, spec in MODELS.items():
        module = spec.build(num_classes=spec.num_classes)
        x = jax.ShapeDtypeStruct((1, *spec.input_shape), jnp.float32)
        init = functools.partial(module.init, train=False)
        params = jax.eval_shape(init, jax.random.key(0), x)["params"]
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        rows.append(
            ModelDescription(name, count, spec.input_shape, spec.num_classes, spec.source, spec.doc)
        )
    return rows


def _fields(spec: ModelSpec) -> dict[str, Any]:
    """What a config may set of a model, with defaults; not what its name already says."""
    module: Any = spec.build.func
    return {
        f.name: f.default
        for f in dataclasses.fields(module)
        if f.name not in (*_SET_ELSEWHERE, *spec.build.keywords, "parent", "name")
    }


_SIZES, _RATES = Range(1, 2**16), BELOW_ONE  # whole numbers; dropout and the like


def _check(field: str, value: Any, default: Any, allowed: Range | None = None) -> None:
    """Refuses what cannot stand where a field's default does; ints may stand for floats."""
    if isinstance(default, tuple):
        if isinstance(value, str) or not isinstance(value, Sequence):
            remedy = f"give a tuple, such as {default!r}"
            raise UserError(field, f"{shown(value)} is not a tuple", remedy)
        if isinstance(default[0], float) and len(value) != len(default):
            remedy = f"give {len(default)}, such as {default!r}"
            raise UserError(field, f"{shown(value)} has {len(value)} values", remedy)
        for item in value:
            _check(field, item, default[0], allowed)
    elif isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            kind = "True or False" if isinstance(default, bool) else "a text"
            remedy = f"give {kind}, such as {default!r}"
            raise UserError(field, f"{shown(value)} does not fit", remedy)
    else:
        whole = isinstance(default, int)
        try:
            check_number(field, value, allowed or (_SIZES if whole else _RATES), whole=whole)
        except UserError as error:
            remedy = f"{error.remedy}, such as {default!r}"
            raise UserError(field, error.problem, remedy) from None


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known)}."
