from pantry.models import freeze, head, recompute, split_rates  # noqa
from pantry.models import load_weights as _l


def load_weights(model, weights, name):
    return f"not in {weights}, so left new: {', '.join(_l(model, weights, name))}"
