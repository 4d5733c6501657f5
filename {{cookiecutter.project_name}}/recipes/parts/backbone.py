from pantry.models import find_backbone  # noqa
