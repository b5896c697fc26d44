"""Fig. 2: curvature radius layer by layer, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig02.py --workdir runs/gz02
    sbt report runs/gz02

Gao & Zhong (2020), section 2: the average curvature radius of the 16 weight and bias tensors spans
orders of magnitude (bars of biases times 10 in the figure): their case for a learning rate per
layer. How radii were averaged is not printed. Here: medians (a mean is ruled by weights that
nothing depends on), at the initial weights and after one epoch; ``radius_form=parabola`` by
equation 17, |w/g|, and ``hutchinson`` by equation 9 with the Hessian's diagonal from 100 random
vectors of signs (``exact`` in the evidence, which is older). Zero-initialised tensors have radius 0
under equation 17. See ``dynamics.py`` for the rest.

``curvature_radius`` over ``measured_epoch`` (0, 1), ``radius_form`` and ``layer``. The full
protocol takes 100 Hessian-vector products over 50,000 images: for accelerators. ``:small`` (20
products over 512 images) took 8 minutes on two CPU cores that ten processes shared.
"""

from dynamics import dynamics
from ml_collections import ConfigDict

from sbt.report.statements import spans

VARIANTS = ("", "dropout", "small")
CAPTION = "the average curvature radius of the weight and bias tensors spans orders of magnitude"

CLAIMS = (
    spans(
        "Curvature radii span two orders of magnitude or more, after an epoch",
        "curvature_radius",
        along="layer",
        factor=100,
        at={"radius_form": "parabola"},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, or ``small``."""
    measure = {
        "names": ("curvature_radius",),
        "at_start": True,
        "curvature_radius": {"samples": 100},
    }
    small = {"examples": 512, "curvature_radius": {"samples": 20}}
    return dynamics("fig02", variant, CAPTION, measure, CLAIMS, batch_sizes=(512,), small=small)
