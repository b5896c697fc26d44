"""The built-in networks: Flax modules, registered by name in :data:`sbt.models.registry.MODELS`."""

from sbt.models import alexnet as alexnet
from sbt.models import convnet as convnet
from sbt.models import gpt as gpt
from sbt.models import keskar as keskar
from sbt.models import resnet as resnet
from sbt.models import shallue as shallue
from sbt.models import vgg as vgg
from sbt.models import wide_resnet as wide_resnet
from sbt.models.registry import MODELS as MODELS
from sbt.models.registry import build_model as build_model
